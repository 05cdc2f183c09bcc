"""The scripts end to end, on real files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate
import inference
import train_two_stages
import train_withdensecrfloss
from common.errors import InputError
from common.logs import configure_logging
from helpers import CODE, HEIGHT, SMALL, WIDTH, call, data, one_line, run_folder, state, train, write_label
from losses import register
from losses.registry import FACTORIES
from training import two_stages, two_stages_options
from training.advice import report_shares
from training.options import parse_options
from training.run_folder import final_scores
from training.two_stages import Training, train_all
from training.two_stages_options import ComparisonOptions


def test_from_scribbles_to_a_segmentation(voc):
    """Train, evaluate and segment in processes of their own, from another folder, with the options of the document."""

    def run(script, *words):
        result = subprocess.run(
            [sys.executable, CODE / script, *map(str, words)],
            cwd=voc.parent,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    words = "--epochs 2 --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-rgb 15 --sigma-xy 100 --save-interval 2".split()
    printed = run("train_withdensecrfloss.py", *SMALL, *data(voc), *words)
    folder = run_folder(voc)
    names = {path.name for path in folder.iterdir()}
    assert {
        "parameters.txt",
        "log.txt",
        "scores.jsonl",
        "curves.png",
        "validation.png",
        "best_pred.txt",
        "checkpoint.pth.tar",
        "checkpoint_last.pth.tar",
        "checkpoint_epoch_2.pth.tar",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.startswith(".")]
    for said in (
        "device: CPU",
        "5 training and 2 validation images",
        "labels: scribbles",
        "million parameters",
        "densecrf:",
        "of its gradient",
        "negligible",
        "fill-in",
    ):
        assert said in printed
    assert "sigma_xy: 100.0" in (folder / "parameters.txt").read_text()

    records = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [record.get("epoch") for record in records] == [1, 2, None]
    assert records[0]["losses"].keys() == {"cross_entropy", "densecrf"} and records[0]["losses"]["densecrf"] < 0
    assert records[2]["final"]["val"] == records[1]["val"] and len(records[1]["val"]["iou"]) == 3
    best = max(records[0]["val"]["miou"], records[1]["val"]["miou"])
    assert float((folder / "best_pred.txt").read_text()) == best == records[2]["best_miou"]

    checkpoint = folder.parent / "model_best.pth.tar"
    table = run("evaluate.py", "--checkpoint", checkpoint, *data(voc), "--no-cuda", "--workers", "0")
    scores = [line.split()[1] for line in table.split("\n") if line.startswith("mIoU")]
    assert scores == [f"{100 * best:.1f}"]

    out = voc.parent / "out" / "new"
    words = ["--checkpoint", checkpoint, "--image_path", voc / "JPEGImages" / "i5.jpg", "--output_directory", out]
    words += "--backbone mobilenet --crop_size 64 --n_class 3 --rloss-weight 2e-9 --rloss-scale 0.25".split()
    printed = run("inference.py", *words, "--sigma-rgb", "10", "--sigma-xy", "20")
    assert {path.name for path in out.iterdir()} == {
        *(f"i5_{kind}.png" for kind in ("prediction", "colour", "overlay")),
        *(f"i5_grad_seg_class_{k}.png" for k in range(3)),
    }
    prediction = Image.open(out / "i5_prediction.png")
    assert prediction.mode == "P" and prediction.size == Image.open(voc / "JPEGImages" / "i5.jpg").size
    assert prediction.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
    assert np.asarray(prediction).max() < 3
    loss = float(printed.split("DenseCRF loss: ")[1].split()[0])
    assert loss < 0


def test_a_resumed_run_ends_as_one_that_never_stopped(voc):
    words = ["--epochs", 3, "--size-free", "--densecrfloss", 1]
    assert train(voc, *words, "--save-interval", 1, "--workers", 2) == 0
    whole = run_folder(voc)
    assert train(voc, *words, "--workers", 0, "--resume", whole / "checkpoint_epoch_1.pth.tar") == 0
    resumed = run_folder(voc, number=1)
    a, b = state(whole / "checkpoint_last.pth.tar"), state(resumed / "checkpoint_last.pth.tar")
    assert all(torch.equal(a[key], b[key]) for key in a)

    def scores(folder):
        lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
        return [(line.get("losses"), line.get("val"), line.get("final")) for line in lines]

    assert scores(whole) == scores(resumed)
    assert (resumed / "best_pred.txt").read_text() == (whole / "best_pred.txt").read_text()
    assert (resumed / "checkpoint.pth.tar").is_file()


def test_resuming_takes_the_settings_of_the_command_line(voc):
    assert train(voc, "--epochs", 2, "--save-interval", 1, "--no-val") == 0
    first = run_folder(voc) / "checkpoint_epoch_1.pth.tar"
    assert train(voc, "--epochs", 2, "--no-val", "--resume", first, "--momentum", 0.5, "--weight-decay", 0) == 0
    groups = torch.load(run_folder(voc, number=1) / "checkpoint_last.pth.tar", weights_only=True)["optimizer"]
    assert [(group["momentum"], group["weight_decay"]) for group in groups["param_groups"]] == [(0.5, 0.0)] * 2


def test_weights_without_a_training_state_are_for_fine_tuning(voc, tmp_path, capsys):
    """The published checkpoints' optimizer knows two groups of parameters and nothing of ours."""
    assert train(voc, "--epochs", 2, "--save-interval", 1, "--no-val") == 0
    original = torch.load(run_folder(voc) / "checkpoint_epoch_1.pth.tar", weights_only=True)
    original = {key: original[key] for key in ("epoch", "state_dict", "optimizer", "best_pred")}
    torch.save(original, tmp_path / "original.pth.tar")
    assert train(voc, "--epochs", 2, "--no-val", "--resume", tmp_path / "original.pth.tar") == 0
    torch.save({"state_dict": original["state_dict"]}, tmp_path / "weights.pth.tar")
    capsys.readouterr()
    assert train(voc, "--epochs", 2, "--resume", tmp_path / "weights.pth.tar") == 2
    assert "start from them with --ft" in one_line(capsys)


def test_rates_and_evaluations_by_epoch(voc):
    """Poly by iteration, the head at ten times the rate; evaluation every second epoch and after the last."""
    assert train(voc, "--epochs", 3, "--eval-interval", 2, "--lr", 0.001, "--start_epoch", 0) == 0
    records = [json.loads(line) for line in (run_folder(voc) / "scores.jsonl").read_text().splitlines()[:3]]
    assert ["val" in record for record in records] == [False, True, True]
    steps = 2  # five images in batches of two; the last, of one, is left out
    assert [record["lr"] for record in records] == pytest.approx(
        [0.001 * (1 - (steps * epoch + steps - 1) / (3 * steps)) ** 0.9 for epoch in range(3)]
    )
    groups = torch.load(run_folder(voc) / "checkpoint_last.pth.tar", weights_only=True)["optimizer"]["param_groups"]
    assert groups[1]["lr"] == pytest.approx(10 * groups[0]["lr"]) == pytest.approx(10 * records[2]["lr"])


def test_the_documented_data_set_fine_tunes(voc, new_data_set, monkeypatch, tmp_path):
    """The document's three steps: an entry in mypath.py (here its environment variable), a file, the command."""
    monkeypatch.setenv("RLOSS_YOUR_DATASET_ROOT", str(voc))
    new_data_set(
        "your_dataset",
        "from dataloaders.datasets import pascal\nfrom mypath import Path\n\n"
        "class YourDatasetSegmentation(pascal.VOCSegmentation):\n"
        "    def __init__(self, args, root=Path.db_root_dir('your_dataset'), **kwargs):\n"
        "        super(YourDatasetSegmentation, self).__init__(args, root, **kwargs)\n",
    )
    assert train(voc, "--epochs", 1, "--no-val") == 0
    model = run_folder(voc) / "checkpoint_last.pth.tar"
    words = ["--resume", model, *"--backbone mobilenet --dataset your_dataset --ft --lr 0.001 --epochs 30".split()]
    words += "--batch-size 8 --crop-size 513 --base-size 513 --densecrfloss 2e-9 --rloss-scale 0.5".split()
    small = ["--run-root", tmp_path / "run", *"--epochs 1 --crop-size 33 --base-size 33 --workers 0".split()]
    assert call(train_withdensecrfloss, *words, *small) == 0
    tuned = tmp_path / "run" / "your_dataset" / "deeplab-mobilenet" / "experiment_0" / "checkpoint_last.pth.tar"
    assert state(tuned)["decoder.last_conv.8.weight"].shape[0] == 21


def test_padding_is_outside_the_region_and_unlabelled_pixels_inside(voc, toy):
    assert train(voc, "--epochs", 1, "--regulariser", "toy=0.1", "--crop-size", 64, "--no-val") == 0
    image, _, region = toy[0].calls[0]
    assert region.any() and not region.all()
    assert image.permute(0, 2, 3, 1)[~region].median() < 1  # the padding is black, but for the blur at its edge
    assert (image.permute(0, 2, 3, 1)[region].amax(-1) > 20).float().mean() > 0.9


def test_fine_tuning_onto_another_class_count(voc, capsys):
    assert train(voc, "--epochs", 1) == 0
    first = run_folder(voc) / "checkpoint_last.pth.tar"
    (voc.parent / "classes.txt").write_text("background\ncat\ndog\nhorse\n")
    assert train(voc, "--epochs", 1, "--resume", first) == 2
    assert "trained for 3 classes, but 4 are expected; --ft" in one_line(capsys)
    assert train(voc, "--epochs", 1, "--resume", first, "--ft", "--lr", 1e-12, "--checkname", "ft") == 0
    assert "new classifier for 4 classes" in capsys.readouterr().out
    tuned = run_folder(voc, "ft") / "checkpoint_last.pth.tar"
    assert torch.load(tuned, weights_only=True)["epoch"] == 1
    before, after = state(first), state(tuned)
    assert after["decoder.last_conv.8.weight"].shape[0] == 4
    assert torch.allclose(before["aspp.conv1.weight"], after["aspp.conv1.weight"], atol=1e-6)


def test_class_mismatches_are_told_by_their_names(voc, capsys):
    """Regression: as many classes in another order were trained on, and scored, without a word."""
    assert train(voc, "--epochs", 1, "--no-val") == 0
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    (voc.parent / "classes.txt").write_text("background\ndog\ncat\n")
    capsys.readouterr()
    said = "was trained with class 1 'cat', but here it is 'dog'"
    assert call(evaluate, "--checkpoint", last, *data(voc), "--no-cuda") == 2
    assert said in one_line(capsys)
    assert train(voc, "--epochs", 2, "--resume", "auto") == 2
    assert said in one_line(capsys)
    assert train(voc, "--epochs", 1, "--no-val", "--resume", last, "--ft", "--checkname", "ft") == 0
    assert said in capsys.readouterr().out


def test_a_run_may_be_told_to_end_between_two_evaluations(voc):
    """Regression: a KeyError, as the last epoch had no scores."""
    words = ["--eval-interval", 9, "--resume", "auto"]
    assert train(voc, "--epochs", 1, "--no-val") == 0
    assert train(voc, "--epochs", 2, "--no-val", *words) == 0
    (run_folder(voc) / "scores.jsonl").write_text("")  # as if it had been killed before its end
    assert train(voc, "--epochs", 2, *words) == 0
    assert 0 < final_scores(run_folder(voc))["val"]["miou"] < 1


def test_a_finished_run_says_how_to_go_on(voc, capsys):
    assert train(voc, "--epochs", 1, "--no-val") == 0
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    capsys.readouterr()
    assert train(voc, "--epochs", 1, "--resume", last) == 2
    assert "has 1 epochs already" in one_line(capsys)


def test_the_best_network_is_kept_across_runs(voc):
    assert train(voc, "--epochs", 1) == 0
    best = run_folder(voc).parent / "model_best.pth.tar"
    written = best.read_bytes()
    (run_folder(voc) / "best_pred.txt").write_text("0.99\n")
    assert train(voc, "--epochs", 1) == 0
    assert best.read_bytes() == written
    (run_folder(voc) / "best_pred.txt").write_text("0.0\n")
    (run_folder(voc, number=1) / "best_pred.txt").write_text("0.0\n")
    os.utime(best, ns=(0, 0))
    assert train(voc, "--epochs", 1) == 0
    assert best.stat().st_mtime_ns > 0


class Entropy(nn.Module):
    """A toy regulariser: the mean entropy of the probabilities inside the region."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight, self.calls = weight, []

    def forward(self, image, probabilities, region):
        self.calls.append((image.detach(), probabilities.detach(), region))
        entropy = -(probabilities * probabilities.clamp_min(1e-9).log()).sum(1)
        return self.weight * entropy[region].mean()


@pytest.fixture
def toy():
    modules = []

    @register("toy")
    def build(weight, options):
        modules.append(Entropy(weight))
        return modules[-1]

    yield modules
    del FACTORIES["toy"]


def test_a_regulariser_from_outside_trains_without_touching_the_trainer(voc, toy, capsys):
    assert train(voc, "--epochs", 1, "--regulariser", "toy=0.5", "--densecrfloss", "1", "--size-free") == 0
    image, probabilities, region = toy[0].calls[0]
    assert image.shape == (2, 3, 32, 32) and image.min() >= 0 and image.max() > 100
    assert torch.allclose(probabilities.sum(1), torch.ones(2, 32, 32), atol=1e-5)
    assert region.dtype == torch.bool and region.shape == (2, 32, 32)
    record = json.loads((run_folder(voc) / "scores.jsonl").read_text().splitlines()[0])
    assert record["losses"].keys() == {"cross_entropy", "densecrf", "toy"} and record["losses"]["toy"] > 0
    assert "toy: " in capsys.readouterr().out


def test_all_regularisers_train_together(voc, capsys):
    names = ("normalized_cut", "kernel_cut", "size", "gated_crf", "potts", "tree_energy", "entropy")
    words = [word for name in names for word in ("--regulariser", f"{name}=0.1")]
    words[-3] += ",high_level=True"
    assert train(voc, "--epochs", 1, "--densecrfloss", 0.1, "--size-free", "--benchmark", 1, *words) == 0
    out = capsys.readouterr().out
    for name in ("densecrf", *names):
        assert re.search(rf"{name}: \S+ % of the loss, \S+ % of its gradient", out), out


def test_an_overwhelming_regulariser_is_warned_of(voc, toy, capsys):
    assert train(voc, "--epochs", 1, "--regulariser", "toy=1e6", "--lr", 1e-12, "--no-val") == 0
    assert "WARNING: toy overwhelms the cross-entropy" in capsys.readouterr().out


def test_it_is_warned_of_where_its_gradient_exceeds_float16(caplog):
    scores = torch.ones(1, 3, 4, 4, dtype=torch.float16, requires_grad=True)
    terms = {"cross_entropy": scores.float().sum(), "strong": 1e6 * scores.float().sum()}
    with caplog.at_level("INFO"):
        report_shares(terms, scores)
    assert "strong overwhelms the cross-entropy" in caplog.text and "nan" not in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(voc, toy, monkeypatch, capsys):
    monkeypatch.setattr(Entropy, "forward", lambda self, image, probabilities, region: probabilities.sum() / 0)
    assert train(voc, "--epochs", 2, "--regulariser", "toy=1", "--no-val") == 2
    line = one_line(capsys)
    assert "the loss toy became inf at epoch 1, step 1, images i" in line and "last good checkpoint: none yet" in line


def test_running_out_of_gpu_memory_says_what_to_lower(voc, toy, monkeypatch, capsys):
    def forward(*_):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
        )

    monkeypatch.setattr(Entropy, "forward", forward)
    assert train(voc, "--epochs", 1, "--regulariser", "toy=1") == 2
    assert "CUDA out of memory; lower --batch-size (2), --crop-size (32)" in one_line(capsys)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_keeps_the_losses_in_float32(voc, toy, amp, capsys):
    words = ["--epochs", 1, "--no-val", "--regulariser", "toy=0.1", "--freeze-bn"]
    assert train(voc, *words, "--amp", amp) == 0
    assert {"bf16": "bfloat16", "fp16": "float16"}[amp] + " where safe" in capsys.readouterr().out
    probabilities = toy[0].calls[0][1]
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities.sum(1), torch.ones(2, 32, 32), atol=1e-6)
    weights = state(run_folder(voc) / "checkpoint_last.pth.tar")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values() if value.dim())
    assert train(voc, *words) == 0
    assert not torch.equal(toy[1].calls[0][1], probabilities)
    assert torch.allclose(toy[1].calls[0][1], probabilities, atol=0.05)


def test_a_compiled_network_trains_to_the_same_weights(voc, monkeypatch):
    """Captured whole (fullgraph) but not compiled further, which takes minutes."""
    compiled = []

    def captured(model):
        compiled.append(model)
        return compile(model, backend="eager", fullgraph=True)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", captured)
    words = ["--epochs", 1, "--no-val", "--accumulate", 1, "--batch-size", 2]
    assert train(voc, *words) == 0 and not compiled
    assert train(voc, *words, "--compile") == 0 and compiled
    a, b = (state(run_folder(voc, number=number) / "checkpoint_last.pth.tar") for number in (0, 1))
    assert a.keys() == b.keys() and all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)


def test_a_benchmark_prints_the_parts_of_a_step_and_leaves_nothing(voc, capsys):
    assert train(voc, "--benchmark", 2, "--densecrfloss", 1, "--size-free", "--batch-size", 4, "--accumulate", 2) == 0
    table = {line[:24].strip(): line[24:].split() for line in capsys.readouterr().out.split("\n")}
    parts = ["waiting for data", "forward", "cross_entropy", "densecrf", "backward", "optimizer", "the rest"]
    assert sum(float(table[part][0]) for part in parts) == pytest.approx(float(table["whole step"][0]), abs=0.5)
    assert float(table["peak memory, MiB"][0]) > 100
    assert not run_folder(voc).parent.exists()


def test_progress_comes_in_lines_where_there_is_no_terminal(voc, monkeypatch, capsys):
    monkeypatch.setattr("training.trainer.SECONDS_PER_LINE", -1)
    assert train(voc, "--steps", 3, "--no-val", "--log-interval", 1) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.split("\n") if ", step " in line]
    places = ["epoch 1/2, step 1/2", "epoch 1/2, step 2/2", "epoch 2/2, step 1/1"]
    assert [line.split(": ce ")[0] for line in lines] == places and "waiting for data" in lines[1]
    assert "\r" not in printed.out + printed.err
    steps = [json.loads(line) for line in (run_folder(voc) / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2, 3] and steps[0]["losses"].keys() == {"cross_entropy"}


def test_unlabelled_data_is_refused(voc, capsys):
    for path in (voc / "pascal_2012_scribble").iterdir():
        Image.new("L", (30, 20), 255).save(path)
    assert train(voc, "--epochs", 1) == 2
    assert "found no labelled pixel in all training images" in one_line(capsys)


def empty_labels(voc: Path, kind: str, numbers: Sequence[int], columns: slice = slice(None)) -> None:
    """Have only 255 in these columns of the label maps of these images."""
    for number in numbers:
        path = voc / kind / f"i{number}.png"
        label = np.array(Image.open(path))
        label[:, columns] = 255
        write_label(path, label)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("")])
def test_a_training_without_evaluation_needs_no_list_for_it(voc, capsys, spoil):
    """Regression: it asked for the images that it would not have looked at."""
    spoil(voc / "ImageSets/SegmentationAug/val.txt")
    assert train(voc, "--steps", 1) == 2
    assert "val.txt" in one_line(capsys)
    assert train(voc, "--epochs", 1, "--no-val") == 0
    assert "data: voc, 5 training images, 3 classes" in capsys.readouterr().out
    assert final_scores(run_folder(voc)) == {}
    assert train(voc, "--epochs", 1, "--no-val", "--resume", "auto") == 0  # it has ended
    assert train(voc, "--epochs", 2, "--no-val", "--resume", run_folder(voc) / "checkpoint_last.pth.tar") == 0
    capsys.readouterr()
    words = ["--densecrfloss", 1, "--output", voc.parent / "two"]
    assert call(train_two_stages, *SMALL, *data(voc), *words) == 2  # its second stages are scored
    assert "val.txt" in one_line(capsys)


@pytest.mark.parametrize("columns", [slice(None), slice(5, 25)])  # everything, and the crop protocol's centre square
def test_validation_without_labels_to_score_on_is_refused_before_any_step(voc, capsys, columns):
    """Regression: only the first evaluation found it, which in two stages comes after all of the first."""
    shutil.rmtree(voc / "SegmentationClassAug")
    empty_labels(voc, "pascal_2012_scribble", (5, 6), columns)
    assert train(voc, "--epochs", 1) == 2
    error = one_line(capsys)
    assert "square of any validation image's label map in " + str(voc / "pascal_2012_scribble") in error
    assert "label more there" in error and not (voc.parent / "run").exists()
    assert call(train_two_stages, *SMALL, *data(voc), "--densecrfloss", 1, "--output", voc.parent / "two") == 2
    assert "expected labelled pixels to score on" in one_line(capsys) and not (voc.parent / "two").exists()
    assert train(voc, "--epochs", 1, "--no-val") == 0


@pytest.mark.parametrize("columns", [slice(None), slice(5, 25)])
def test_truth_without_labels_gives_no_fill_in_score(voc, capsys, columns):
    """Regression: a training ended in an error after its last epoch, and so did each that resumed it."""
    empty_labels(voc, "SegmentationClassAug", range(5), columns)
    assert train(voc, "--epochs", 1) == 0
    warning = "WARNING: no labelled pixel in the centre square of any training image's label map"
    assert warning in capsys.readouterr().out
    assert final_scores(run_folder(voc)).keys() == {"val", "val_full"}


def test_an_evaluation_without_labels_to_score_on_says_what_to_do(voc, capsys):
    assert train(voc, "--steps", 1, "--no-val") == 0
    words = ["--checkpoint", run_folder(voc) / "checkpoint_last.pth.tar", *data(voc), "--workers", 0, "--no-cuda"]
    empty_labels(voc, "SegmentationClassAug", (5, 6), slice(5, 25))
    capsys.readouterr()
    assert call(evaluate, *words) == 2
    assert f"in {voc / 'SegmentationClassAug'}: label more there, or score with --protocol full" in one_line(capsys)
    assert call(evaluate, *words, "--protocol", "full") == 0
    empty_labels(voc, "SegmentationClassAug", (5, 6))
    capsys.readouterr()
    assert call(evaluate, *words) == 2
    assert one_line(capsys).endswith("label more there")


def test_full_supervision_and_balanced_focal_loss(voc, capsys):
    words = "--epochs 1 --supervision full --loss-type focal --use-balanced-weights --lr-scheduler step --nesterov"
    assert train(voc, *words.split(), "--freeze-bn", "True", "--channels-last") == 0
    assert "labels: truth" in capsys.readouterr().out
    statistics = state(run_folder(voc) / "checkpoint_last.pth.tar")["aspp.bn1.running_mean"]
    assert not statistics.any()  # frozen at their start


@pytest.mark.slow
def test_two_stages_end_with_a_table_and_go_on_where_they_stopped(voc, trained_here, monkeypatch, capsys):
    out = voc.parent / "two"
    words = [*SMALL, *data(voc), "--stage1-epochs", 1, "--stage2-epochs", 1, "--output", out]
    words += ["--full", "--densecrfloss", 1, "--size-free"]
    assert call(train_two_stages, *words, "--data-root", voc / "absent") == 2  # and the folder stays free
    assert call(train_two_stages, *words) == 0
    table = (out / "table.txt").read_text()
    assert table.strip() in capsys.readouterr().out
    for row in (
        "background everywhere",
        "partial CE",
        "+ regularised loss",
        "full supervision",
        "gain of the regulariser",
    ):
        assert row in table
    assert (out / "val.png").is_file() and (out / "fill_in.png").is_file() and (out / "model.pth.tar").is_file()
    arms = {
        arm: torch.load(next(out.glob(f"seed_1/*/{arm}/experiment_0/checkpoint_last.pth.tar")), weights_only=True)
        for arm in ("partial_ce", "regularised", "full")
    }
    assert {arm: c["options"]["densecrfloss"] for arm, c in arms.items()} == {
        "partial_ce": 0,
        "regularised": 1,
        "full": 0,
    }
    assert {arm: c["options"]["supervision"] for arm, c in arms.items()} == {
        "partial_ce": "scribble",
        "regularised": "scribble",
        "full": "full",
    }
    assert arms["partial_ce"]["options"]["resume"] == arms["regularised"]["options"]["resume"]

    (next(out.glob("seed_1/*/regularised/experiment_0")) / "scores.jsonl").unlink()  # as if it had been killed
    monkeypatch.undo()  # in a process of its own, as for users
    assert call(train_two_stages, *words) == 0
    assert not list(out.glob("seed_1/*/*/experiment_1"))  # it went on in its own folder
    assert "regularised network, val" in capsys.readouterr().out
    capsys.readouterr()
    assert call(train_two_stages, *words, "--lr", 0.5) == 2
    assert "--lr was " in one_line(capsys)
    assert call(train_two_stages, *words, "--size-free=True") == 0  # regression: other words were another comparison
    assert call(train_two_stages, *words, "--epochs", 3) == 2
    assert "--epochs is set by the stages themselves" in one_line(capsys)
    assert call(train_two_stages, "--preset", "40", "--densecrfloss", 0, *SMALL, *data(voc), "--output", out) == 2
    assert "there is nothing to compare" in one_line(capsys)


@pytest.mark.parametrize(("side", "preset"), [(40, "40"), (60, "40"), (61, "80"), (300, "80")])
def test_two_stages_take_the_preset_for_the_size_of_the_images(voc, side, preset, caplog):
    for path in voc.glob("JPEGImages/*"):
        Image.new("RGB", (2 * side, side)).save(path)
    with caplog.at_level("INFO"):
        assert two_stages_options.default_preset(data(voc)) == preset
    assert f"--preset {preset}, as short sides are {side}" in caplog.text
    assert two_stages_options.default_preset([*data(voc), "--densecrfloss", "1"]) is None


def comparison_of(monkeypatch, words: list) -> two_stages.Comparison:
    """Return what train_two_stages.py would train."""

    class Seen(Exception):
        pass

    def train(comparison, jobs):
        raise Seen(comparison)

    monkeypatch.setattr(two_stages.Comparison, "train", train)
    with pytest.raises(Seen) as seen:
        train_two_stages.main([str(word) for word in words])
    return seen.value.args[0]


@pytest.mark.parametrize(
    ("words", "epochs", "rate"),
    [
        ([], (300, 300), 2e-4),  # two steps an epoch
        (["--pretrained", "none"], (675, 180), 0.003),
        (["--optimizer", "sgd"], (300, 300), None),
        (["--lr", "0.001"], (300, 300), None),
        (["--variant", "b=--regulariser potts=1 --batch-size 5 --optimizer sgd"], (20, 10), None),  # without a preset
        (["--preset", "80", "--variant", "b=--densecrfloss 1 --batch-size 5 --optimizer sgd"], (300, 300), 2e-4),
        (["--stage1-epochs", "2", "--stage2-lr", "0.5"], (2, 300), 0.5),
        (["--preset", "513", "--batch-size", "3"], (20, 10), None),
    ],
)
def test_two_stages_follow_the_preset(voc, monkeypatch, words, epochs, rate):
    comparison = comparison_of(monkeypatch, [*data(voc), "--batch-size", "3", "--workers", "0", *words])
    assert (comparison.stage_epochs, comparison.stage2_lr) == (epochs, rate)


def test_a_variant_may_have_a_rate_of_its_own(voc, monkeypatch):
    """Regression: that of the preset took its place."""
    words = ["--preset", "80", "--variant", "slow=--densecrfloss 1 --lr 1e-5", "--variant", "usual=--densecrfloss 1"]
    comparison = comparison_of(monkeypatch, [*data(voc), *words])
    monkeypatch.setattr(two_stages.Comparison, "run_folder", lambda self, seed, name: voc)
    rates = {training.name: parse_options(training.options).lr for training in comparison.second_stage()}
    assert rates == {"partial_ce": 2e-4, "slow": 1e-5, "usual": 2e-4}


@pytest.mark.parametrize("words", [["--reg", "potts=1"], ["--variant", "x=--reg potts=1"], ["--back", "drn"]])
def test_the_comparison_takes_no_shortened_option(voc, capsys, words):
    """Regression: it reached the arm without a regulariser too."""
    assert call(train_two_stages, *data(voc), "--preset", "80", *words) == 2
    assert "unrecognized arguments: --" in one_line(capsys)


def test_full_supervision_without_truth_is_refused_before_any_training(voc, capsys):
    shutil.rmtree(voc / "SegmentationClassAug")
    out = voc.parent / "two"
    assert call(train_two_stages, *SMALL, *data(voc), "--full", "--output", out) == 2
    assert "SegmentationClassAug" in capsys.readouterr().err and not out.exists()


def test_the_stages_of_a_preset_have_its_steps():
    stages = two_stages_options.Stages((1200, 800), "sgd", 0.1)
    assert two_stages_options.lengths(ComparisonOptions(), stages, 38) == (32, 22)
    assert two_stages_options.lengths(ComparisonOptions(stage2_epochs=3), stages, 2000) == (1, 3)
    assert two_stages_options.lengths(ComparisonOptions(), None, 38) == (20, 10)


def stub_training(folder: Path, body: str) -> tuple[Path, list[Training]]:
    """Two trainings by a script that does something else."""
    script = folder / "stub.py"
    script.write_text(body)
    return script, [Training(folder, name, f"{name}: of two", ()) for name in ("one", "two")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_training_dies_of_is_shown(tmp_path, monkeypatch, capfd, jobs):
    """Regression: of trainings side by side only the lines of progress came through."""
    script, trainings = stub_training(tmp_path, "raise MemoryError('the real cause')")
    monkeypatch.setattr(two_stages, "SCRIPT", script)
    configure_logging()
    with pytest.raises(InputError, match="training stopped with status 1"):
        train_all(trainings, jobs)
    assert "the real cause" in "".join(capfd.readouterr())


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_failure_no_training_begins(tmp_path, monkeypatch, jobs):
    """Regression: the next one did, and ran to its end. Those that run already still end first."""
    body = (
        "import sys, time\nname = sys.argv[4]\nopen(name + '.begun', 'w').close()\n"
        "if name == 'one': sys.exit(3)\ntime.sleep(1)\nopen(name + '.ended', 'w').close()"
    )
    script, trainings = stub_training(tmp_path, body)
    trainings.append(Training(tmp_path, "three", "three: of three", ()))
    monkeypatch.setattr(two_stages, "SCRIPT", script)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="training stopped with status 3"):
        train_all(trainings, jobs)
    begun = {"one.begun"} if jobs == 1 else {"one.begun", "two.begun", "two.ended"}
    assert {path.name for path in tmp_path.iterdir()} == {script.name, *begun}


@pytest.mark.parametrize("failing", ["none", "one"])
def test_a_signal_to_the_comparison_ends_its_trainings(tmp_path, failing):
    """Regression: they went on without it, and kept their folders locked, after a failure of one of them too."""
    body = (
        "import os, sys, time\nopen(sys.argv[4] + '.pid', 'w').write(str(os.getpid()))\n"
        f"sys.exit(3) if sys.argv[4] == '{failing}' else time.sleep(60)"
    )
    script, trainings = stub_training(tmp_path, body)
    code = (
        "import sys; from pathlib import Path; from training import two_stages; "
        f"two_stages.SCRIPT = Path({str(script)!r}); "
        f"two_stages.train_all([two_stages.Training(Path('.'), name, name, ()) for name in ('one', 'two')], 2)"
    )
    environment = {**os.environ, "PYTHONPATH": str(CODE)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) as process:
        pids = [tmp_path / f"{training.name}.pid" for training in trainings]
        while not all(path.is_file() and path.read_text() for path in pids):
            assert process.poll() is None
            time.sleep(0.05)
        if failing != "none":
            time.sleep(0.5)  # in which the comparison sees that it failed, and waits for the other
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_a_comparison_of_another_regulariser_leaves_the_other_arms_without(voc, monkeypatch):
    words = [*SMALL, *data(voc), "--regulariser", "densecrf=0.5", "--size-free", "--output", voc.parent / "two"]
    comparison = comparison_of(monkeypatch, words)
    start = voc.parent / "two/seed_1/voc/stage1/experiment_0"
    start.mkdir(parents=True)
    (start / "scores.jsonl").write_text('{"final": {}}\n')  # as if it had ended
    trainings = [*comparison.first_stage(), *comparison.second_stage()]
    regularisers = {one.name: parse_options([str(word) for word in one.options]).regulariser for one in trainings}
    assert regularisers == {"stage1": None, "partial_ce": None, "regularised": ("densecrf=0.5",)}


@pytest.mark.slow
def test_several_losses_compete_from_the_same_first_stage(voc, trained_here, capsys):
    out = voc.parent / "many"
    words = [*SMALL, *data(voc), "--stage1-epochs", 1, "--stage2-epochs", 1, "--output", out]
    potts, crf = "potts=--regulariser potts=1,neighbours=4", "crf=--densecrfloss 2 --size-free"
    assert call(train_two_stages, *words, "--variant", potts, "--variant", crf) == 0
    options = {
        path.parts[-3]: torch.load(path, weights_only=True)["options"]
        for path in out.glob("seed_1/*/*/experiment_0/checkpoint_last.pth.tar")
    }
    losses = {name: (one["regulariser"], one["densecrfloss"]) for name, one in options.items()}
    expected = {"stage1": (None, 0), "partial_ce": (None, 0), "potts": (("potts=1,neighbours=4",), 0), "crf": (None, 2)}
    assert losses == expected
    assert len({options[name]["resume"] for name in ("partial_ce", "potts", "crf")}) == 1
    table = (out / "table.txt").read_text()
    assert "gain of potts" in table and "gain of crf" in table and (out / "val.png").is_file()


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        (["potts"], "nothing to compare"),
        (["stage1=--regulariser potts=1"], "a name of its own"),
        (["a b=--regulariser potts=1"], "a name of its own"),
        (["x=--regulariser potts=1", "x=--regulariser entropy=1"], "a name of its own"),
        (["x=--regulariser 'potts=1"], "No closing quotation"),
        (["x=--epochs 3 --regulariser potts=1"], "--epochs is set by the stages themselves"),
        (["x=--run_root . --regulariser potts=1"], "--run_root is set by the stages themselves"),
        (["x=--run_ro=. --regulariser potts=1"], "--run_ro is set by the stages themselves"),
        (["x=--sigma-xy 3"], "nothing to compare"),
        (["x=--regulariser pots=1"], "found 'pots'"),
    ],
)
def test_variants_that_cannot_be_compared(voc, capsys, variants, said):
    words = [word for text in variants for word in ("--variant", text)]
    assert call(train_two_stages, *SMALL, *data(voc), "--output", voc.parent / "none", *words) == 2
    assert said in one_line(capsys)
    assert not (voc.parent / "none").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "nowhere"], "expected a data set out of"),
        (["--dataset", "pascal"], "get PASCAL VOC 2012"),
        (["--data-root", "absent", "--classes", "{voc}/../classes.txt"], "which does not exist"),
        (["--data-root", "{voc}", "--classes", "absent"], "cannot read absent"),
        (["{data}", "--resume", "absent.pth.tar"], "absent.pth.tar: no such checkpoint file"),
        (["{data}", "--start_epoch", "1"], "nothing is left of 1 epochs"),
        (["{data}", "--pretrained", "absent.pth"], "absent.pth"),
        (["{data}", "--run-root", "{voc}/JPEGImages/i1.jpg"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_2(voc, monkeypatch, tmp_path, capsys, words, said):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    words = [w for word in words for w in (data(voc) if word == "{data}" else [word.replace("{voc}", str(voc))])]
    assert call(train_withdensecrfloss, *SMALL, "--epochs", 1, "--run-root", tmp_path / "run", *words) == 2
    assert said in one_line(capsys)


def test_a_foreign_label_value_is_found_before_training(voc, capsys):
    label = np.array(Image.open(voc / "pascal_2012_scribble" / "i3.png"))
    label[0, 0] = 17
    Image.fromarray(label).save(voc / "pascal_2012_scribble" / "i3.png")
    assert train(voc, "--epochs", 1) == 2
    line = one_line(capsys)
    assert "found 17" in line and "i3.png" in line and not run_folder(voc).exists()


@pytest.mark.parametrize("name", ["i1", "i6"])
def test_truth_is_read_before_training_too(voc, capsys, name):
    """Regression: what is wrong with it was found by the first evaluation, in `fill-in` after the last epoch."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(voc / "SegmentationClassAug" / f"{name}.png")
    assert train(voc, "--epochs", 1) == 2
    assert f"SegmentationClassAug/{name}.png" in one_line(capsys) and not run_folder(voc).exists()


def test_a_photograph_that_breaks_in_a_worker_is_named(voc, capsys):
    path = voc / "JPEGImages" / "i2.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert train(voc, "--epochs", 1, "--workers", 1) == 2
    assert "i2.jpg" in one_line(capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from modeling.deeplab import DeepLab

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "original.pth.tar"
    torch.save({"epoch": 1, "state_dict": DeepLab(21, "mobilenet").state_dict()}, path)
    return path


def test_inference_with_a_checkpoint_of_the_original(voc, checkpoint, tmp_path, capsys):
    """It holds weights only: the backbone is said on the command line, 513 and 21 classes are the defaults."""
    words = ["--checkpoint", checkpoint, "--image_path", voc / "JPEGImages/i0.jpg", "--output_directory", tmp_path]
    words += ["--no_cuda", "--gpu-ids", "0", "--workers", "2"]
    assert call(inference, *words, "--backbone", "mobilenet", "--crop_size", 40, "--n_class", 21) == 0
    assert Image.open(tmp_path / "i0_prediction.png").size == (30, 20)
    assert call(inference, *words, "--backbone", "mobilenet", "--crop_size", 40, "--center-crop") == 0
    assert Image.open(tmp_path / "i0_prediction.png").size == (40, 40)
    capsys.readouterr()
    assert call(inference, *words, "--crop_size", 40) == 2  # a resnet is the original's default
    assert "does not fit this network; is --backbone right?" in one_line(capsys)
    assert call(inference, *words, "--backbone", "mobilenet", "--n_class", 7) == 2
    assert "its num classes is 21, but --n_class says 7" in one_line(capsys)


@pytest.mark.parametrize(("name", "said"), [("absent.jpg", "absent.jpg"), ("text.jpg", "cannot read")])
def test_inference_names_the_image_it_cannot_read(checkpoint, tmp_path, capsys, name, said):
    (tmp_path / "text.jpg").write_text("no image")
    words = ["--backbone", "mobilenet", "--checkpoint", checkpoint, "--image_path", tmp_path / name]
    assert call(inference, *words, "--output_directory", tmp_path) == 2
    assert said in one_line(capsys)


def test_evaluation_refuses_a_network_of_class_mismatches(voc, checkpoint, capsys):
    assert call(evaluate, "--checkpoint", checkpoint, "--backbone", "mobilenet", *data(voc), "--no-cuda") == 2
    assert "has 21 classes, but the data set voc has 3" in one_line(capsys)


def test_a_comparison_takes_further_variants_and_says_what_differs(tmp_path):
    def take(crf="densecrf=1", **changes):
        variants = {"crf": ("--regulariser", crf)} | changes.pop("more", {})
        how = {"folder": tmp_path / "two", "seeds": (1,), "stage_epochs": (1, 1), "options": (), "full": False}
        two_stages.Comparison(**how | changes, variants=variants)._take_folder()

    take()
    take(more={"potts": ("--regulariser", "potts=1")})
    take()
    for changes, said in (
        ({"crf": "densecrf=2"}, "crf was '--regulariser densecrf=1' and is '--regulariser densecrf=2'"),
        ({"stage_epochs": (1, 2)}, r"stage_epochs were \[1, 1\] and are \[1, 2\]"),
        ({"more": {"potts": ("--regulariser", "potts=2")}}, "potts was"),
    ):
        with pytest.raises(InputError, match=said):
            take(**changes)

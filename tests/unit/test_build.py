"""Training without a command line, and what a run records."""

import contextlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from tqdm import tqdm

import losses
from common.errors import InputError
from dataloaders import DataOptions
from helpers import run_folder, state, train
from losses import entropy
from losses.registry import FACTORIES
from modeling.checkpoint import load_checkpoint
from training import TrainOptions, build_trainer
from training.faults import Stopped
from training.identity import file_facts
from training.journal import Journal
from training.options import PRESETS, parse_options


def small(voc, **more) -> TrainOptions:
    data = DataOptions(
        data_root=str(voc), classes=str(voc.parent / "classes.txt"), crop_size=32, base_size=32, workers=0
    )
    settings = {"backbone": "mobilenet", "pretrained": "none", "no_cuda": True, "run_root": str(voc.parent / "run")}
    return TrainOptions(data=data, **{**settings, "epochs": 1, **more})


class Flat(nn.Module):
    def forward(self, image, probabilities, region_of_interest):
        return 0.1 * probabilities.square().mean()


def test_a_few_lines_train_as_the_script_does(voc):
    scores = build_trainer(small(voc, densecrfloss=1.0, size_free=True), {"flat": Flat()}).fit()
    assert 0 <= scores["val"]["miou"] <= 1
    record = json.loads((run_folder(voc) / "scores.jsonl").read_text().splitlines()[0])
    assert record["losses"].keys() == {"cross_entropy", "densecrf", "flat"}
    build_trainer(small(voc, checkname="api")).fit()
    assert train(voc, "--epochs", 1, "--batch-size", 4, "--checkname", "cli") == 0
    ours, theirs = (state(run_folder(voc, name) / "checkpoint_last.pth.tar") for name in ("api", "cli"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_options_are_checked_wherever_they_come_from():
    with pytest.raises(InputError, match="--crop-size: expected an integer of at least 1 and at most 65536, found '0'"):
        TrainOptions(data=DataOptions(crop_size=0))
    with pytest.raises(InputError, match="--scales: expected a number greater than 0"):
        TrainOptions(data=DataOptions(scales=(0.5, -1.0)))
    for wrong in ({"densecrfloss": "2e-9"}, {"lr": "1e-3"}, {"size_free": "False"}):
        with pytest.raises(InputError, match="expected a number or a truth value, found the text"):
            TrainOptions(**wrong)
    for wrong in ({"regulariser": "potts=1"}, {"gpu_ids": 0}):
        with pytest.raises(InputError, match="expected a tuple, found"):
            TrainOptions(**wrong)
    with pytest.raises(InputError, match="--backbone: expected one of mobilenet, .*, found 'vgg'"):
        TrainOptions(backbone="vgg")
    with pytest.raises(InputError, match="found 'nothing'"):
        TrainOptions(regulariser=("nothing=1",))


def test_one_process_trains_on_one_gpu(monkeypatch):
    """Regression: it took one of two, at half the learning rate."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="--gpu-ids 0,1: expected one here.*start a process for each"):
        build_trainer(TrainOptions(gpu_ids=(0, 1), amp="off"))


def test_a_checkpoint_holds_the_options(voc):
    options = small(voc)
    build_trainer(options).fit()
    kept = load_checkpoint(run_folder(voc) / "checkpoint_last.pth.tar")["options"]
    assert kept == options.resolved().settings()
    assert kept["crop_size"] == 32 and kept["lr"] == 0.007


def test_epochs_and_steps_count_from_1_in_every_record(voc):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train(voc, "--epochs", 2, "--log-interval", 1) == 0
    folder = run_folder(voc)
    scores, steps = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("scores", "steps")
    )
    assert [record["epoch"] for record in scores[:-1]] == [1, 2]
    assert [(record["step"], record["epoch"]) for record in steps] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    events = accumulator.EventAccumulator(str(folder)).Reload()
    at = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert at["train/lr"] == at["val/miou"] == [1, 2]
    assert at["train/cross_entropy"] == [1, 2, 3, 4]


def test_the_curves_of_a_continued_run_do_not_overlap(voc):
    """Regression: TensorBoard also showed the steps of a killed run that were taken again."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    killed, rates = Journal(voc, {}), {"images_per_second": 1.0, "waiting_for_data": 0.0}
    for step, epoch in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        entry = {"step": step, "epoch": epoch, "losses": {"cross_entropy": 1.0}, **rates}
        killed.steps(entry, {"cross_entropy": [1.0]})
    killed.close()
    (events,) = killed.folder.glob("events*")
    events.rename(events.with_name("events.out.tfevents.1"))  # an earlier second's
    journal = Journal(voc, {}, killed.folder)
    journal.rewind([], killed.folder, 1, 3)
    journal.scalars({"train/cross_entropy": 2.0}, 4)
    journal.close()
    shown = accumulator.EventAccumulator(str(killed.folder)).Reload().Scalars("train/cross_entropy")
    assert [(event.step, event.value) for event in shown] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_a_length_in_steps_ends_within_an_epoch(voc):
    words = ["--batch-size", 2, "--lr", 1, "--lr-scheduler", "step", "--lr-step", 2, "--log-interval", 1, "--no-val"]
    assert train(voc, *words, "--steps", 5) == 0
    lines = [json.loads(line) for line in (run_folder(voc) / "steps.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2, 3]  # each of two steps
    assert [line["lr"] for line in lines] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_records_of_earlier_versions_are_renumbered(voc):
    """They counted epochs from 0, named no network and had no rate of the head in the optimizer's groups."""
    words = ["--epochs", 3, "--no-val", "--batch-size", 2]
    assert train(voc, *words) == 0
    whole = run_folder(voc)
    assert train(voc, *words[2:], "--epochs", 2, "--lr-scheduler", "poly", "--checkname", "old") == 0
    path = run_folder(voc, "old") / "checkpoint_last.pth.tar"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["model"]["network"]
    for record in checkpoint["history"]:
        record["epoch"] -= 1
    for group in checkpoint["optimizer"]["param_groups"]:
        del group["lr_scale"]
    torch.save(checkpoint, path)
    assert train(voc, *words, "--checkname", "old", "--resume", "auto") == 0
    lines = (run_folder(voc, "old") / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in lines] == [1, 2, 3, None]
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    expected = torch.load(whole / "checkpoint_last.pth.tar", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([group["lr"] for group in expected])


def test_a_class_mismatch_is_logged_under_ft_beside_warnings_of_the_data(voc, capsys):
    assert train(voc, "--epochs", 1, "--no-val") == 0
    (voc.parent / "classes.txt").write_text("background\ncat\nfox\n")
    lists = voc / "ImageSets/SegmentationAug"
    (lists / "val.txt").write_text("i5\ni6\ni0\n")  # i0 trains too
    capsys.readouterr()
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    assert train(voc, "--epochs", 1, "--resume", last, "--ft") == 0
    printed = capsys.readouterr().out
    assert "WARNING: the same picture" in printed
    assert f"WARNING: {last} was trained with class 2 'dog', but here it is 'fox'; its classifier is kept" in printed


def test_without_a_mismatch_nothing_is_said_of_the_classifier(voc, capsys):
    assert train(voc, "--epochs", 1, "--no-val") == 0
    (voc / "ImageSets/SegmentationAug/val.txt").write_text("i5\ni6\ni0\n")
    capsys.readouterr()
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    assert train(voc, "--epochs", 1, "--no-val", "--resume", last, "--ft") == 0
    assert "classifier" not in capsys.readouterr().out


@pytest.mark.parametrize("size", PRESETS)
def test_a_preset_is_a_whole_recipe(size, caplog):
    with caplog.at_level("INFO"):
        options = parse_options(["--preset", size])
    assert [wanted.name for wanted in options.regularisers] == ["densecrf"]
    assert f"preset {size}: " in caplog.text and f"crop_size {options.data.crop_size}" in caplog.text


def test_paths_and_numpys_numbers_become_plain_in_a_checkpoint(voc):
    options = small(voc, run_root=voc.parent / "run", epochs=np.int64(1), lr=np.float64(0.01), no_val=True)
    build_trainer(options).fit()
    kept = load_checkpoint(run_folder(voc) / "checkpoint_last.pth.tar")["options"]
    assert (kept["run_root"], kept["epochs"], kept["lr"]) == (str(voc.parent / "run"), 1, 0.01)


def test_the_bars_of_evaluations_have_a_total(voc, monkeypatch):
    """Regression: none did, as what stops an evaluation hid how many images it has."""
    totals = {}

    def bar(desc: str, total: int | None, **how) -> tqdm:
        totals[desc] = total
        return tqdm(disable=True)

    trainer = build_trainer(small(voc))
    monkeypatch.setattr("evaluation.protocols.tqdm", bar)
    trainer.fit()
    assert totals == {"evaluating": 2, "fill-in": 5, "val full": 2}


def test_a_signal_during_an_evaluation_stops_every_process(voc, monkeypatch):
    """Regression: each stopped on its own, and one that was waiting for the other's scores ended with an error."""
    trainer, seen = build_trainer(small(voc)), []
    trainer.close()
    # Of two processes, the signal is heard by the other one, by none, and by this one.
    for ours, theirs, expected in ((None, True, [1, 2]), (None, False, [1, 2]), (signal.SIGTERM, False, [])):
        monkeypatch.setattr("common.distributed.any_process", lambda flag, theirs=theirs: flag or theirs)
        trainer.stop.signal = ours
        with pytest.raises(Stopped) if ours or theirs else contextlib.nullcontext():
            for batch in trainer.until_stopped([1, 2]):
                seen.append(batch)
        assert seen == expected
        seen.clear()


def test_a_trainer_that_is_not_used_releases_its_run(voc):
    build_trainer(small(voc)).close()
    assert build_trainer(small(voc, resume="auto", no_val=True)).fit() == {}


def test_a_benchmark_of_a_resumed_run_writes_nothing(voc, capsys):
    assert train(voc, "--epochs", 1, "--no-val") == 0
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    before = sorted((path, path.stat().st_mtime_ns) for path in (voc.parent / "run").rglob("*"))
    for resume in (last, "auto"):
        assert train(voc, "--epochs", 3, "--benchmark", 1, "--resume", resume) == 0
        assert "whole step" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in (voc.parent / "run").rglob("*")) == before


def test_adamw_has_its_own_defaults_and_resumes_only_itself(voc, capsys):
    options = parse_options(["--optimizer", "adamw", "--crop-size", "65"])
    assert (options.lr, options.weight_decay) == (2e-4, 0.01)
    assert parse_options(["--optimizer", "adamw", "--lr", "0.1", "--weight-decay", "0"]).weight_decay == 0
    assert train(voc, "--epochs", 1, "--no-val", "--optimizer", "adamw") == 0
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    groups = load_checkpoint(last)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.01] and "betas" in groups[0]
    capsys.readouterr()
    assert train(voc, "--epochs", 2, "--no-val", "--resume", last) == 2
    assert f"{last}: was trained with adamw; give --optimizer adamw" in capsys.readouterr().err
    assert train(voc, "--epochs", 2, "--no-val", "--resume", last, "--optimizer", "adamw") == 0


def test_the_network_that_is_kept_is_the_moving_average_of_the_weights(voc, caplog):
    """Of parameters and statistics, and from the weights after the first step on; said where it hardly moves."""
    decay = 0.7
    trainer = build_trainer(small(voc, epochs=5, ema=decay))
    step, weights = trainer.train_step, []

    def spied(batch):
        step(batch)
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})

    trainer.train_step = spied
    trainer.fit()
    kept, moved = state(run_folder(voc) / "checkpoint_last.pth.tar"), 0
    assert len(weights) == 5 and kept.keys() == weights[0].keys()
    for name, value in kept.items():
        if value.is_floating_point():
            expected = weights[0][name]
            for later in weights[1:]:
                expected = decay * expected + (1 - decay) * later[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
            moved += not torch.equal(value, weights[-1][name])
        else:
            assert torch.equal(value, weights[-1][name])
    assert moved > 100
    assert "over about 3 steps; at the end 24 % of it are the first weights; lower --ema" in caplog.text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512_bf16 amx_tile", "bf16"), ("fp asimd bf16 i8mm", "bf16"), ("fpu avx512bw avx2", "off"), (None, "off")],
)
def test_amp_auto_asks_the_processor(flags, expected, monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr("common.devices.CPUINFO", cpuinfo)
    assert parse_options(["--amp", "auto", "--no-cuda"]).amp == expected
    assert parse_options(["--amp", "fp16", "--no-cuda"]).amp == "fp16"


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image, probabilities, region_of_interest):
        self.calls += 1
        return 0.1 * probabilities.square().mean()


class Learning(Counting):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def test_what_a_regulariser_keeps_is_resumed_and_what_it_would_learn_is_refused(voc):
    with pytest.raises(InputError, match="regulariser own: expected no weights that learn"):
        build_trainer(small(voc, no_val=True), {"own": Learning()})
    build_trainer(small(voc, no_val=True), {"own": Counting()}).fit()
    calls = load_checkpoint(run_folder(voc) / "checkpoint_last.pth.tar")["regularisers"]["own"]["calls"]
    again = Counting()
    build_trainer(small(voc, no_val=True, epochs=2, resume="auto"), {"own": again}).close()
    assert again.calls == calls > 0


@pytest.mark.parametrize("wrong", [Counting, torch.mean])
def test_what_is_no_module_is_no_regulariser(voc, wrong):
    with pytest.raises(InputError, match="regulariser own: expected an object that is an nn.Module, found <"):
        build_trainer(small(voc, no_val=True), {"own": wrong})


def test_other_regularisers_from_python_are_another_training(voc, caplog):
    build_trainer(small(voc, no_val=True), {"own": Counting()}).fit()
    build_trainer(small(voc, no_val=True, resume="auto"), {"own": Flat()}).fit()
    assert run_folder(voc, number=1).is_dir() and "other regularisers from Python" in caplog.text


def test_another_code_of_a_regulariser_is_another_training(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    facts = []
    for text in ("", "# changed\n"):
        (tmp_path / "entropy2.py").write_text(Path(entropy.__file__).read_text() + text)
        facts.append(file_facts(TrainOptions(regulariser=("entropy2=1",))))
    FACTORIES.pop("entropy2")
    assert facts[0].keys() == facts[1].keys() == {"code of entropy2"} and facts[0] != facts[1]

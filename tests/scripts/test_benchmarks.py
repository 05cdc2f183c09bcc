"""The benchmarks run, and report what they promise; how fast anything is, is no test's business."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import annotation
import bench_filter
import bench_loader
import bench_losses
import bench_mean_field
import bench_precision
import bench_step
import photograph
import step_memory
import study
from common.distributed import usable_cpus
from common.errors import InputError, exit_status
from evaluation import protocols
from filtering.mean_field import MeanField
from helpers import call, data, one_line

HOME = Path(__file__).parents[2]


def run(script: str, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(HOME / "pytorch-deeplab_v3_plus")}
    command = [sys.executable, str(HOME / "benchmarks" / script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_filter(tmp_path):
    figures, plot = tmp_path / "filter.json", tmp_path / "filter.png"
    rows = ("--row", "128,4,21,25", "--row", "9,1,1,5")
    sweep = ("--plot", str(plot), "--sides", "8,16", "--channels", "1,2")
    result = run("bench_filter.py", *rows, *sweep, "--repeats", "2", "--json", str(figures))
    assert result.returncode == 0, result.stderr
    found = json.loads(figures.read_text())
    assert found["machine"]["cpu"] and found["machine"]["torch"]
    assert [row["side"] for row in found["rows"]] == [128, 9]
    for row in found["rows"]:
        engines = row["engines"]
        assert "torch cpu" in engines and any(name.startswith("C++ ") for name in engines)
        for name, numbers in engines.items():
            low, high = numbers["quartiles_ms"]
            assert 0 < low <= numbers["median_ms"] <= high
            assert set(numbers["phases_ms"]) == {"build", "splat", "blur", "slice"}
            assert all(time >= 0 for time in numbers["phases_ms"].values()) and numbers["phases_ms"]["build"] > 0
            assert f"  {name} " in result.stdout
            assert numbers["error"] < (1e-5 if name.startswith("torch") else 1e-30)
    assert [point["side"] for point in found["sweeps"]["pixels"]] == [8, 16]
    assert [point["channels"] for point in found["sweeps"]["channels"]] == [1, 2]
    with Image.open(plot) as image:
        image.verify()
    memory = [row["engines"]["torch cpu"]["memory_mb"] for row in found["rows"]]
    if Path("/proc/self/clear_refs").exists():  # Linux
        values = 4 * 21 * 128 * 128 * 4 / 1e6
        assert memory[1] < values < memory[0] < 20 * values


def test_mean_field(capsys):
    assert call(bench_mean_field, "--side", 40, "--classes", 3, "--repeats", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "40 px, 3 classes" in lines[1] and lines[2].startswith("  both kernels ")
    times = [float(line.split()[-2]) for line in lines[2:-2]]
    assert min(times) >= 0 and times[0] > 0
    assert lines[-2].startswith("  tensors / C++:") and float(lines[-2].split()[-1]) > 0
    assert lines[-1].startswith("  appearance kernel: ") and " vertices for 1600 pixels; " in lines[-1]


def test_rows_of_a_mean_field():
    # One pixel has one simplex, whose six vertices follow each other in a circle, once along each axis.
    assert bench_mean_field.rows_moved(torch.zeros(1, 3, 1, 1), MeanField()) == (6, (6 + 6) + 6 * (2 + 2) + 6)


@pytest.mark.slow
def test_shared(tmp_path):
    figures, setting = tmp_path / "shared.json", "OMP_WAIT_POLICY=passive"
    sizes = ("--side", "33", "--crop", "33", "--rounds", "1")
    result = run("bench_shared.py", *sizes, "--setting", setting, "--json", str(figures))
    if usable_cpus() < 2:
        assert result.returncode == 2 and result.stderr.startswith("error: expected two cores or more")
        return
    assert result.returncode == 0, result.stderr
    found = json.loads(figures.read_text())["seconds"]
    assert len(found) == 3 and all(result.stdout.count(kind) == 3 for kind in found)
    for by_setting in found.values():
        assert list(by_setting) == ["GOMP_SPINCOUNT=300000", "as the scripts have it", setting]
        assert all(len(times) == 1 and times[0] > 0 for one in by_setting.values() for times in one.values())


@pytest.mark.slow
def test_losses(tmp_path):
    figures, losses = tmp_path / "losses.json", ("potts=1,neighbours=4", "tree_energy=1,high_level=True")
    sizes = ("--device", "cpu", "--side", "64", "--batch", "2", "--repeats", "2")
    result = run("bench_losses.py", *sizes, "--losses", *losses, "--json", str(figures))
    assert result.returncode == 0, result.stderr
    found = json.loads(figures.read_text())["losses"]
    first, *others = found
    assert first.startswith("densecrf=") and tuple(others) == losses
    for text, numbers in found.items():
        assert text in result.stdout and numbers["median_ms"] > 0
        assert numbers["ratio"] > 0 and (text != first or numbers["ratio"] == 1)
        if Path("/proc/self/clear_refs").exists():  # Linux
            assert 0 < numbers["memory_mb"] < 1000


def test_step(tmp_path, capsys):
    figures = tmp_path / "figures/step.json"
    sizes = ("--crop", 33, "--batch", 2, "--steps", 2, "--precision", "bfloat16", "--exact-gradient")
    assert call(bench_step, "--device", "cpu", *sizes, "--json", figures) == 0
    found = json.loads(figures.read_text())
    assert found["options"]["crop"] == 33
    times = found["times"]
    assert list(times) == ["step without the loss", "step with the loss", "the loss alone"]
    assert all(numbers["median_ms"] > 0 for numbers in times.values())
    assert found["share of the loss alone"] > 0
    assert "share of the loss alone" in capsys.readouterr().out


@pytest.mark.slow
def test_scores(tmp_path):
    figures = tmp_path / "scores.json"
    sizes = ("--crop", "129", "--batch", "26", "--scale", "0.1", "--repeats", "2")  # more than one part
    sizes += ("--precision", "bfloat16")
    result = run("bench_scores.py", "--device", "cpu", *sizes, "--json", str(figures))
    assert result.returncode == 0, result.stderr
    rows = json.loads(figures.read_text())["rows"]
    assert all(name in result.stdout and numbers["median_ms"] > 0 for name, numbers in rows.items())
    for name in ("cross-entropy", "with the DenseCRF loss"):
        ours, plain = rows[f"{name}, in parts"], rows[f"{name}, by autograd alone"]
        assert ours["tensors"] == 1 < plain["tensors"]
        if Path("/proc/self/clear_refs").exists():  # Linux
            assert 0 < ours["memory_mb"] < plain["memory_mb"]


@pytest.mark.slow
def test_precision(tmp_path):
    figures = tmp_path / "precision.json"
    sizes = ("--size", "33,2", "--threads", "1", "--steps", "2", "--limit", "AVX2")
    result = run("bench_precision.py", *sizes, "--json", str(figures))
    assert result.returncode == 0, result.stderr
    rows = json.loads(figures.read_text())["rows"]
    assert len(rows) == 5 and rows[0]["kind"] == "float32, contiguous" and rows[0]["ratio"] == 1
    assert rows[-1]["kind"] == "bfloat16, channels-last, AVX2"
    assert all(row["median_ms"] > 0 and row["kind"] in result.stdout for row in rows)


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (bench_filter, ("--engine", "abacus"), "--engine 'abacus': not on this machine, which has C++ "),
        (bench_step, ("--device", "abacus"), "--device abacus: "),
        (bench_step, ("--device", "meta"), "--device meta: expected cpu"),  # regression: a traceback
        (
            bench_step,
            ("--crop", "33", "--batch", "2", "--scale", "0.01"),
            "leaves nothing of (33, 33) pixels",
        ),  # regression: a traceback
        (
            bench_losses,
            ("--side", "33", "--losses", "densecrf=1,rloss_scale=0.01"),
            "leaves nothing of (33, 33) pixels",
        ),
        (bench_step, ("--json", "."), "expected the name of a file, found the folder ."),
        (bench_precision, ("--limit", "AVX3"), "invalid choice: 'AVX3'"),  # regression: measured without any
    ],
)
def test_bad_input_gets_one_line(script, words, said, capsys):
    assert call(script, *words) == 2
    assert said in one_line(capsys)


def test_fewer_workers_than_asked_for_are_named(voc, capsys):
    words = (*data(voc), "--images", 4, "--step", 0, "--crop-size", 33, "--base-size", 33)
    assert call(bench_loader, *words, "--batch-size", 2, "--workers", 999) == 0
    cpus = usable_cpus()
    assert f"--workers 999: the loader takes {cpus}, with {cpus} CPUs here" in capsys.readouterr().out


def test_a_size_that_is_none_gets_one_line(capsys):
    assert call(bench_precision, "--size", "16,2") == 2
    assert "expected CROP,BATCH of at least 33,2, found '16,2'" in one_line(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_step_memory_needs_a_gpu(capsys):
    assert call(step_memory) == 2
    assert "needs a CUDA GPU" in one_line(capsys)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_step_memory_grows_with_the_batch():
    result = run("step_memory.py", "--backbones", "mobilenet", "--crops", "65", "--batches", "8", "64")
    assert result.returncode == 0, result.stderr
    rows = [[float(cell) for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[5:]]
    assert [row[:2] for row in rows] == [[65, 8], [65, 64]]
    (*_, few, few_half), (*_, many, many_half) = rows
    assert 3 * few < many < 9 * few and few_half <= few and many_half < many


@pytest.mark.slow
def test_annotation(voc, trained_here, monkeypatch):
    shutil.copy(voc.parent / "classes.txt", voc)
    few = annotation.Annotation("few strokes", annotation.StrokeOptions(points=True), images=3)
    monkeypatch.setattr(annotation, "ANNOTATIONS", {"few": few})
    monkeypatch.setattr(annotation, "STEPS", (1, 1))
    out = voc.parent / "annotation"
    words = ["--data-root", str(voc), "--seeds", "2", "--output", str(out)]
    for more in (["--epochs", "3"], ["--lr", "0.1", "--sigma-xy", "0"]):  # before anything is drawn or kept
        with pytest.raises(InputError):
            annotation.main([*words, *more])
        assert not out.exists()
    assert annotation.main([*words, "--batch-size", "3", "--crop-size", "33", "--base-size", "33"]) == 0
    rows = [line.split(" | ") for line in (out / "annotation.md").read_text().splitlines()[2:]]
    ((title, images, share, *_),) = rows
    assert (title, images) == ("| few strokes", "3")
    own = np.mean([np.asarray(Image.open(path)) < 255 for path in voc.glob("pascal_2012_scribble/*.png")])
    assert 0 < float(share.split()[0]) < 100 * own
    assert (out / "data/few/ImageSets/SegmentationAug/train.txt").read_text() == "i0\ni1\ni2\n"
    with Image.open(out / "annotation.png") as image:
        assert image.width > 500
    shutil.copy(voc / "SegmentationClassAug/i1.png", voc / "SegmentationClassAug/i0.png")
    with pytest.raises(InputError, match="other training labels"):  # the strokes are those of the truth before
        annotation.main([*words, "--batch-size", "3", "--crop-size", "33", "--base-size", "33"])


@pytest.mark.slow
def test_study(voc, trained_here, monkeypatch, capsys):
    monkeypatch.setitem(
        study.STUDIES,
        "40",
        study.Study(33, {"weak": study.loss(1, 4, 10)}, (*study.RANDOM, "--batch-size", "2"), (1, 1), whole=True),
    )
    refinements = []

    def evaluate_split(network, loaders, split, protocol, workers):
        refinements.append(protocol.crf)
        return protocols.evaluate_split(network, loaders, split, protocol, workers)

    monkeypatch.setattr(study, "evaluate_split", evaluate_split)
    out = voc.parent / "study"
    words = ["--study", "40", "--data-root", str(voc), "--seeds", "2", "--output", str(out), "--classes"]
    assert exit_status(lambda: study.main([*words, "absent.txt"])) == 2
    assert "absent.txt" in capsys.readouterr().err
    words.append(str(voc.parent / "classes.txt"))
    assert study.main(words) == 0
    finals = json.loads((out / "study.json").read_text())
    assert {arm: len(seeds) for arm, seeds in finals.items()} == {"partial_ce": 1, "weak": 1, "full": 1}
    runs = {path.parts[-3] for path in out.glob("seed_2/voc/*/experiment_0/scores.jsonl")}
    assert runs == {"stage1", "stage1_full", *finals}
    text = (out / "study.md").read_text()
    assert text.startswith("5 training and 2 validation images, crop 33")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| partial CE", "| weak", "| full supervision"]
    options = torch.load(next(out.glob("seed_2/voc/weak/*/checkpoint_last.pth.tar")), weights_only=True)["options"]
    assert (options["densecrfloss"], options["sigma_xy"], options["lr"]) == (1, 4, 0.003)
    assert set(finals["weak"][0]) == set(study.SCORES)
    plain, refined = (finals["weak"][0][score]["frequency"] for score in ("val_full", "refined"))
    assert plain == refined  # the same pixels
    assert len(refinements) == 3 and all(refinements)
    with Image.open(out / "study.png") as image:
        image.verify()
    shutil.copy(voc / "pascal_2012_scribble/i1.png", voc / "pascal_2012_scribble/i0.png")
    assert exit_status(lambda: study.main(words)) == 2 and "other training labels" in capsys.readouterr().err
    shutil.rmtree(voc / "SegmentationClassAug")
    assert exit_status(lambda: study.main(words)) == 2


def test_the_studys_table_by_hand():
    def final(fill_in: float, val: float) -> dict:
        return {"fill_in": {"miou": fill_in}, "val": {"miou": val}}

    results = {
        "partial_ce": [final(0.60, 0.20), final(0.62, 0.20)],
        "weight 2": [final(0.64, 0.21), final(0.64, 0.21)],
        "full": [final(0.70, 0.25), final(0.72, 0.25)],
    }
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in study.table(results).splitlines()[2:]]
    assert rows == [
        ["partial CE", "61.0 ± 1.4", "", "", "20.0 ± 0.0", ""],
        ["weight 2", "64.0 ± 0.0", "+3.0 ± 1.4", "30 %", "21.0 ± 0.0", "+1.0 ± 0.0"],
        ["full supervision", "71.0 ± 1.4", "+10.0 ± 0.0", "", "25.0 ± 0.0", "+5.0 ± 0.0"],
    ]
    del results["full"]
    assert "| weight 2 | 64.0 ± 0.0 | +3.0 ± 1.4 | 21.0 ± 0.0 | +1.0 ± 0.0 |" in study.table(results)


@pytest.mark.slow
def test_photograph(tmp_path, trained_here, monkeypatch):
    for name, value in {"STEPS": (1, 1), "SIZE": 65, "SIGMA_XY": 20.0}.items():
        monkeypatch.setattr(photograph, name, value)
    assert photograph.main(["--output", str(tmp_path)]) == 0
    with Image.open(tmp_path / "photograph.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    for name, image in photograph.photographs().items():
        strokes = photograph.draw_strokes(name, image.size)
        drawn = set(np.unique(strokes).tolist())
        assert len(drawn) == 3 and {0, 255} < drawn and 0.01 < (strokes < 255).mean() < 0.1

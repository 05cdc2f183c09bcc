"""A small data set on disk that several test files use, and Triton's interpreter where there is no GPU."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dataloaders.datasets
import train_withdensecrfloss
from dataloaders.labels import UNLABELLED
from evaluation import report
from helpers import HEIGHT, WIDTH, write_label
from training import two_stages
from training.trainer import Trainer

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the processes that test at the same time share the cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for the programs that are started

# A shell that runs the tests in the background has them ignore Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test: one more than there are cores, as tests wait for disks and other processes."""
    return (os.cpu_count() or 1) + 1


if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_pictures(request):
    """Trainings and evaluations in this process draw no figures, which takes longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        if "pictures" not in request.keywords:
            patch.setattr(Trainer, "draw", lambda self: None)
            for name in ("save_confusion", "save_contact_sheet"):
                patch.setattr(report, name, lambda *_: None)
        yield


@pytest.fixture
def trained_here(monkeypatch):
    """Comparisons train in this process: PyTorch takes longer to import than they do."""

    def train_all(trainings, jobs):
        for one in trainings:
            if not two_stages.ended_run(one.root, one.name):
                words = ("--run-root", one.root, "--checkname", one.name, *one.options)
                assert train_withdensecrfloss.main([str(word) for word in words]) == 0

    monkeypatch.setattr(two_stages, "train_all", train_all)


@pytest.fixture
def voc(tmp_path) -> Path:
    """A data set of VOC's layout: five training and two validation images, class 1 in a corner, three classes."""
    rng = np.random.default_rng(0)
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClassAug", "pascal_2012_scribble", "ImageSets/SegmentationAug"):
        (root / folder).mkdir(parents=True)
    for number in range(7):
        truth = np.zeros((HEIGHT, WIDTH))
        truth[:8, :12] = 1 + number % 2
        scribble = np.full((HEIGHT, WIDTH), UNLABELLED)
        scribble[4, 2:8], scribble[15, 5:25] = 1 + number % 2, 0
        image = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        image.save(root / f"JPEGImages/i{number}.jpg")
        write_label(root / f"SegmentationClassAug/i{number}.png", truth)
        write_label(root / f"pascal_2012_scribble/i{number}.png", scribble)
    (root / "ImageSets/SegmentationAug/train.txt").write_text("i0\ni1\ni2\ni3\ni4\n")
    (root / "ImageSets/SegmentationAug/val.txt").write_text("i5\ni6\n")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    return root


@pytest.fixture
def new_data_set(tmp_path, monkeypatch):
    """Return a function that writes a file into a folder where data sets are looked for."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setattr(dataloaders.datasets, "__path__", [*dataloaders.datasets.__path__, str(folder)])
    yield lambda name, text: (folder / f"{name}.py").write_text(text)
    for file in folder.glob("*.py"):
        sys.modules.pop(f"dataloaders.datasets.{file.stem}", None)
        vars(dataloaders.datasets).pop(file.stem, None)

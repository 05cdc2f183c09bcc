"""What goes wrong in the field, and the one line that tells it."""

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.devices import describe_precision
from common.errors import InputError
from dataloaders.datasets.pascal import VOCSegmentation
from helpers import SMALL, data, message, one_line, run_folder, train, write_label
from modeling.checkpoint import load_checkpoint
from training import TrainOptions, build_trainer, faults
from training.checkpoint import newest_checkpoint
from training.journal import Journal
from training.options import parse_options
from training.step import TrainingStep
from training.trainer import Trainer

# test_scripts.py has a damaged photograph and a label of a foreign value, test_distributed.py a process that dies,
# test_resume.py two runs in one folder, damaged checkpoints and Ctrl-C twice.


def test_a_batch_without_labels_costs_nothing(voc):
    for number in range(4):
        path = voc / f"pascal_2012_scribble/i{number}.png"
        write_label(path, np.full((20, 30), 255))
    assert train(voc, "--epochs", 1, "--no-val", "--densecrfloss", 1, "--size-free") == 0
    weights = load_checkpoint(run_folder(voc) / "checkpoint_last.pth.tar")["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def test_an_image_of_one_pixel_trains(voc):
    Image.new("RGB", (1, 1), "red").save(voc / "JPEGImages/i0.jpg")
    write_label(voc / "pascal_2012_scribble/i0.png", np.zeros((1, 1)))
    write_label(voc / "SegmentationClassAug/i0.png", np.zeros((1, 1)))
    assert train(voc, "--epochs", 1, "--densecrfloss", 1, "--size-free") == 0


def test_not_a_number_in_the_data_is_named(voc, monkeypatch, capsys):
    step = TrainingStep.gradients

    def with_nan(self, batch):
        images = batch["image"].float()
        images[0, 0, 3, 4] = float("nan")
        return step(self, {**batch, "image": images})

    monkeypatch.setattr(TrainingStep, "gradients", with_nan)
    assert train(voc, "--epochs", 1, "--no-val") == 2
    line = one_line(capsys)
    assert "the loss cross_entropy became nan at epoch 1, step 1, images i" in line
    assert "last good checkpoint: none yet" in line


def test_a_data_worker_that_is_killed(voc, monkeypatch, capsys):
    get = VOCSegmentation.__getitem__

    def killed(self, key):
        if self.split == "train" and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return get(self, key)

    monkeypatch.setattr(VOCSegmentation, "__getitem__", killed)
    assert train(voc, "--epochs", 1, "--no-val", "--workers", 1) == 2
    line = one_line(capsys)
    assert "a process that loads images was killed" in line and "--workers (1)" in line


@pytest.fixture
def small_disk(tmp_path):
    """Return a function (size, options) -> a folder on a file system of its own."""
    mounted = []

    def mount(size: str, options: str = "") -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)]
        try:
            result = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("needs the command mount")
        if result.returncode:
            pytest.skip(f"needs the right to mount: {result.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_earlier_checkpoint(voc, small_disk, capsys):
    """There is space for two checkpoints of 47 MB and the third's beginning."""
    disk = small_disk("120m")
    assert train(voc, "--epochs", 3, "--save-interval", 1, "--no-val", "--run-root", disk) == 2
    line = one_line(capsys)
    assert str(disk) in line and "cannot be written" in line and "free space" in line
    folder = disk / "voc" / "deeplab-mobilenet" / "experiment_0"
    whole = [path for path in folder.glob("checkpoint*.tar") if load_checkpoint(path)]
    assert whole and not list(folder.glob(".*"))


def test_a_disk_that_fills_up_stops_the_run_at_the_next_log_line(small_disk):
    """tensorboardX writes in a thread of its own, whose death must not leave the run waiting for it."""
    before = set(threading.enumerate())
    journal = Journal(small_disk("100k") / "data" / "name", {})
    with pytest.raises(InputError, match=r"events\.out\.tfevents.*: cannot be written \(No space left on device\)"):
        for step in range(5000):
            journal.scalars({"a_long_name" * 20: 0.0}, step)
    assert set(threading.enumerate()) - before  # the thread lives
    journal.close()


def test_a_disk_that_is_full_from_the_start(voc, small_disk, capsys):
    disk = small_disk("64k")
    (disk / "filler").write_bytes(bytes(60_000))
    assert train(voc, "--epochs", 1, "--no-val", "--run-root", disk) == 2
    line = one_line(capsys)
    assert str(disk) in line and "cannot be written" in line


@pytest.mark.pictures
def test_a_picture_that_cannot_be_written_costs_no_epoch(voc):
    """Regression: the last epoch was drawn before it was saved."""
    words = [*SMALL, *data(voc), "--run-root", str(voc.parent / "run"), "--epochs", "1", "--no-val"]
    trainer = build_trainer(parse_options(words))
    (trainer.journal.folder / "curves.png").mkdir()
    assert "curves.png: cannot be written" in message(trainer.fit)
    assert newest_checkpoint(trainer.journal.folder).name == "checkpoint_last.pth.tar"
    (trainer.journal.folder / "curves.png").rmdir()
    assert build_trainer(parse_options([*words, "--resume", "auto"])).fit() == {}
    assert (trainer.journal.folder / "curves.png").is_file()


def test_a_folder_that_may_not_be_written(voc, small_disk, capsys):
    """Read-only, as root may write whatever its mode forbids."""
    disk = small_disk("1m", ",ro")
    assert train(voc, "--epochs", 1, "--no-val", "--run-root", disk) == 2
    line = one_line(capsys)
    assert str(disk) in line and "choose --run-root" in line


def test_a_checkpoint_of_another_backbone(voc, tmp_path, capsys):
    from modeling.deeplab import DeepLab

    torch.save({"state_dict": DeepLab(3, "drn").state_dict()}, tmp_path / "drn.pth.tar")
    assert train(voc, "--epochs", 1, "--resume", tmp_path / "drn.pth.tar") == 2
    line = one_line(capsys)
    assert "drn.pth.tar: does not fit this network; is --backbone right?" in line and not run_folder(voc).exists()


NO_GPU_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (torch.cuda.OutOfMemoryError(NO_GPU_MEMORY), "CUDA out of memory"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "CUDA error: out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
    ],
)
def test_memory_that_runs_out_is_said_with_what_takes_less(error, said):
    with pytest.raises(InputError) as caught, faults.one_line_errors(TrainOptions().resolved()):
        raise error
    assert str(caught.value).startswith(f"{said}; lower --batch-size (4), --crop-size (513) or --rloss-scale (1)")


def test_gpu_memory_that_runs_out_leaves_what_was_saved(voc, monkeypatch, capsys):
    step = Trainer.train_step

    def fails(self, batch):
        if self.steps_done == 1:
            raise torch.cuda.OutOfMemoryError(NO_GPU_MEMORY)
        step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", fails)
    assert train(voc, "--epochs", 1, "--no-val", "--save-steps", 1) == 2
    line = one_line(capsys)
    assert line.startswith("error: CUDA out of memory; lower --batch-size (2)") and "raise --accumulate (1)" in line
    assert line.endswith("--resume auto continues from the last checkpoint")
    assert load_checkpoint(run_folder(voc) / "checkpoint_last.pth.tar")["step"] == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("NCCL error in: a.cpp:1, unhandled system error\nLast error:\nError while creating shared memory", "creating"),
        ("[Rank 0] Watchdog caught collective operation timeout", "another process of this training has ended"),
    ],
)
def test_what_keeps_gpus_from_exchanging_data_is_said(error, said):
    """Regression: every process said that another had ended."""
    with pytest.raises(InputError, match=said), faults.one_line_errors(TrainOptions().resolved()):
        raise RuntimeError(error)


def test_the_precision_is_described_whichever_names_pytorch_has_for_it(monkeypatch):
    class Newer:
        @property
        def allow_tf32(self):
            raise RuntimeError("fp32_precision was set")

    assert "TF32 o" in describe_precision(torch.device("cuda:0"), "off")
    monkeypatch.setattr(torch.backends, "cudnn", Newer())
    assert "as fp32_precision says in convolutions" in describe_precision(torch.device("cuda:0"), "off")


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a mistake in the code"), faults.one_line_errors(TrainOptions()):
        raise RuntimeError("a mistake in the code")


def test_a_second_interrupt_stops_at_once_and_a_second_sigterm_does_not():
    """Regression: after SIGTERM or a closed terminal, one Ctrl-C threw away the save that was asked for."""
    before = signal.getsignal(signal.SIGINT)
    with faults.StopRequest() as stop:
        assert not stop
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_outside_the_main_thread_hears_no_signals():
    def stopped() -> bool:
        with faults.StopRequest() as stop:
            return bool(stop)

    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(stopped).result()

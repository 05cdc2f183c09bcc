"""Writing the checkpoints of a run."""

import contextlib
import logging
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.files import replace_file, synchronise
from modeling.checkpoint import load_checkpoint
from modeling.weights import not_finite

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BY_EPOCH = "checkpoint_last.pth.tar", "checkpoint_previous.pth.tar", "checkpoint_epoch_{}.pth.tar"
BEST, BEST_OF_RUNS = "checkpoint.pth.tar", "model_best.pth.tar"


def save_checkpoint(path: Path, checkpoint: dict[str, Any], owner: str | None = None) -> None:
    """Write a checkpoint, in a folder of several runs as that of the `owner` (see common.files.replace_file)."""
    replace_file(path, lambda temporary: torch.save(checkpoint, temporary), owner)


def save_last(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint as the newest of its run, and keep the one before it."""
    last = folder / LAST

    def write(temporary: Path) -> None:
        torch.save(checkpoint, temporary)
        synchronise(temporary)  # before the old one moves: at any moment one is intact
        if last.exists():
            os.replace(last, folder / PREVIOUS)

    replace_file(last, write)


def by_epoch(folder: Path) -> list[Path]:
    """Return the checkpoints of --save-interval, the newest first."""
    epochs = {path: re.fullmatch(BY_EPOCH.format(r"(\d+)"), path.name) for path in folder.glob(BY_EPOCH.format("*"))}
    paths = [path for path, match in epochs.items() if match]  # others are somebody's own files
    return sorted(paths, key=lambda path: int(epochs[path][1]), reverse=True)


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the `count` newest checkpoints by epoch."""
    for path in by_epoch(folder)[count:]:
        path.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    # Not by the times of the files, which a copy of the folder loses.
    return [path for path in (folder / LAST, folder / PREVIOUS, *by_epoch(folder)) if path.exists()]


def load_training(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to train on from; InputError also where its training state is infinite or not a number."""
    checkpoint = load_checkpoint(path)
    trained = checkpoint.get("trained", {}).items()
    trained = {f"{name} of 'trained'": value for name, value in trained if isinstance(value, Tensor)}
    if name := not_finite(trained | optimizer_tensors(checkpoint.get("optimizer", {}))):
        what = f"expected a finite training state, found {name} infinite or not a number: its training diverged"
        raise InputError(f"{path}: {what}; take an earlier checkpoint, or --ft to start from its weights alone")
    return checkpoint


def optimizer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in an optimizer's state dict, such as momenta, by name."""
    by_parameter = state.get("state")
    found = {}
    for number, values in by_parameter.items() if isinstance(by_parameter, dict) else ():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, Tensor):
                found[f"{name} of parameter {number}"] = value
    return found


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint of a run, None where it has saved none, or raise InputError."""
    problem = None
    for path in newest_first(folder):
        try:
            load_training(path)
            return path
        except InputError as error:
            logger.warning("%s; taking the checkpoint before it", error)
            problem = error
    if problem:
        what = "expected an intact checkpoint to resume from, found none; move the folder away to begin anew"
        raise InputError(f"{folder}: {what}")
    return None


def newest_good(folder: Path, *others: Path | None) -> Path | None:
    """Return the newest intact one of a run's checkpoints, then of the others, or None."""
    for path in [*newest_first(folder), *filter(None, others)]:
        with contextlib.suppress(InputError):
            load_training(path)
            return path
    return None


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the random numbers of torch (CPU and `device`), NumPy and Python, fit for a checkpoint."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (name, keys.tolist(), *rest),
        "python": random.getstate(),
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Continue with the random numbers of a checkpoint."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])

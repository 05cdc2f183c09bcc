"""Resuming: what a checkpoint holds of a training, where the next one starts, and how it takes that up."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import distributed
from common.errors import InputError
from common.files import replace_file
from modeling.checkpoint import load_checkpoint
from training.checkpoint import BEST, newest_checkpoint, random_states, set_random_states
from training.options import TrainOptions
from training.run_folder import BEST_SCORE, final_scores, newest_run
from training.step import EpochLosses

if TYPE_CHECKING:
    from training.trainer import Trainer


class Ended(Exception):
    """The training that is to be resumed has ended."""


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    folder: Path | None = None  # the run to continue, None for a new one
    path: Path | None = None  # the checkpoint to start from, and its content
    checkpoint: dict[str, Any] | None = None


def find_start(options: TrainOptions, parent: Path) -> Start:
    """Return where a training starts whose runs lie in `parent`; raise Ended where nothing is left to do."""
    folder, path = None, options.resume
    if options.resume == "auto":
        folder = distributed.from_main(newest_run(parent))
        newest = newest_checkpoint(folder) if folder and distributed.is_main() else None
        path = distributed.from_main(newest and str(newest))
    if not path:
        return Start(folder)
    checkpoint = load_checkpoint(path)
    if checkpoint.get("epoch", 0) >= options.epochs and final_scores(folder) is not None:
        raise Ended(f"{folder}: this training has ended after {checkpoint['epoch']} epochs")
    return Start(folder, Path(path), checkpoint)


def training_state(trainer: Trainer) -> dict[str, Any]:
    """Return a checkpoint; all processes must call it.

    `epoch` is the number of finished epochs, `step` that of the steps of the next one, and `order` what decides which
    images those were.
    """
    step = trainer.step
    return {
        "epoch": trainer.epoch,
        "step": trainer.steps_done,
        "order": image_order(trainer),
        "state_dict": trainer.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "best_pred": trainer.best,
        "model": trainer.settings,
        "options": trainer.options.settings(),
        "losses": trainer.losses.values,
        "history": trainer.history,
        "random_states": distributed.gather(random_states(step.device)),
    }


def image_order(trainer: Trainer) -> dict[str, int | str]:
    """Return what decides, with the epoch and the step, which images come next, and which losses they have."""
    data, dataset = trainer.options.data, trainer.loaders.train.dataset
    losses = ", ".join(["cross_entropy", *sorted(trainer.step.regularisers)])
    order = {"--seed": data.seed, "--batch-size": data.batch_size, "training images": len(dataset)}
    return order | {"losses": losses}


def restore(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> None:
    """Have a trainer continue where `checkpoint`, read from `source`, stopped; its weights are loaded already.

    Raises InputError where it holds no training, or one that cannot be continued with these options.
    """
    _check_resumable(trainer, checkpoint, source)
    trainer.epoch, trainer.steps_done = checkpoint["epoch"], checkpoint.get("step", 0)
    _restore_optimizer(trainer, checkpoint, source)
    trainer.losses, trainer.history = EpochLosses(checkpoint.get("losses")), _history(checkpoint)
    trainer.best_before = float(checkpoint.get("best_pred", -1.0))
    journal, per_epoch = trainer.journal, trainer.steps_per_epoch
    journal.rewind(trainer.history, source.parent, trainer.epoch * per_epoch + trainer.steps_done, per_epoch)
    journal.write(BEST_SCORE, f"{trainer.best}\n")
    best, own = source.parent / BEST, journal.folder / BEST
    if distributed.is_main() and best.is_file() and best != own:
        replace_file(own, lambda temporary: shutil.copyfile(best, temporary))
    states = checkpoint.get("random_states", [])
    if distributed.rank() < len(states):
        set_random_states(states[distributed.rank()], trainer.step.device)


def _check_resumable(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> None:
    if "epoch" not in checkpoint or "optimizer" not in checkpoint:
        raise InputError(f"{source}: holds weights but no training state to resume; start from them with --ft")
    before, now = checkpoint.get("options", {}).get("optimizer", "sgd"), trainer.options.optimizer
    if before != now:
        raise InputError(f"{source}: was trained with {before}; give --optimizer {before}, or start afresh with --ft")
    # In its own folder a run may still lack its end.
    if checkpoint["epoch"] >= trainer.options.epochs and source.parent != trainer.journal.folder:
        raise InputError(
            f"{source}: has {checkpoint['epoch']} epochs already and --epochs is {trainer.options.epochs}; ask for "
            "more, or start afresh from its weights with --ft"
        )
    for name, value in image_order(trainer).items() if checkpoint.get("step") else ():
        before = checkpoint["order"].get(name, value)  # earlier versions did not keep the losses
        if before != value:
            raise InputError(
                f"{source}: stopped within an epoch of other batches or losses: {name} was {before} and is {value}; "
                "give the earlier value, or start afresh from its weights with --ft"
            )


def _restore_optimizer(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> None:
    optimizer = trainer.step.optimizer
    # The command line's settings, not the checkpoint's.
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except ValueError as error:
        raise InputError(f"{source}: its optimizer state does not fit ({error}); use --ft to start it afresh") from None
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    if checkpoint.get("scaler"):
        trainer.step.scaler.load_state_dict(checkpoint["scaler"])


def _history(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a checkpoint's epochs, numbered from 1 (earlier versions: from 0)."""
    history = checkpoint.get("history", [])
    shift = checkpoint["epoch"] - history[-1]["epoch"] if history else 0
    return [{**record, "epoch": record["epoch"] + shift} for record in history]

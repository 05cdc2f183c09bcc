"""Resuming: what a checkpoint holds of a training, where the next one starts, and how it takes that up."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from common import distributed
from common.errors import InputError
from common.faults import lacks_memory
from common.files import replace_file
from dataloaders import Loaders
from modeling.checkpoint import class_mismatch, load_checkpoint, load_weights, weights_digest
from training.checkpoint import (
    BEST,
    load_training,
    newest_checkpoint,
    newest_first,
    random_states,
    set_random_states,
)
from training.identity import (
    CHANGEABLE,
    SCORE_FACTS,
    Identity,
    differences,
    identity_in,
    identity_of,
    is_fingerprint,
    merged,
)
from training.options import TrainOptions
from training.run_folder import BEST_SCORE, epochs_done, final_scores, runs_in
from training.step import EpochLosses, TrainingStep

if TYPE_CHECKING:
    from training.trainer import Trainer

logger = logging.getLogger(__name__)


class Ended(Exception):
    """The training that is to be resumed has ended."""


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    identity: Identity  # of the training
    folder: Path | None = None  # the run to continue, None for a new one
    path: Path | None = None  # the checkpoint to start from, and its content
    checkpoint: dict[str, Any] | None = None
    weights_only: bool = False  # whether only the checkpoint's weights are taken

    @property
    def resumes(self) -> bool:
        """Whether a training is continued."""
        return self.checkpoint is not None and not self.weights_only


def find_start(options: TrainOptions, parent: Path, identity: Identity) -> Start:
    """Return where a training of this identity starts whose runs lie in `parent`.

    With --resume auto and with --ft, the newest run of this identity is continued, if it stopped before its end. Raises
    Ended where nothing is left to do, and InputError where a checkpoint cannot be used.
    """
    start = Start(identity)
    if not options.resume or (options.resume == "auto" and options.benchmark):  # which continues no run
        return start
    if options.resume != "auto":
        path = Path(options.resume)
        checkpoint = load_checkpoint(path) if options.ft else load_training(path)
        origin = identity_of(checkpoint).get("start")
        if options.ft:
            origin = {"file": str(path.resolve()), "weights": weights_digest(checkpoint["state_dict"])}
        start = Start({**identity, "start": origin}, None, path, checkpoint, weights_only=options.ft)
        if not options.ft or options.benchmark:
            return start
    folder = None
    if distributed.is_main():
        try:
            folder = _run_to_continue(options, parent, start)
        except Ended as ended:
            folder = ended
    folder = distributed.from_main(folder)
    if isinstance(folder, Ended):  # for every process
        raise folder
    if folder is None:
        return start
    newest = distributed.from_main(newest_checkpoint(folder) if distributed.is_main() else None)
    start = replace(start, folder=folder, identity=merged(identity_in(folder), start.identity))
    if newest is None:  # it was killed before its first
        return start
    return replace(start, path=newest, checkpoint=load_checkpoint(newest), weights_only=False)


def _run_to_continue(options: TrainOptions, parent: Path, start: Start) -> Path | None:
    """Return the newest run in `parent` that is this training and can be continued, or None; say what the newest is."""
    runs = runs_in(parent)
    if options.ft:
        origins = {folder: identity_in(folder).get("start") for folder in runs}
        runs = [folder for folder, origin in origins.items() if _same_origin(origin, start)]
        file = start.identity["start"]["file"]
        other = next((folder for folder, origin in origins.items() if origin and origin["file"] == file), None)
        if other and not runs:
            logger.warning("%s started from other weights, which %s had then: a new run begins", other, file)
    reasons, begun = [], None  # begun: the newest that was killed before its first checkpoint
    for folder in runs:
        reason = _why_not(options, folder, start.identity)
        if reason is None and newest_first(folder):
            return folder
        if reason is None:
            begun = begun or folder
        reasons.append(reason)
    if begun:
        return begun
    if not runs:
        if not options.ft:
            logger.info("--resume auto: there is no run in %s yet: a new one begins", parent)
        return None
    ours = start.identity["data"]["classes"]
    mismatch = class_mismatch({"class_names": identity_in(runs[0]).get("data", {}).get("classes", ours)}, ours)
    if mismatch and not options.ft:
        advice = "give the classes of its training, another --checkname, or --ft to start from its weights"
        raise InputError(f"{runs[0]}: {mismatch}; {advice}")
    logger.warning("%s %s: it stays as it is, and a new run begins", runs[0], reasons[0])
    return None


def _why_not(options: TrainOptions, folder: Path, identity: Identity) -> str | None:
    """Return why the run in `folder` is not to be continued, None where it is; raise Ended where it has ended."""
    before, done = identity_in(folder), epochs_done(folder)
    if not before:
        return "does not say which training it is"
    if other := differences(before, identity):
        return f"is another training ({'; '.join(other)})"
    if final_scores(folder) is None:
        gone = not newest_first(folder) and (done or (folder / BEST).exists())
        return f"stopped after {done} epochs, and its checkpoints are gone" if gone else None
    steps = before.get("settings", {}).get("steps")
    longer = bool(steps) and (not options.steps or options.steps > steps)  # perhaps within the last epoch
    newest = newest_checkpoint(folder) if done < options.epochs or longer else None
    checkpoint = load_checkpoint(newest) if newest else {}
    cut = checkpoint.get("step", 0) > 0
    epoch = checkpoint.get("epoch", 0) + cut
    if max(done, epoch) >= options.epochs + (longer and cut):
        changed = "; ".join(differences(before, identity, CHANGEABLE - {"epochs"}))
        advice = f" with other settings ({changed}); another --checkname makes a new training" if changed else ""
        raise Ended(f"{folder}: this training has ended after {max(done, epoch)} epochs{advice}")
    return f"has ended after {done} epochs, and its last checkpoint is gone" if epoch < done else None


def _same_origin(before: dict[str, str] | None, start: Start) -> bool:
    """Return whether a run started from the file of --ft, also where its own best network has replaced that file."""
    if before is None:
        return False
    now, then = start.identity["start"], identity_of(start.checkpoint).get("start")
    return before["weights"] == now["weights"] or (before["file"] == now["file"] and before == then)


def training_state(trainer: Trainer) -> dict[str, Any]:
    """Return a checkpoint; all processes must call it.

    `epoch` is the number of finished epochs, `step` that of the steps of the next one, and `order` what decides which
    images those were. An epoch that a length in steps cut off is not finished: a longer training takes its other steps.
    `state_dict` is what is scored; with --ema the weights from which training resumes are in `trained`.
    """
    step, finished = trainer.step, trainer.epoch - bool(trainer.left_over)
    return {
        "epoch": finished,
        "step": trainer.steps_done,
        "order": image_order(trainer.options, trainer.loaders, trainer.step),
        "state_dict": trainer.network.state_dict(),
        **({"trained": trainer.model.state_dict()} if step.average else {}),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "regularisers": {name: module.state_dict() for name, module in step.regularisers.items()},
        "best_pred": trainer.best,
        "model": trainer.settings,
        "identity": trainer.identity,
        "options": trainer.options.settings(),
        "losses": trainer.losses.values,
        "history": [record for record in trainer.history if record["epoch"] <= finished],
        "random_states": distributed.gather(random_states(step.device)),
    }


def image_order(options: TrainOptions, loaders: Loaders, step: TrainingStep) -> dict[str, int | str]:
    """Return what decides, with the epoch and the step, which images come next, and which losses they have."""
    losses = ", ".join(["cross_entropy", *sorted(step.regularisers)])
    order = {"--seed": options.data.seed, "--batch-size": options.data.batch_size, "--repeat": options.data.repeat}
    return order | {"training images": len(loaders.train.dataset), "losses": losses}


def restore(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> None:
    """Have a trainer continue where `checkpoint`, read from `source`, stopped; its weights are loaded already.

    What differs from the training before is logged; where its scores are not comparable, the best starts anew. Raises
    InputError where the checkpoint's parts do not fit (see check_resumable for the rest).
    """
    trainer.epoch, trainer.steps_done = checkpoint["epoch"], checkpoint.get("step", 0)
    if "trained" in checkpoint:
        with _own_state(source, "trained"):
            load_weights(trainer.model, checkpoint["trained"], f"{source}, 'trained'")
        if trainer.step.average:
            # With the weights that are loaded already, but for a run that was killed before its first step.
            trainer.step.average.begun = trainer.epoch + trainer.steps_done > 0
    _restore_optimizer(trainer, checkpoint, source)
    with _own_state(source, "regularisers"):  # what they keep from step to step
        for name in trainer.step.regularisers.keys() & checkpoint.get("regularisers", {}).keys():
            trainer.step.regularisers[name].load_state_dict(checkpoint["regularisers"][name])
    with _own_state(source, "losses"):
        losses = checkpoint.get("losses", {})
        trainer.losses = EpochLosses({name: [*map(float, values)] for name, values in losses.items()})
    with _own_state(source, "history"):
        trainer.history = _history(checkpoint)
    comparable = _report_changes(trainer, checkpoint, source)
    if comparable:
        trainer.best_before = float(checkpoint.get("best_pred", -1.0))
    else:
        trainer.history = [{key: value for key, value in one.items() if key != "val"} for one in trainer.history]
    journal, within = trainer.journal, trainer.steps_done
    # Between two epochs the batch size may have changed, and with it the number of the step.
    step = within and trainer.epoch * trainer.steps_per_epoch + within
    journal.rewind(trainer.history, source.parent, trainer.epoch, step)
    journal.write(BEST_SCORE, f"{trainer.best}\n")
    best, own = source.parent / BEST, journal.folder / BEST
    if comparable and distributed.is_main() and best != own and best.is_file():
        if _best_score(best) == checkpoint.get("best_pred"):
            replace_file(own, lambda temporary: shutil.copyfile(best, temporary))
        else:  # that run has gone on and found a better one, or the file is damaged
            logger.warning("%s is not the best that %s knew of: it is not taken over", best, source.name)
    states = checkpoint.get("random_states", [])
    if distributed.rank() < len(states):
        with _own_state(source, "random_states"):
            set_random_states(states[distributed.rank()], trainer.step.device)


def _best_score(path: Path) -> float | None:
    with contextlib.suppress(InputError):
        return load_checkpoint(path).get("best_pred")
    return None


def _report_changes(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> bool:
    """Log in what the training differs from the one before; return whether its scores can be compared."""
    before, now = identity_of(checkpoint), trainer.identity
    if not is_fingerprint(checkpoint.get("identity")):
        logger.warning("%s: an earlier version did not keep what its data were, so that they are not compared", source)
    changed = differences(before, now) + differences(before, now, CHANGEABLE)
    comparable = not differences(before, now, SCORE_FACTS)
    if changed:
        best = "" if comparable else "; the scores are not comparable, so that the best starts anew"
        logger.warning("%s is resumed with changes: %s%s", source, "; ".join(changed), best)
    options = checkpoint.get("options", {})
    steps = options.get("steps") or options.get("epochs", trainer.options.epochs) * trainer.steps_per_epoch
    if trainer.history and steps < trainer.steps:
        ended, begins = trainer.history[-1]["lr"], trainer.set_rate(trainer.steps_done)
        if begins > ended:
            length = f"{trainer.steps} steps" if trainer.options.steps else f"{trainer.options.epochs} epochs"
            what = "as the schedule is now that of %s, the learning rate rises from %.3g to %.3g"
            logger.warning(what, length, ended, begins)
    return comparable


def check_resumable(options: TrainOptions, loaders: Loaders, step: TrainingStep, start: Start) -> None:
    """Raise InputError where a checkpoint holds no training, or one that cannot be continued with these options."""
    checkpoint, source = start.checkpoint, start.path
    if "epoch" not in checkpoint or "optimizer" not in checkpoint:
        raise InputError(f"{source}: holds weights but no training state to resume; start from them with --ft")
    if checkpoint.get("step") and "order" not in checkpoint:
        what = "its 'step' comes from another program, without the order of the images"
        raise InputError(f"{source}: {what}; start from its weights with --ft")
    before, now = checkpoint.get("options", {}).get("optimizer", "sgd"), options.optimizer
    if before != now:
        raise InputError(f"{source}: was trained with {before}; give --optimizer {before}, or start afresh with --ft")
    within, per_epoch = checkpoint.get("step", 0), len(loaders.train)
    steps, done = options.steps or options.epochs * per_epoch, checkpoint["epoch"] * per_epoch + within
    # In its own folder a run may still lack its end.
    if (checkpoint["epoch"] >= options.epochs or done == options.steps) and source.parent != start.folder:
        has = f"{done} steps already and --steps is {steps}" if options.steps else ""
        has = has or f"{checkpoint['epoch']} epochs already and --epochs is {options.epochs}"
        raise InputError(f"{source}: has {has}; ask for more, or start afresh from its weights with --ft")
    if within and done > steps:
        raise InputError(f"{source}: has {done} steps already, of {steps} in all; ask for more --steps or --epochs")
    for name, value in image_order(options, loaders, step).items() if within else ():
        before = checkpoint["order"].get(name, value)  # earlier versions did not keep the losses
        if before != value:
            raise InputError(
                f"{source}: stopped within an epoch of other batches or losses: {name} was {before} and is {value}; "
                "give the earlier value, or start afresh from its weights with --ft"
            )
    if within > per_epoch:  # of fewer processes, a small last batch counted
        what = f"stopped after {within} steps of an epoch, which has {per_epoch} here"
        raise InputError(f"{source}: {what}; resume with as many processes as before")


def _restore_optimizer(trainer: Trainer, checkpoint: dict[str, Any], source: Path) -> None:
    optimizer = trainer.step.optimizer
    # The command line's settings, not the checkpoint's.
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    with _own_state(source, "optimizer"):
        optimizer.load_state_dict(checkpoint["optimizer"])
        for weight, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != weight.shape:
                    raise ValueError(f"{name} of {tuple(value.shape)} for a weight of {tuple(weight.shape)}")
        keeps_state = any(group.get("momentum", True) for group in checkpoint["optimizer"]["param_groups"])
        # With fp16 an epoch may begin with steps that are left out.
        begun = checkpoint["epoch"] or (checkpoint.get("step") and not checkpoint.get("scaler"))
        if begun and keeps_state and not optimizer.state:
            raise ValueError("no state of any weight, as if it had been emptied")
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    if checkpoint.get("scaler"):
        with _own_state(source, "scaler"):
            trainer.step.scaler.load_state_dict(checkpoint["scaler"])


@contextlib.contextmanager
def _own_state(source: Path, name: str) -> Iterator[None]:
    """Raise InputError where `name` in a checkpoint is not what this training has under that name."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        if lacks_memory(error):
            raise
        what = f"its '{name}' is not of this training ({type(error).__name__}: {error})".split("\n")[0]
        raise InputError(f"{source}: {what}; start from its weights with --ft") from None


def _history(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a checkpoint's epochs, numbered from 1 (earlier versions: from 0)."""
    history = checkpoint.get("history", [])
    for record in history:  # what will be read of them, all numbers
        scores = record.get("val") or {"miou": 0.0}
        sum([record["epoch"], record["lr"], record["losses"]["cross_entropy"], scores["miou"]])
    shift = checkpoint["epoch"] - history[-1]["epoch"] if history else 0
    return [{**record, "epoch": record["epoch"] + shift} for record in history]

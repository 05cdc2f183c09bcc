"""The training loop: epochs of steps, evaluations, checkpoints."""

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common import distributed
from common.errors import InputError
from dataloaders import Loaders
from evaluation import evaluate
from modeling.data_parallel import share_statistics
from modeling.weights import not_finite
from training.checkpoint import (
    BEST,
    BY_EPOCH,
    keep_newest,
    newest_good,
    optimizer_tensors,
    save_checkpoint,
    save_last,
)
from training.faults import Stopped, StopRequest
from training.identity import Identity, best_of_runs
from training.journal import Journal
from training.options import TrainOptions
from training.results import draw_curves, draw_validation, final_evaluation
from training.resume import training_state
from training.run_folder import BEST_SCORE
from training.schedule import rate_factor
from training.step import EpochLosses, NotFinite, TrainingStep

SECONDS_PER_LINE = 60  # of progress, where there is no terminal for a bar

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains a network from its options to its final scores (see training.build.build_trainer)."""

    options: TrainOptions  # resolved
    origin: Path | None  # the checkpoint that the weights come from
    model: nn.Module  # on its device
    settings: dict[str, Any]  # what rebuilds the model, kept in the checkpoints
    identity: Identity  # what the training is, also kept there
    loaders: Loaders  # of this process
    step: TrainingStep
    journal: Journal
    advise: Callable[[Sequence[dict[str, Any]]], str | None]  # from the records of the epochs so far to a warning

    def __post_init__(self) -> None:
        self.epoch, self.steps_done = self.options.start_epoch, 0  # finished epochs, and steps of the next one
        self.losses = EpochLosses()
        self.history: list[dict[str, Any]] = []  # a record for each finished epoch
        self.best_before = -1.0  # of what the history does not know
        self.stop = StopRequest()
        self._line_at = time.monotonic()

    @property
    def network(self) -> nn.Module:
        """The network that is scored and kept: the model, or with --ema the moving average of its weights."""
        return self.model if self.step.average is None else self.step.average.network

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        return len(self.loaders.train)

    @property
    def steps(self) -> int:
        """Steps in the whole training."""
        return self.options.steps or self.options.epochs * self.steps_per_epoch

    @property
    def left_over(self) -> int:
        """Steps that the last finished epoch lacks, where a length in steps cut it off."""
        return max(0, self.epoch * self.steps_per_epoch - self.steps)

    @property
    def steps_this_epoch(self) -> int:
        """Steps in the epoch that is not finished; with --steps the last one may be shorter."""
        return min(self.steps_per_epoch, self.steps - self.epoch * self.steps_per_epoch)

    @property
    def best(self) -> float:
        """The highest mIoU of the validation images so far, or -1."""
        return max([self.best_before, *(record["val"]["miou"] for record in self.history if record.get("val"))])

    # The loop

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch and return the final scores.

        Raises Stopped where a signal came and everything is saved, and InputError where a loss is not finite or a file
        cannot be written.
        """
        try:
            with self.stop:
                while self.epoch < self.options.epochs:
                    record = self.train_epoch()
                    due = record["epoch"] % self.options.eval_interval == 0 or record["epoch"] == self.options.epochs
                    if due and not self.options.no_val:
                        self.save()  # here, as an evaluation may take long and be stopped
                        record["val"] = self.evaluate(self.loaders.val, "evaluating")
                    self.end_epoch(record)
                return self.finish()
        except Stopped:
            again = self.options.resume == "auto" or (self.options.resume and self.options.ft)
            how = "the same command" if again else "--resume auto"
            logger.info("stopped and saved; %s continues from here: %s", how, self.journal.folder)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Release the run's folder without training."""
        self.journal.close()

    def train_epoch(self) -> dict[str, Any]:
        """Train to the end of the epoch and return its record: epoch, lr, mean losses, images per second.

        There is no such rate where a run was stopped in the evaluation after the epoch's last step.
        """
        epoch, total = self.epoch + 1, self.steps_this_epoch
        first, title = self.steps_done, f"epoch {epoch}/{self.options.epochs}"
        self.loaders.train.batch_sampler.set_epoch(self.epoch, start=first)
        self.model.train()
        self.step.reset()
        hidden = None if distributed.is_main() else True  # None: only without a terminal
        bar = tqdm(desc=title, unit="step", initial=first, total=total, leave=False, disable=hidden)
        with bar, logging_redirect_tqdm():
            for batch in itertools.islice(self.timed(self.loaders.train), total - first):
                lr = self.set_rate(self.steps_done)
                self.train_step(batch)
                bar.update()
                if self.steps_done % self.options.log_interval == 0 or self.steps_done == total:
                    bar.set_postfix_str(self.log_steps(lr))
                if distributed.any_process(bool(self.stop)):
                    self.save()
                    raise Stopped
                if self.options.save_steps and self.steps_done % self.options.save_steps == 0:
                    self.save()
        for network in dict.fromkeys((self.model, self.network)):
            share_statistics(network)
        seconds = sum(self.step.clock.seconds.get(name, 0.0) for name in self.step.regularisers)
        on_gpu = self.step.device.type == "cuda"  # where the clock would measure the wait for the network
        return {
            "epoch": epoch,
            "lr": self.set_rate(total - 1),
            "losses": self.losses.means(),
            "images_per_second": round(self.step.images / self.step.clock.total, 2) if total > first else None,
            "regulariser_ms": round(1000 * seconds / (total - first), 2) if total > first and not on_gpu else None,
        }

    def train_step(self, batch: dict[str, Any]) -> None:
        """Take the next step of this epoch."""
        try:
            losses = self.step(batch)
        except NotFinite as error:
            raise self._diverged(error, self.steps_done + 1, batch["name"]) from None
        self.steps_done += 1
        self.losses.add(self.steps_done, batch["name"], losses)

    def timed(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches and count the time of waiting for them."""
        iterator = iter(batches)
        while True:
            with self.step.clock.part("data"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def set_rate(self, step: int) -> float:
        """Set the learning rates for a step of this epoch, counted from 0, and return the backbone's."""
        options = self.options
        drop = options.lr_step * (1 if options.steps else self.steps_per_epoch)
        step += self.epoch * self.steps_per_epoch
        factor = rate_factor(options.lr_scheduler, step, self.steps, steps_per_drop=drop)
        for group in self.step.optimizer.param_groups:
            group["lr"] = options.lr * factor * group["lr_scale"]
        return options.lr * factor

    def log_steps(self, lr: float) -> str:
        """Record the mean losses of the steps since the last log line, and return them as text."""
        self.read_losses()
        start = (self.steps_done - 1) // self.options.log_interval * self.options.log_interval
        total = self.step.clock.total
        entry = {
            "step": self.epoch * self.steps_per_epoch + self.steps_done,
            "epoch": self.epoch + 1,
            "lr": lr,
            "losses": self.losses.means(start),
            "images_per_second": round(self.step.images / total, 2),
            "waiting_for_data": round(self.step.clock.seconds["data"] / total, 3),
        }
        text = self.journal.steps(entry, {name: values[start:] for name, values in self.losses.values.items()})
        if not sys.stderr.isatty() and time.monotonic() - self._line_at > SECONDS_PER_LINE:
            self._line_at = time.monotonic()
            place = f"epoch {entry['epoch']}/{self.options.epochs}, step {self.steps_done}/{self.steps_this_epoch}"
            logger.info("%s: %s", place, text)
        return text

    def read_losses(self) -> None:
        """Fetch the losses of the last steps from the device; raise InputError where one is not finite."""
        try:
            self.losses.read()
        except NotFinite as failed:
            raise self._diverged(failed, failed.step, failed.image_ids) from None

    def _diverged(self, failed: NotFinite, step: int, image_ids: Sequence[str]) -> InputError:
        good = newest_good(self.journal.folder, self.origin) or "none yet"
        return InputError(
            f"the loss {failed.name} became {failed.value} at epoch {self.epoch + 1}, step {step}, images "
            f"{', '.join(image_ids)}; lower --lr or the weights, or look at these files; last good checkpoint: {good}"
        )

    # Evaluation and the end of an epoch

    def evaluate(self, batches: Iterable[dict[str, Any]], title: str) -> dict[str, Any]:
        """Return the scores of the network, in float32; a signal stops it."""
        return evaluate(self.network, batches, self.loaders.num_classes, title, self.until_stopped)

    def until_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of an evaluation; a signal ends the training between two of them, without saving.

        All processes must call it, and exhaust it: a signal to one of them stops them all, once each has come to its
        last batch or heard of a signal itself, as they may have different numbers of batches.
        """
        for batch in batches:
            if self.stop:
                break
            yield batch
        if distributed.any_process(bool(self.stop)):
            raise Stopped

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Log an epoch, keep its checkpoints and redraw the pictures."""
        best_before = self.best
        self.history.append(record)
        self.epoch += 1
        if not self.left_over:
            self.steps_done, self.losses = 0, EpochLosses()
        self.journal.epoch(record, self.options.epochs, self.loaders.class_names)
        if advice := self.advise(self.history):
            logger.warning("%s", advice)
        improved = self.best > best_before
        folder, copies = self.journal.folder, []
        if improved and distributed.is_main():
            copies += filter(None, [best_of_runs(folder, self.identity, self.best)])
        if improved or self.options.no_val:
            copies.append(folder / BEST)
        if self.options.save_interval and self.epoch % self.options.save_interval == 0:
            copies.append(folder / BY_EPOCH.format(self.epoch))
        self.save(*copies)
        if improved:
            self.journal.write(BEST_SCORE, f"{self.best}\n")
        if self.options.keep and distributed.is_main():
            keep_newest(folder, self.options.keep)
        if record.get("val") and self.epoch < self.options.epochs and distributed.is_main():
            self.draw()  # after everything is saved, as it may fail

    def draw(self) -> None:
        """Draw the curves and some validation images."""
        draw_curves(self.journal, self.history)
        if not self.options.no_val:
            images, size = self.loaders.val.dataset, self.options.data.short_side
            draw_validation(self.journal, self.epoch, self.network, images, size)

    def finish(self) -> dict[str, Any]:
        """Draw the last network's pictures, score it by both protocols, return val, fill_in (both crop), val_full."""
        if distributed.is_main():
            self.draw()
        scores: dict[str, Any] = {}
        if not self.options.no_val:
            # A run resumed with fewer --epochs may end between two evaluations.
            val = self.history[-1].get("val")
            folder = self.journal.folder / "evaluation"
            scores = final_evaluation(self.network, self.loaders, self.options, folder, val, self.until_stopped)
        self.journal.record({"final": scores, "best_miou": self.best})
        logger.info("results: %s", self.journal.folder)
        return scores

    def save(self, *copies: Path) -> None:
        """Write the run's newest checkpoint, and the same to other places; all processes must call it."""
        self.read_losses()
        state = training_state(self)
        if weight := not_finite(state["state_dict"] | optimizer_tensors(state["optimizer"])):
            good = newest_good(self.journal.folder, self.origin) or "none yet"
            steps = self.epoch * self.steps_per_epoch + self.steps_done
            what = f"{weight} is infinite or not a number after {steps} steps"
            raise InputError(f"{what}; lower --lr or the weights of the losses; last good checkpoint: {good}")
        if distributed.is_main():
            for path in copies:  # no links to one file, which whoever rewrites one of them would change everywhere
                save_checkpoint(path, state, owner=self.journal.folder.name)
            save_last(self.journal.folder, state)

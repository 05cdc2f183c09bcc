"""The training loop: epochs, evaluation, checkpoints. It is handed the network, the data and the losses."""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common import distributed
from common.errors import InputError
from common.files import replace_file
from common.stopwatch import Stopwatch
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.loaders import Loaders
from dataloaders.transforms import denormalize, to_device
from evaluation.protocols import Protocol, evaluate, evaluate_split
from evaluation.report import write_report
from evaluation.scores import score_table
from figures.colours import scribble_picture
from figures.curves import save_curves
from figures.sheets import evenly_spaced, save_contact_sheet
from prediction.evaluation_views import label_map, predict
from training.advice import EARLY, progress_advice
from training.balance import percentage, report_shares
from training.checkpoint import (
    BEST,
    BEST_OF_RUNS,
    BY_EPOCH,
    LAST,
    keep_newest,
    random_states,
    save_checkpoint,
    save_last,
    set_random_states,
)
from training.faults import Stopped, StopRequest
from training.journal import Monitor
from training.options import least_images
from training.schedule import rate_factor

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SECONDS_PER_LINE = 60  # of progress, where there is no terminal for a bar

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What the parts of a batch, over all processes, have in common."""

    names: list[str]
    """Those images that this process has."""
    images: int
    size: Tensor
    """What the criterion divides by."""


class Trainer:
    """Train `model` on `loaders.train` with `criterion` plus `regularisers`.

    Args:
        args: the options (see training/options.py).
        model: the network, on its device, with get_1x_lr_params() and get_10x_lr_params().
        settings: what rebuilds the network, kept in the checkpoints.
        loaders: what make_data_loader returns for this process.
        criterion: (logits, labels) -> scalar over the labelled pixels.
        regularisers: name -> module (image, probabilities, region_of_interest) -> scalar.
        monitor: the run's folder.
        guessing, early: the cross-entropy of a network that has learned nothing, and the steps after which that is
            told (see training/advice.py); by default there is no advice.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        settings: dict[str, Any],
        loaders: Loaders,
        criterion: nn.Module,
        regularisers: Mapping[str, nn.Module],
        monitor: Monitor,
        guessing: float = float("inf"),
        early: int = EARLY,
    ) -> None:
        self.args, self.model, self.settings, self.loaders = args, model, settings, loaders
        self.criterion, self.regularisers, self.monitor = criterion, regularisers, monitor
        self.guessing, self.early = guessing, early
        self.device = next(model.parameters()).device
        network = torch.compile(model) if args.compile else model
        self.network = distributed.parallel(network, self.device)
        self.optimizer = torch.optim.SGD(
            [
                {"params": list(model.get_1x_lr_params())},
                {"params": list(model.get_10x_lr_params()), "lr": args.head_rate * args.lr},
            ],
            lr=args.lr,
            momentum=args.momentum,
            weight_decay=args.weight_decay,
            nesterov=args.nesterov,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp == "fp16")
        self.epoch, self.step = args.start_epoch, 0  # finished epochs, and steps of the next one
        self.steps = len(loaders.train)
        self.losses: dict[str, list[float]] = {}  # of the steps of this epoch
        self.pending: list[tuple[int, list[str], dict[str, Tensor]]] = []  # (step, images, losses still on the device)
        self.best = -1.0
        self.history: list[dict[str, Any]] = []
        self.stop = StopRequest()
        self.clock, self.images = Stopwatch(), 0
        self._line_at = time.monotonic()
        # A checkpoint is known to be good when a step from its weights has given finite losses.
        self._saved = self._good = Path(args.resume) if args.resume else None
        self._share_is_known = False

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """Return a checkpoint; all processes must call it.

        `epoch` is the number of finished epochs, `step` that of the steps of the next one, and `order` what decides
        which images those were.
        """
        self.read_losses()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "order": self.order(),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_pred": self.best,
            "model": self.settings,
            "options": vars(self.args),
            "losses": self.losses,
            "history": self.history,
            "random_states": distributed.gather(random_states(self.device)),
        }

    def order(self) -> dict[str, int]:
        """Return what decides, with the epoch and the step, which images come next."""
        dataset = self.loaders.train.dataset
        return {"--seed": self.args.seed, "--batch-size": self.args.batch_size, "training images": len(dataset)}

    def restore(self, checkpoint: dict[str, Any], source: Path) -> None:
        """Continue where `checkpoint` stopped; its weights are loaded already."""
        if "epoch" not in checkpoint or "optimizer" not in checkpoint:
            raise InputError(
                f"{source}: holds weights but no state of a training to go on with; start from them with --ft"
            )
        self.epoch, self.step = checkpoint["epoch"], checkpoint.get("step", 0)
        # In its own folder a run may still lack its end.
        if self.epoch >= self.args.epochs and source.parent != self.monitor.folder:
            raise InputError(
                f"{source}: has {self.epoch} epochs already and --epochs is {self.args.epochs}; "
                "ask for more, or start anew from its weights with --ft"
            )
        for name, value in self.order().items() if self.step else ():
            if checkpoint["order"][name] != value:
                raise InputError(
                    f"{source}: stopped within an epoch of other batches: {name} was {checkpoint['order'][name]} and "
                    f"is {value}; give what was, or start anew from its weights with --ft"
                )
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        except ValueError as error:
            raise InputError(
                f"{source}: its optimizer state does not fit ({error}); use --ft to start it anew"
            ) from None
        for group in self.optimizer.param_groups:  # the command line's, not the checkpoint's
            group.update({name: getattr(self.args, name) for name in ("momentum", "weight_decay", "nesterov")})
        if checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.losses, self.history = checkpoint.get("losses", {}), checkpoint.get("history", [])
        self.monitor.rewind(self.history, source.parent, self.epoch * self.steps + self.step)
        self.best = float(checkpoint.get("best_pred", -1.0))
        self.monitor.write("best_pred.txt", f"{self.best}\n")
        best, own = source.parent / BEST, self.monitor.folder / BEST
        if distributed.is_main() and best.is_file() and best != own:
            replace_file(own, lambda temporary: shutil.copyfile(best, temporary))
        states = checkpoint.get("random_states", [])
        if distributed.rank() < len(states):
            set_random_states(states[distributed.rank()], self.device)

    def save(self, *copies: Path) -> None:
        """Write the run's newest checkpoint, and the same to other places; all processes must call it."""
        state = self.state()
        self._saved = self.monitor.folder / LAST
        if distributed.is_main():
            for path in copies:
                save_checkpoint(path, state)
            save_last(self.monitor.folder, state)

    # Training

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch and return the final scores.

        Raises:
            Stopped: a signal came; everything is saved.
        """
        with self.stop:
            while self.epoch < self.args.epochs:
                record = self.train_epoch()
                last = self.epoch + 1 == self.args.epochs
                if not self.args.no_val and ((self.epoch + 1) % self.args.eval_interval == 0 or last):
                    self.save()  # here, as an evaluation may take long and be stopped
                    record["val"] = self.evaluate(self.loaders.val, "evaluating")
                self.history.append(record)
                self.monitor.record(record)
                self.epoch, self.step, self.losses = self.epoch + 1, 0, {}
                self.report(record)
            return self.finish()

    def train_epoch(self) -> dict[str, Any]:
        """Train to the end of the epoch and return its record: epoch, lr, mean losses, images per second."""
        self.loaders.train.batch_sampler.set_epoch(self.epoch, start=self.step)
        self.model.train()
        self.clock.reset()
        self.images, first = 0, self.step
        bar = tqdm(
            desc=f"epoch {self.epoch + 1}/{self.args.epochs}",
            unit="step",
            initial=first,
            total=self.steps,
            leave=False,
            disable=None if distributed.is_main() else True,
        )
        with bar, logging_redirect_tqdm():
            for batch in self.timed(self.loaders.train):
                lr = self.set_rate()
                self.train_step(batch)
                self.step += 1
                bar.update()
                if self.step % self.args.log_interval == 0 or self.step == self.steps:
                    bar.set_postfix_str(self.log_steps(lr))
                if distributed.any_process(bool(self.stop)):
                    self.save()
                    raise Stopped
                if self.args.save_steps and self.step % self.args.save_steps == 0:
                    self.save()
        lr = self.set_rate(self.steps - 1)
        self.monitor.scalars({"train/lr": lr}, self.epoch)
        regularisers = sum(self.clock.seconds.get(name, 0.0) for name in self.regularisers)
        return {
            "epoch": self.epoch,
            "lr": lr,
            "losses": {name: sum(values) / len(values) for name, values in self.losses.items()},
            "images_per_second": round(self.images / self.clock.total, 2),
            "regulariser_ms": round(1000 * regularisers / max(1, self.steps - first), 2),
        }

    def timed(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches and count the time of waiting for them."""
        iterator = iter(batches)
        while True:
            with self.clock.part("data"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def set_rate(self, step: int | None = None) -> float:
        """Set the learning rates for a step of this epoch (default: the next one) and return the backbone's."""
        step = self.epoch * self.steps + (self.step if step is None else step)
        factor = rate_factor(
            self.args.lr_scheduler,
            step,
            self.args.epochs * self.steps,
            epoch=self.epoch,
            epochs_per_drop=self.args.lr_step,
        )
        for group, scale in zip(self.optimizer.param_groups, (1, self.args.head_rate), strict=True):
            group["lr"] = self.args.lr * factor * scale
        return self.args.lr * factor

    def train_step(self, batch: dict[str, Any]) -> None:
        """Take one optimizer step on a batch, of which this process has its share."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.accumulate_gradients(batch)
        with self.clock.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.pending.append((self.step, batch["name"], losses))

    def accumulate_gradients(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Leave the gradient of the whole batch's loss in the parameters; return what this share adds to each loss.

        Whatever its parts, over the processes and one after the other (--accumulate), the batch's loss is the same: the
        cross-entropy is divided by the labelled pixels and images of the whole batch, and a regulariser, a mean over
        images, counts with the part's share of them.
        """
        with self.clock.part("data"):
            images, labels = to_device(batch, self.device)
            region = labels != PADDING
            labels = labels.masked_fill(~region, UNLABELLED)
        processes = distributed.world_size()
        count = int(distributed.sum_over_processes(torch.tensor(len(images))))
        whole = Batch(batch["name"], count, distributed.sum_over_processes(self.criterion.size(labels)))
        self.images += count
        # The same number everywhere, as each forward pass of synchronised batch norms is one of all processes.
        parts = max(1, min(self.args.accumulate, count // processes // least_images(self.args, processes)))
        losses: dict[str, Tensor] = {}
        for number, part in enumerate(zip(*(t.tensor_split(parts) for t in (images, labels, region)), strict=True)):
            with nullcontext() if number == parts - 1 else distributed.without_reduction(self.network):
                terms = self.part_losses(*part, whole)
                with self.clock.part("backward"):
                    # Processes times, as their gradients are averaged.
                    self.scaler.scale(torch.stack(list(terms.values())).sum() * processes).backward()
            losses = {name: losses.get(name, 0) + term.detach() for name, term in terms.items()}
        return losses

    def part_losses(self, images: Tensor, labels: Tensor, region: Tensor, whole: Batch) -> dict[str, Tensor]:
        """Return what a part adds to each loss of the whole batch."""
        half = torch.autocast(self.device.type, AMP_TYPES.get(self.args.amp), enabled=self.args.amp != "off")
        with self.clock.part("forward"), half:
            logits = self.network(images).float()
        with self.clock.part("cross_entropy"):
            terms = {"cross_entropy": self.criterion(logits, labels, whole.size)}
        if self.regularisers:
            # Now, as they refuse what is not a probability.
            self.check_finite({"cross_entropy": terms["cross_entropy"].item()}, self.step, whole.names)
            # Rounding leaves the range by a hair.
            image = denormalize(images).clamp(0, 255)
            probabilities = logits.softmax(1)
        for name, regulariser in self.regularisers.items():
            with self.clock.part(name):
                terms[name] = regulariser(image, probabilities, region) * (len(images) / whole.images)
        if self.regularisers:
            self.check_finite({name: terms[name].item() for name in self.regularisers}, self.step, whole.names)
        if self.regularisers and not self._share_is_known:
            report_shares(terms, logits)
            self._share_is_known = True
        return terms

    def evaluate(self, batches: Iterable[dict[str, Any]], title: str) -> dict[str, Any]:
        """Return the scores of the network, in float32; a signal stops it."""
        return evaluate(self.model, self.until_stopped(batches), self.loaders.num_classes, title)

    def until_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of an evaluation; a signal ends the training between two of them, without saving."""
        for batch in batches:
            if self.stop:
                raise Stopped
            yield batch

    def read_losses(self) -> None:
        """Fetch the losses of the last steps from the device, which is the one place that waits for it."""
        if not self.pending:
            return
        names = list(self.pending[0][2])
        values = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self.pending]).cpu()
        for (step, images, _), row in zip(self.pending, values.tolist(), strict=True):
            self.check_finite(dict(zip(names, row, strict=True)), step, images)
        self.pending.clear()
        self._good = self._saved
        for name, column in zip(names, distributed.sum_over_processes(values).T.tolist(), strict=True):
            self.losses.setdefault(name, []).extend(column)

    def check_finite(self, losses: dict[str, float], step: int, images: list[str]) -> None:
        """Stop the run when a loss of a step of this epoch is not finite."""
        for name, value in losses.items():
            if not math.isfinite(value):
                raise InputError(
                    f"the loss {name} became {value} at epoch {self.epoch + 1}, step {step}, images "
                    f"{', '.join(images)}; lower --lr or the weights, or look at these files; "
                    f"last good checkpoint: {self._good or 'none yet'}"
                )

    def log_steps(self, lr: float) -> str:
        """Record the mean losses of the steps since the last log line, and return them as text."""
        self.read_losses()
        start = (self.step - 1) // self.args.log_interval * self.args.log_interval
        end = self.epoch * self.steps + self.step
        latest = {name: values[start:] for name, values in self.losses.items()}
        for name, values in latest.items():
            for step, value in enumerate(values, end - len(values)):
                self.monitor.scalars({f"train/{name}": value}, step)
        means = {name: sum(values) / len(values) for name, values in latest.items()}
        rate = self.images / self.clock.total
        waiting = self.clock.seconds["data"] / self.clock.total
        self.monitor.record(
            {
                "step": end,
                "epoch": self.epoch,
                "lr": lr,
                "losses": means,
                "images_per_second": round(rate, 2),
                "waiting_for_data": round(waiting, 3),
            },
            "steps.jsonl",
        )
        text = " ".join(f"{name.replace('cross_entropy', 'ce')} {value:.3g}" for name, value in means.items())
        text += f", {rate:.1f} img/s, {percentage(waiting)} waiting for data"
        if not sys.stderr.isatty() and time.monotonic() - self._line_at > SECONDS_PER_LINE:
            self._line_at = time.monotonic()
            logger.info("epoch %d/%d, step %d/%d: %s", self.epoch + 1, self.args.epochs, self.step, self.steps, text)
        return text

    # Reports

    def report(self, record: dict[str, Any]) -> None:
        """Log an epoch, keep its checkpoints and redraw the figures."""
        losses = ", ".join(f"{name.replace('_', '-')} {value:.4g}" for name, value in record["losses"].items())
        line = f"epoch {record['epoch'] + 1}/{self.args.epochs}: {losses}, {record['images_per_second']} images/s"
        scores = record.get("val")
        if scores:
            line += f", val mIoU (crop) {100 * scores['miou']:.2f}, pixel accuracy {100 * scores['pixel_accuracy']:.2f}"
            shown = {f"val/{name}": value for name, value in scores.items() if isinstance(value, float)}
            by_class = zip(self.loaders.class_names, scores["iou"], strict=True)
            shown |= {f"val_iou/{name}": iou for name, iou in by_class if iou is not None}
            self.monitor.scalars(shown, self.epoch)
        logger.info("%s", line)
        advice = progress_advice(self.history, len(self.loaders.train), self.guessing, self.early)
        if advice:
            logger.warning("%s", advice)
        if (scores or self.epoch == self.args.epochs) and distributed.is_main():
            self.draw()
        copies = []
        improved = bool(scores) and scores["miou"] > self.best
        if improved:
            self.best = scores["miou"]
            if self.best > self.monitor.best_of_all_runs():
                copies.append(self.monitor.parent / BEST_OF_RUNS)
        if improved or self.args.no_val:
            copies.append(self.monitor.folder / BEST)
        if self.args.save_interval and self.epoch % self.args.save_interval == 0:
            copies.append(self.monitor.folder / BY_EPOCH.format(self.epoch))
        self.save(*copies)
        if improved:
            self.monitor.write("best_pred.txt", f"{self.best}\n")
        if self.args.keep and distributed.is_main():
            keep_newest(self.monitor.folder, self.args.keep)

    def finish(self) -> dict[str, Any]:
        """Score the last network by both protocols, log the table, and return val, fill_in (both crop), val_full."""
        scores: dict[str, Any] = {}
        if not self.args.no_val:
            # A run that was told to end earlier than before may end between two evaluations.
            scores["val"] = self.history[-1].get("val") or self.evaluate(self.loaders.val, "evaluating")
            columns = {"val crop": scores["val"]}
            if self.loaders.fill_in is not None:
                scores["fill_in"] = self.evaluate(self.loaders.fill_in, "fill-in")
                columns["fill-in crop"] = scores["fill_in"]
            full = Protocol("full", self.args.crop_size)
            pinned = self.device.type == "cuda"
            tally = evaluate_split(
                self.model, self.loaders, "val", full, self.args.workers, pinned, wrap=self.until_stopped
            )
            scores["val_full"] = columns["val full"] = tally.scores()
            table = score_table(columns, self.loaders.class_names)
            logger.info("\nScores of the last epoch in %%\n\n%s\n", table)
            for protocol in (Protocol("crop", self.args.crop_size), full):
                logger.info("%s: %s", protocol.name, protocol)
            if "fill_in" in scores:
                logger.info(
                    "val: the validation images. fill-in: the training images against their full truth%s.",
                    ", which training never saw" if self.loaders.train.dataset.label_kind == "scribbles" else "",
                )
            if distributed.is_main():
                folder = self.monitor.folder / "evaluation"
                write_report(folder, "val full", self.model, self.loaders.val.dataset, full, tally)
        self.monitor.record({"final": scores, "best_miou": self.best})
        return scores

    def draw(self) -> None:
        """Draw the curves, and validation images with their scribbles, predictions and truth."""
        path = self.monitor.folder / "curves.png"
        save_curves(path, self.history)
        self.monitor.picture("curves", path, self.epoch)
        if self.args.no_val:
            return
        dataset = self.loaders.val.dataset
        rows = []
        for index in evenly_spaced(len(dataset)):
            image, scribble, truth = dataset.pictures(index)
            logits = predict(self.model, image, self.args.crop_size)[1]
            rows.append(
                {
                    "image": image,
                    "scribbles": scribble_picture(image, scribble),
                    "prediction": label_map(logits, image.height, image.width).numpy(),
                    "truth": truth,
                }
            )
        path = self.monitor.folder / "validation.png"
        save_contact_sheet(path, rows, self.loaders.class_names, f"validation images after epoch {self.epoch}")
        self.monitor.picture("validation", path, self.epoch)

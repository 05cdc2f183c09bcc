"""The training loop: epochs, evaluation, checkpoints. It is handed the network, the data and the losses."""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dataloaders import Loaders
from dataloaders.custom_transforms import denormalize, to_device
from dataloaders.labels import PADDING, UNLABELLED
from errors import InputError
from training.advice import progress_advice
from training.checkpoint import replace_file, save_checkpoint
from training.evaluation import Protocol, evaluate, evaluate_split, label_map, predict, score_table
from training.figures import evenly_spaced, save_contact_sheet, save_curves, scribble_picture
from training.monitor import Monitor
from training.report import write_report
from training.schedule import rate_factor

logger = logging.getLogger(__name__)

NEGLIGIBLE, OVERWHELMING = 0.01, 0.95  # shares of one regulariser worth a warning: of loss and gradient; of gradient


class Trainer:
    """Train `model` on `loaders.train` with `criterion` plus `regularisers`.

    Args:
        args: the options (see training/options.py).
        model: the network, on its device, with get_1x_lr_params() and get_10x_lr_params().
        settings: what rebuilds the network, kept in the checkpoints.
        loaders: what make_data_loader returns.
        criterion: (logits, labels) -> scalar over the labelled pixels.
        regularisers: name -> module (image, probabilities, region_of_interest) -> scalar.
        monitor: the run's folder.
        guessing: the cross-entropy of a network that has learned nothing (see training/advice.py); by default
            there is no advice.
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
    ) -> None:
        self.args, self.model, self.settings, self.loaders = args, model, settings, loaders
        self.criterion, self.regularisers, self.monitor = criterion, regularisers, monitor
        self.guessing = guessing
        self.device = next(model.parameters()).device
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
        self.epoch = args.start_epoch
        self.best = -1.0
        self.history: list[dict[str, Any]] = []
        # A checkpoint is known to be good when a step from its weights has given finite losses.
        self._saved = self._good = Path(args.resume) if args.resume else None
        self._share_is_known = False

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """Return a checkpoint; `epoch` is the number of finished epochs."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_pred": self.best,
            "model": self.settings,
            "options": vars(self.args),
            "history": self.history,
            "rng": rng,
        }

    def restore(self, checkpoint: dict[str, Any], source: str) -> None:
        """Continue where `checkpoint` stopped; its weights are loaded already."""
        if "epoch" not in checkpoint or "optimizer" not in checkpoint:
            raise InputError(
                f"{source}: holds weights but no state of a training to go on with; start from them with --ft"
            )
        self.epoch = checkpoint["epoch"]
        if self.epoch >= self.args.epochs:
            raise InputError(
                f"{source}: has {self.epoch} epochs already and --epochs is {self.args.epochs}; "
                "ask for more, or start anew from its weights with --ft"
            )
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        except ValueError as error:
            raise InputError(
                f"{source}: its optimizer state does not fit ({error}); use --ft to start it anew"
            ) from None
        for group in self.optimizer.param_groups:  # the command line's, not the checkpoint's
            group.update({name: getattr(self.args, name) for name in ("momentum", "weight_decay", "nesterov")})
        self.best = float(checkpoint.get("best_pred", -1.0))
        self.monitor.write("best_pred.txt", f"{self.best}\n")
        best_file = Path(source).parent / "checkpoint.pth.tar"
        if best_file.is_file():
            replace_file(self.monitor.folder / best_file.name, lambda temporary: shutil.copyfile(best_file, temporary))
        self.history = checkpoint.get("history", [])
        for record in self.history:
            self.monitor.record(record)
        rng = checkpoint.get("rng", {})
        if "cpu" in rng:
            torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and self.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"], self.device)

    def save(self, name: str) -> None:
        """Write a checkpoint into the run's folder."""
        self._saved = self.monitor.folder / name
        save_checkpoint(self._saved, self.state())

    # Training

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch and return the final scores."""
        while self.epoch < self.args.epochs:
            record = self.train_epoch()
            last = self.epoch + 1 == self.args.epochs
            if not self.args.no_val and ((self.epoch + 1) % self.args.eval_interval == 0 or last):
                record["val"] = evaluate(self.model, self.loaders.val, self.loaders.num_classes, "evaluating")
            self.history.append(record)
            self.monitor.record(record)
            self.epoch += 1
            self.report(record)
        return self.finish()

    def train_epoch(self) -> dict[str, Any]:
        """Train for one epoch and return its record: epoch, lr, mean losses, images per second."""
        loader = self.loaders.train
        loader.sampler.set_epoch(self.epoch)
        self.model.train()
        totals: dict[str, float] = {}
        start, images, regulariser_time = time.perf_counter(), 0, 0.0
        bar = tqdm(loader, desc=f"epoch {self.epoch + 1}/{self.args.epochs}", unit="batch", leave=False, disable=None)
        with logging_redirect_tqdm():
            for index, batch in enumerate(bar):
                step = self.epoch * len(loader) + index
                lr = self.set_rate(step, self.args.epochs * len(loader))
                losses, seconds = self.train_step(batch, step)
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value
                images += len(batch["image"])
                regulariser_time += seconds
                rate = images / (time.perf_counter() - start)
                shown = " ".join(f"{name.replace('cross_entropy', 'ce')} {value:.3g}" for name, value in losses.items())
                reg_ms = f", regulariser {1000 * regulariser_time / (index + 1):.0f} ms" if self.regularisers else ""
                bar.set_postfix_str(f"{shown}, {rate:.1f} img/s{reg_ms}")
                self.monitor.scalars({f"train/{name}": value for name, value in losses.items()}, step)
        self.monitor.scalars({"train/lr": lr}, self.epoch)
        return {
            "epoch": self.epoch,
            "lr": lr,
            "losses": {name: value / len(loader) for name, value in totals.items()},
            "images_per_second": round(images / (time.perf_counter() - start), 2),
            "regulariser_ms": round(1000 * regulariser_time / len(loader), 2),
        }

    def set_rate(self, step: int, steps: int) -> float:
        """Set the learning rates for `step` of `steps` and return the backbone's."""
        factor = rate_factor(self.args.lr_scheduler, step, steps, epoch=self.epoch, epochs_per_drop=self.args.lr_step)
        for group, scale in zip(self.optimizer.param_groups, (1, self.args.head_rate), strict=True):
            group["lr"] = self.args.lr * factor * scale
        return self.args.lr * factor

    def train_step(self, batch: dict[str, Any], step: int) -> tuple[dict[str, float], float]:
        """Take one optimizer step; return the value of each loss and the seconds of the regularisers' forward."""
        images, labels = to_device(batch, self.device)
        region = labels != PADDING
        logits = self.model(images)
        terms = {"cross_entropy": self.criterion(logits, labels.masked_fill(~region, UNLABELLED))}
        # Before the regularisers, which refuse what is not a probability.
        values = self.check_finite(terms, batch, step)
        start = time.perf_counter()
        if self.regularisers:
            # Rounding leaves the range by a hair.
            image = denormalize(images).clamp(0, 255)
            probabilities = logits.softmax(1)
            for name, regulariser in self.regularisers.items():
                terms[name] = regulariser(image, probabilities, region)
            values |= self.check_finite({name: terms[name] for name in self.regularisers}, batch, step)
        seconds = time.perf_counter() - start
        self._good = self._saved
        if self.regularisers and not self._share_is_known:
            self.report_share(terms, logits)
            self._share_is_known = True
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.optimizer.step()
        return values, seconds

    def check_finite(self, terms: dict[str, Tensor], batch: dict[str, Any], step: int) -> dict[str, float]:
        """Return the losses as numbers, or stop the run when one is not finite."""
        values = {name: term.item() for name, term in terms.items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise InputError(
                    f"the loss {name} became {value} at epoch {self.epoch + 1}, step {step}, images "
                    f"{', '.join(batch['name'])}; lower --lr or the weights, or look at these files; "
                    f"last good checkpoint: {self._good or 'none yet'}"
                )
        return values

    def report_share(self, terms: dict[str, Tensor], logits: Tensor) -> None:
        """Log the share of the regularisers in the loss and in its gradient at the logits, and warn where it is odd."""
        names = list(terms)
        sizes = [abs(terms[name].item()) for name in names]
        gradients = [
            torch.autograd.grad(terms[name], logits, retain_graph=True, allow_unused=True)[0]
            if terms[name].requires_grad
            else None
            for name in names
        ]
        norms = [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]
        for name, size, norm in zip(names[1:], sizes[1:], norms[1:], strict=True):
            of_loss = size / (sum(sizes) or 1.0)
            of_gradient = norm / (sum(norms) or 1.0)
            logger.info(
                "%s: %s of the loss, %s of its gradient in the first step",
                name,
                percentage(of_loss),
                percentage(of_gradient),
            )
            if max(of_loss, of_gradient) < NEGLIGIBLE:
                logger.warning(
                    "WARNING: %s is negligible: it will change nothing. Raise its weight (the plain DenseCRF "
                    "loss shrinks with the image; --size-free with a weight of about 1 does not)",
                    name,
                )
            elif of_gradient > OVERWHELMING:
                logger.warning(
                    "WARNING: %s overwhelms the cross-entropy: expect one class everywhere. Lower its weight", name
                )

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
        advice = progress_advice(self.history, len(self.loaders.train), self.guessing)
        if advice:
            logger.warning("WARNING: %s", advice)
        if scores and scores["miou"] > self.best:
            self.best = scores["miou"]
            self.save("checkpoint.pth.tar")
            if self.best > self.monitor.best_of_all_runs():
                save_checkpoint(self.monitor.parent / "model_best.pth.tar", self.state())
            self.monitor.write("best_pred.txt", f"{self.best}\n")
        elif self.args.no_val:
            self.save("checkpoint.pth.tar")
        if self.args.save_interval and self.epoch % self.args.save_interval == 0:
            self.save(f"checkpoint_epoch_{self.epoch}.pth.tar")
        self.save("checkpoint_last.pth.tar")
        if scores or self.epoch == self.args.epochs:
            self.draw()

    def finish(self) -> dict[str, Any]:
        """Score the last network by both protocols, log the table, and return val, fill_in (both crop), val_full."""
        scores: dict[str, Any] = {}
        if not self.args.no_val:
            scores["val"] = self.history[-1]["val"]
            columns = {"val crop": scores["val"]}
            if self.loaders.fill_in is not None:
                scores["fill_in"] = evaluate(self.model, self.loaders.fill_in, self.loaders.num_classes, "fill-in")
                columns["fill-in crop"] = scores["fill_in"]
            full = Protocol("full", self.args.crop_size)
            pinned = self.device.type == "cuda"
            tally = evaluate_split(self.model, self.loaders, "val", full, self.args.workers, pinned)
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


def percentage(share: float) -> str:
    """Return a share as text with two digits that count."""
    return f"{100 * share:.2g} %"

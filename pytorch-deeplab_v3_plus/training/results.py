"""What a run shows of its network: the curves, some validation images, and the scores at the end."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from common import distributed
from dataloaders import Loaders
from dataloaders.datasets.pascal import VOCSegmentation
from evaluation import Protocol, describe, evaluate, evaluate_and_report, score_table, warn_of_others
from figures.colours import classes_in, scribble_picture
from figures.curves import save_curves
from figures.sheets import evenly_spaced, save_contact_sheet
from prediction import segment
from training.checkpoint import LAST
from training.journal import Journal
from training.options import TrainOptions

logger = logging.getLogger(__name__)


def draw_curves(journal: Journal, history: Sequence[dict[str, Any]]) -> None:
    """Draw curves.png from the records of the epochs so far."""
    path = journal.folder / "curves.png"
    save_curves(path, history)
    journal.picture("curves", path, history[-1]["epoch"])


def draw_validation(journal: Journal, epoch: int, model: nn.Module, images: VOCSegmentation, size: int) -> None:
    """Draw validation.png: images with their scribbles, predictions and truth; the network sees them at `size`."""
    rows, drawn = [], set()
    for index in evenly_spaced(len(images)):
        image, scribble, truth = images.pictures(index)
        drawn |= classes_in(scribble)
        row = {"image": image, "scribbles": scribble_picture(image, scribble)}
        rows.append({**row, "prediction": segment(model, image, size), "truth": truth})
    path = journal.folder / "validation.png"
    save_contact_sheet(path, rows, images.class_names, f"validation images after epoch {epoch}", classes=drawn)
    journal.picture("validation", path, epoch)


def final_evaluation(
    model: nn.Module,
    loaders: Loaders,
    options: TrainOptions,
    folder: Path,
    val: dict[str, Any] | None,
    wrap: Callable[[Iterable[Any]], Iterable[Any]],
) -> dict[str, Any]:
    """Score the network, log the table and write the report to `folder`; return val, fill_in (both crop) and val_full.

    `val` are the scores of the validation images by the crop protocol, where they are known. `wrap` gets the batches of
    an evaluation and returns what is evaluated: it may raise between two of them.
    """
    crop, full = Protocol("crop", options.data.crop_size), Protocol("full", options.data.short_side)
    scores = {"val": val or evaluate(model, loaders.val, loaders.num_classes, "evaluating", wrap)}
    columns = {"val crop": scores["val"]}
    if loaders.fill_in is not None:
        scores["fill_in"] = evaluate(model, loaders.fill_in, loaders.num_classes, "fill-in", wrap)
        columns["fill-in crop"] = scores["fill_in"]
    reports = describe(folder.parent / LAST, model, loaders, ["val"], [full]) if distributed.is_main() else {}
    warn_of_others(folder, reports)
    reported, _ = evaluate_and_report(model, loaders, ["val"], [full], folder, options.data.workers, reports, wrap)
    columns |= reported
    scores["val_full"] = reported["val full"]
    logger.info("\nScores of the last epoch in %%\n\n%s\n", score_table(columns, loaders.class_names))
    for protocol in (crop, full):
        logger.info("%s: %s", protocol.name, protocol)
    if "fill_in" in scores:
        unseen = ", which training never saw" if loaders.train.dataset.label_kind == "scribbles" else ""
        logger.info("val: the validation images. fill-in: the training images against their full truth%s.", unseen)
    return scores

"""What an evaluation leaves behind for each column of its table: all that was counted, as JSON, and two figures."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from torch.utils.data import default_collate

from common import distributed
from common.files import make_folder, write_text
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.loaders import Loaders, WholeImages
from evaluation.protocols import Protocol, Wrap, column_title, evaluate_split, predict_batch
from evaluation.scores import Tally
from figures.colours import error_picture
from figures.matrices import save_confusion
from figures.sheets import save_contact_sheet
from modeling.checkpoint import weights_digest
from modeling.network import Network
from prediction import evaluation_mode

logger = logging.getLogger(__name__)

SAME = ("weights", "output_stride", "labels", "description")  # entries that reports of one evaluation have in common
EXTREMES = 4  # of the worst images in the figure, and as many of the best


def describe(
    checkpoint: Any, model: Network, loaders: Loaders, splits: Iterable[str], protocols: Iterable[Protocol]
) -> dict[str, dict[str, Any]]:
    """Return by title what the reports of an evaluation say of themselves: checkpoint, data and protocol.

    Two evaluations of the same weights at the same stride, labels and protocol say the same, wherever the files lie.
    """
    weights, reports = weights_digest(model.state_dict()), {}
    for split in splits:
        if getattr(loaders, split) is None:
            continue
        images = getattr(loaders, split).dataset
        labels = " ".join(images.survey().digests.values())
        what = {"checkpoint": str(checkpoint), "weights": weights, "output_stride": model.output_stride}
        what |= {"data": loaders.name, "data_folder": str(images.folder.resolve()), "labels": labels}
        for protocol in protocols:
            pads = protocol.view == "full" and model.whole_grid > 1
            description = str(protocol) + f"; padded to {model.whole_grid} k + 1 pixels" * pads
            how = {"protocol": protocol.view, "description": description, "settings": asdict(protocol)}
            reports[column_title(split, protocol)] = what | how
    return reports


def report_folder(parent: Path, reports: Mapping[str, Mapping[str, Any]]) -> Path:
    """Return `parent`/evaluation, or evaluation_2 and so on where the ones before hold reports of something else."""
    folders = (parent / ("evaluation" if number == 1 else f"evaluation_{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not other_reports(folder, reports))


def other_reports(folder: Path, reports: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Return the reports in a folder that would be replaced though they are of other weights, labels or protocols."""
    others = []
    for title, about in reports.items():
        path = _stem(folder, title).with_suffix(".json")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                there = {}
            if not isinstance(there, dict) or any(there.get(name) != about[name] for name in SAME):
                others.append(path)
    return others


def warn_of_others(folder: Path, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Log which reports in a folder, of something else, are about to be replaced."""
    for path in other_reports(folder, reports):
        logger.warning("%s: is of other weights, data or settings; it is replaced", path)


def _stem(folder: Path, title: str) -> Path:
    return folder / title.replace(" ", "_")


def write_report(
    folder: Path,
    title: str,
    model: nn.Module,
    images: VOCSegmentation,
    protocol: Protocol,
    tally: Tally,
    about: Mapping[str, Any],
) -> list[Path]:
    """Write <title>.json, <title>_confusion.png and <title>_worst_best.png, with _ for blanks, and return them.

    `tally` is what was counted of `images` by `protocol`; `about` is what `describe` says of it.
    """
    make_folder(folder)
    stem = _stem(folder, title)
    files = [stem.with_name(stem.name + ending) for ending in (".json", "_confusion.png", "_worst_best.png")]
    scores, names = tally.scores(), images.class_names
    by_class = {key: dict(zip(names, scores[key], strict=True)) for key in ("iou", "frequency")}
    counted = {"confusion_matrix": tally.matrix.counts.tolist(), "images": tally.images}
    write_text(files[0], json.dumps({"title": title, **about, **scores, **by_class, **counted}, indent=1) + "\n")
    heading = f"{title}: {protocol}"
    save_confusion(files[1], tally.matrix.counts.numpy(), names, heading)
    shown = tally.extremes(EXTREMES)
    rows = _rows(model, images, protocol, shown)
    captions = [f"{name}\n{100 * tally.images[name]:.1f} %" for name in shown]
    save_contact_sheet(files[2], rows, names, f"worst and best images by mIoU, {heading}", captions)
    return files


def _rows(model: nn.Module, images: VOCSegmentation, protocol: Protocol, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row of a contact sheet for each of the images."""
    views = WholeImages(images, protocol.size) if protocol.view == "full" else images
    rows = []
    for name in names:
        item = views[images.ids.index(name)]
        with evaluation_mode(model):
            labels = predict_batch(model, default_collate([item]), protocol)
        truth, prediction = (values[0].cpu().numpy().astype(np.uint8) for values in labels)
        kind = images.label_kind  # scribbles where there is no truth
        picture = Image.fromarray(item.get("original", item["image"]).permute(1, 2, 0).numpy())
        wrong = error_picture(picture, truth, prediction)
        rows.append({"image": picture, "prediction": prediction, kind: truth, "errors": wrong})
    return rows


def evaluate_and_report(
    model: nn.Module,
    loaders: Loaders,
    splits: Iterable[str],
    protocols: Iterable[Protocol],
    folder: Path,
    workers: int,
    reports: Mapping[str, Mapping[str, Any]],
    wrap: Wrap = iter,
) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Score `model` on each of `splits` that exists, by each protocol, and have the main process write the reports.

    `workers` are those of the loader of whole images, `reports` is what `describe` says, for the main process, and
    `wrap` is that of `evaluate_split`. Returns the scores by title (the columns of `score_table`), and the files that
    were written to `folder`.
    """
    columns, files = {}, []
    pinned = next(model.parameters()).is_cuda
    for split in splits:
        for protocol in protocols if getattr(loaders, split) is not None else ():
            tally = evaluate_split(model, loaders, split, protocol, workers, pinned, wrap)
            title = column_title(split, protocol)
            columns[title] = tally.scores()
            if distributed.is_main():
                images = getattr(loaders, split).dataset
                files += write_report(folder, title, model, images, protocol, tally, reports[title])
    return columns, files

"""The protocols of an evaluation, the original's and PASCAL VOC's, and scoring by them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import distributed
from common.errors import InputError
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.loaders import Loaders, WholeImages, whole_image_loader
from evaluation.scores import Tally
from filtering.mean_field import MeanField
from prediction import evaluation_mode, predict, probabilities

# The protocols: crop is the original's, full is PASCAL VOC's own.
VIEWS = {
    "crop": "{size}, centre square",
    "full": "every pixel at the original size; network's input: {size}",
}
BAND_WIDTHS = (2, 4, 8, 16)  # of the bands along the truth's borders for boundary scores, in pixels to each side
Wrap = Callable[[Iterable[dict[str, Any]]], Iterable[dict[str, Any]]]
"""Gets the batches of an evaluation and returns those to count; may raise between two of them."""


@dataclass(frozen=True)
class Protocol:
    """What is scored, by one of VIEWS, and how the prediction is made.

    The network sees images with a short side of `size` pixels (0: at their own size, which is for `full`). Its
    probabilities are averaged over its input times each of `scales`, with `flip` also mirrored, and at last refined by
    `crf`, at the size at which they are scored.
    """

    view: str
    size: int
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: MeanField | None = None

    @property
    def name(self) -> str:
        """A label without spaces for headings and file names, such as 'full+ms+flip'."""
        extras = {"ms": self.scales != (1.0,), "flip": self.flip, "crf": self.crf}
        return "+".join([self.view, *(extra for extra, on in extras.items() if on)])

    def __str__(self) -> str:
        parts = [VIEWS[self.view].format(size=f"short side {self.size}" if self.size else "original size")]
        if self.scales != (1.0,):
            parts.append("scales " + " ".join(f"{scale:g}" for scale in self.scales))
        if self.flip:
            parts.append("mirrored too")
        if self.crf:
            parts.append("DenseCRF: " + ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in asdict(self.crf).items()))
        return "; ".join(parts)


PLAIN = Protocol("crop", 0)
"""Scores batches of the loaders, which are cropped already, by the plain prediction."""


def nothing_to_score(images: VOCSegmentation, view: str = "crop") -> str:
    """Return what to say of images of which no pixel that `view` (of VIEWS) scores is labelled; '' where one is.

    Images are read up to the first such pixel, which is soon found.
    """
    seen = images if view == "crop" else WholeImages(images, 0)
    if any((seen[index]["label"] < images.num_classes).any() for index in range(len(images))):
        return ""
    where = "the centre square of any" if view == "crop" else "any"
    kind = "validation" if images.split == "val" else "training"
    return f"no labelled pixel in {where} {kind} image's label map in {images.label_files[0].parent}"


@torch.no_grad()
def predict_batch(model: nn.Module, batch: dict[str, Any], protocol: Protocol = PLAIN) -> tuple[Tensor, Tensor]:
    """Return truth and prediction by a model in evaluation mode, both int64 (N, H, W) on its device.

    A batch holds 'image', uint8 (N, 3, h, w), as the network sees it; 'label', uint8 (N, H, W); and
    'original', uint8 (N, 3, H, W), for a CRF and for other scales, unless that is the image.
    """
    original = batch.get("original")
    how = {"scales": protocol.scales, "flip": protocol.flip, "whole": protocol.view == "full"}
    views = predict(model, batch["image"], **how, original=original)
    soft = probabilities(views, tuple(batch["label"].shape[1:]))
    if protocol.crf:
        soft = protocol.crf(batch.get("original", batch["image"]).to(soft.device), soft)
    return batch["label"].to(soft.device, non_blocking=True).long(), soft.argmax(1)


def count(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    tally: Tally,
    title: str,
    protocol: Protocol = PLAIN,
    wrap: Wrap = iter,
) -> Tally:
    """Count the predictions of `model` for `batches` into `tally` and return it; InputError if nothing is labelled.

    A batch is what predict_batch takes, with 'name'; in a distributed run, `batches` are this process's share.
    """
    known = isinstance(batches, DataLoader)
    images = math.ceil(len(batches.dataset) / distributed.world_size()) if known else None
    hidden = None if distributed.is_main() else True  # None: where there is no terminal
    with evaluation_mode(model), tqdm(total=images, desc=title, unit="image", leave=False, disable=hidden) as bar:
        for batch in wrap(batches):
            tally.update(batch["name"], *predict_batch(model, batch, protocol))
            bar.update(len(batch["label"]))
    tally.gather()
    if not tally.matrix.counts.any():
        raise InputError(f"{title}: expected labelled pixels to score on, found none")
    return tally


def evaluate(
    model: nn.Module, batches: Iterable[dict[str, Any]], num_classes: int, title: str, wrap: Wrap = iter
) -> dict[str, Any]:
    """Return the scores of the plain prediction for `batches`; for those of the loaders, the crop protocol's."""
    return count(model, batches, Tally(num_classes), title, wrap=wrap).scores()


def evaluate_split(
    model: nn.Module,
    loaders: Loaders,
    split: str,
    protocol: Protocol,
    workers: int,
    pin_memory: bool = False,
    wrap: Wrap = iter,
) -> Tally:
    """Count the predictions for the images of `split` ('val' or 'fill_in') by `protocol`.

    Boundary scores are taken where the labels are full ground truth. In a distributed run every process must call this.
    """
    batches = getattr(loaders, split)
    widths = BAND_WIDTHS if batches.dataset.label_kind == "truth" else ()
    if protocol.view == "full":
        part = (distributed.rank(), distributed.world_size())
        batches = whole_image_loader(batches.dataset, protocol.size, workers, pin_memory, *part)
    tally, title = Tally(loaders.num_classes, widths), column_title(split, protocol)
    return count(model, batches, tally, title, protocol, wrap)


def column_title(split: str, protocol: Protocol) -> str:
    """Return the heading of a column of scores, such as 'val full'."""
    return f"{split.replace('_', '-')} {protocol.name}"

"""What is scored, and how the prediction is made: the original's protocol and PASCAL VOC's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common import distributed
from common.errors import InputError
from dataloaders.loaders import Loaders, whole_image_loader
from dataloaders.transforms import to_device
from evaluation.scores import Tally
from filtering.mean_field import MeanField
from prediction.evaluation_views import predict_probabilities

VIEWS = {
    "crop": "short side {size}, centre square",
    "full": "every pixel at the original size; network's input: short side {size}",
}
"""The protocols: crop is the original's, full is PASCAL VOC's own."""

BAND_WIDTHS = (2, 4, 8, 16)
"""Widths of the bands along the borders of the truth in which the boundary scores are taken, in pixels to each side."""


@dataclass(frozen=True)
class Protocol:
    """What is scored and how the prediction is made.

    Args:
        view: 'crop' or 'full', see VIEWS.
        size: short side of what the network sees, in pixels.
        scales: the network also sees its input scaled by these factors; the probabilities are averaged.
        flip: and mirrored.
        crf: refines the probabilities, at the size at which they are scored.
    """

    view: str
    size: int
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: MeanField | None = None

    @property
    def name(self) -> str:
        """A few words without spaces that tell it from others: for headings and file names."""
        parts = [self.view]
        parts += ["ms"] if self.scales != (1.0,) else []
        parts += ["flip"] if self.flip else []
        parts += ["crf"] if self.crf else []
        return "+".join(parts)

    def __str__(self) -> str:
        parts = [VIEWS[self.view].format(size=self.size)]
        parts += ["scales " + " ".join(f"{scale:g}" for scale in self.scales)] if self.scales != (1.0,) else []
        parts += ["mirrored too"] if self.flip else []
        if self.crf:
            parts.append("DenseCRF: " + ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in asdict(self.crf).items()))
        return "; ".join(parts)


@torch.inference_mode()
def predict_batch(model: nn.Module, batch: dict[str, Any], protocol: Protocol | None = None) -> tuple[Tensor, Tensor]:
    """Return truth and prediction, both int64 (N, H, W) on the model's device.

    Args:
        batch: 'image', uint8 (N, 3, h, w), as the network sees it; 'label', uint8 (N, H, W); for a CRF also 'original',
            uint8 (N, 3, H, W), unless it is the image.
        protocol: scales, flip and CRF; None takes the plain prediction.
    """
    scales, flip, crf = (protocol.scales, protocol.flip, protocol.crf) if protocol else ((1.0,), False, None)
    device = next(model.parameters()).device
    images, truth = to_device(batch, device)
    probabilities = predict_probabilities(model, images, truth.shape[1:], scales, flip)
    if crf:
        probabilities = crf(batch.get("original", batch["image"]).to(device), probabilities)
    return truth, probabilities.argmax(1)


def count(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    tally: Tally,
    title: str,
    protocol: Protocol | None = None,
) -> Tally:
    """Count the predictions of `model` for `batches` into `tally` and return it, leaving the model's mode as it was.

    Args:
        batches: what predict_batch takes, with 'name'; of a distributed run, this process's part.
        title: of the progress bar.
        protocol: as predict_batch's.

    Raises:
        InputError: no pixel is labelled.
    """
    training = model.training
    model.eval()
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=None if distributed.is_main() else True):
        tally.update(batch["name"], *predict_batch(model, batch, protocol))
    model.train(training)
    tally.gather()
    if not tally.matrix.counts.any():
        raise InputError(f"{title}: expected labelled pixels to score on, found none")
    return tally


def evaluate(model: nn.Module, batches: Iterable[dict[str, Any]], num_classes: int, title: str) -> dict[str, Any]:
    """Return the scores of the plain prediction for `batches`: the crop protocol's, for those of the loaders."""
    return count(model, batches, Tally(num_classes), title).scores()


def evaluate_split(
    model: nn.Module,
    loaders: Loaders,
    split: str,
    protocol: Protocol,
    workers: int,
    pin_memory: bool = False,
    wrap: Callable[[Iterable[dict[str, Any]]], Iterable[dict[str, Any]]] | None = None,
) -> Tally:
    """Count the predictions for the images of `split` ('val' or 'fill_in') by `protocol`.

    There are boundary scores where the labels are full ground truth. In a distributed run every process takes part.
    `wrap` gets the batches and returns what is counted: a generator that may raise between two of them.
    """
    batches = getattr(loaders, split)
    widths = BAND_WIDTHS if batches.dataset.label_kind == "truth" else ()
    if protocol.view == "full":
        part = (distributed.rank(), distributed.world_size())
        batches = whole_image_loader(batches.dataset, protocol.size, workers, pin_memory, *part)
    title = f"{split.replace('_', '-')} {protocol.name}"
    return count(model, wrap(batches) if wrap else batches, Tally(loaders.num_classes, widths), title, protocol)

"""Scores of a segmentation by the original's protocol and by VOC's, and the network's prediction for whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from dataloaders import Loaders, whole_image_loader
from dataloaders.custom_transforms import normalize, resize_short_side, to_device, to_tensor
from errors import InputError
from filtering.mean_field import MeanField
from training import distributed

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


class ConfusionMatrix:
    """Counts of pixels by true class (rows) and predicted class (columns)."""

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Count pixels of `truth` and `prediction`, integers of one shape; true labels outside [0, K) do not count."""
        k = len(self.counts)
        counted = (truth >= 0) & (truth < k)
        pairs = k * truth[counted].to(torch.int64) + prediction[counted]
        self.counts += torch.bincount(pairs, minlength=k * k).reshape(k, k).cpu()

    def scores(self) -> dict[str, Any]:
        """Return pixel_accuracy, class_accuracy, miou, fwiou, and by class iou (None if it never occurs) and frequency.

        The class accuracy is the mean over classes that occur in the truth, the mIoU the mean over classes that occur
        in truth or prediction. Plain floats in 0..1; there must be a labelled pixel.
        """
        counts = self.counts.double()
        hit, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        union = true + predicted - hit
        iou = hit / union
        return {
            "pixel_accuracy": (hit.sum() / counts.sum()).item(),
            "class_accuracy": (hit / true)[true > 0].mean().item(),
            "miou": iou[union > 0].mean().item(),
            "fwiou": ((true / counts.sum()) * iou)[true > 0].sum().item(),
            "iou": [
                value if occurs else None for value, occurs in zip(iou.tolist(), (union > 0).tolist(), strict=True)
            ],
            "frequency": (true / counts.sum()).tolist(),
        }


@dataclass
class Tally:
    """All that is counted of a set of images: in all, near borders (by width of the band), and image by image."""

    num_classes: int
    band_widths: Sequence[int] = ()
    images: dict[str, float] = field(default_factory=dict)
    """mIoU of each image, over the classes in its truth or prediction; images without a labelled pixel are left out."""

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.num_classes)
        self.bands = {width: ConfusionMatrix(self.num_classes) for width in self.band_widths}

    def update(self, names: Sequence[str], truth: Tensor, prediction: Tensor) -> None:
        """Count a batch: `truth` and `prediction` (N, H, W), int64."""
        for name, true, predicted in zip(names, truth, prediction, strict=True):
            one = ConfusionMatrix(self.num_classes)
            one.update(true, predicted)
            self.matrix.counts += one.counts
            if one.counts.any():
                self.images[name] = one.scores()["miou"]
        for width, matrix in self.bands.items():
            near = near_border(truth, width)
            matrix.update(truth[near], prediction[near])

    def gather(self) -> None:
        """Sum over all processes of a distributed run, each of which has counted images of its own."""
        matrices = [self.matrix, *self.bands.values()]
        everyone = distributed.gather(([matrix.counts for matrix in matrices], self.images))
        for index, matrix in enumerate(matrices):
            matrix.counts = sum(counts[index] for counts, _ in everyone)
        self.images = {name: miou for _, images in everyone for name, miou in images.items()}

    def scores(self) -> dict[str, Any]:
        """Return ConfusionMatrix.scores and, for each band in which there is a labelled pixel, its mIoU: boundary."""
        bands = {width: matrix.scores()["miou"] for width, matrix in self.bands.items() if matrix.counts.any()}
        return self.matrix.scores() | ({"boundary": bands} if bands else {})

    def extremes(self, count: int) -> list[str]:
        """Return the names of the `count` worst images, worst first, and of the `count` best, best last."""
        order = sorted(self.images, key=lambda name: (self.images[name], name))
        return order if len(order) <= 2 * count else order[:count] + order[-count:]


def near_border(labels: Tensor, width: int) -> Tensor:
    """Return where another label lies at most `width` rows and columns away, bool, for labels (N, H, W).

    The trimap of Kohli et al. (IJCV 2009) in which segmentations are compared at object borders; unlabelled (void)
    pixels are a label of their own, so that VOC's void border counts as one.
    """

    def largest(values: Tensor) -> Tensor:
        values = F.max_pool2d(values, (2 * width + 1, 1), stride=1, padding=(width, 0))
        return F.max_pool2d(values, (1, 2 * width + 1), stride=1, padding=(0, width))

    values = labels.float().unsqueeze(1)
    return (largest(values) != -largest(-values)).squeeze(1)


def predict_probabilities(
    model: nn.Module, images: Tensor, size: tuple[int, int], scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Return probabilities (N, K, *size) for normalised images (N, 3, h, w), averaged over scales and mirroring."""
    total: Tensor | float = 0.0
    for scale in scales:
        scaled = images
        if scale != 1:
            shape = [max(1, round(length * scale)) for length in images.shape[2:]]
            scaled = F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)
        logits = [model(scaled)] + ([model(scaled.flip(3)).flip(3)] if flip else [])
        for values in logits:
            total = total + F.interpolate(values.float(), size, mode="bilinear", align_corners=True).softmax(1)
    return total / (len(scales) * (1 + flip))


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


@torch.inference_mode()
def predict(model: nn.Module, image: Image.Image, size: int) -> tuple[Tensor, Tensor]:
    """Segment a whole RGB image of any shape, its short side scaled to `size`.

    Returns:
        The network's input (1, 3, h, w) and logits (1, K, h, w) at the scaled size, on the model's device.
    """
    scaled = resize_short_side(image, size)
    inputs = normalize(to_tensor(scaled).unsqueeze(0).to(next(model.parameters()).device))
    training = model.training
    model.eval()
    logits = model(inputs)
    model.train(training)
    return inputs, logits


def label_map(logits: Tensor, height: int, width: int) -> Tensor:
    """Return the classes (height, width) uint8 of logits (1, K, h, w), scaled back to an image's own size."""
    return (
        F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=True)[0]
        .argmax(0)
        .to(torch.uint8)
        .cpu()
    )


def score_table(columns: dict[str, dict[str, Any]], class_names: Sequence[str]) -> str:
    """Return a text table of scores in percent: one line a class and a score, one column for each of `columns`.

    Below it stands how classes count that the images lack.
    """
    rows = [(name, [scores["iou"][k] for scores in columns.values()]) for k, name in enumerate(class_names)]
    for key, title in (
        ("miou", "mIoU"),
        ("fwiou", "frequency-weighted IoU"),
        ("pixel_accuracy", "pixel accuracy"),
        ("class_accuracy", "class accuracy"),
    ):
        rows.append((title, [scores[key] for scores in columns.values()]))
    for band in sorted({band for scores in columns.values() for band in scores.get("boundary", {})}):
        values = [scores.get("boundary", {}).get(band) for scores in columns.values()]
        rows.append((f"boundary mIoU, {band} px", values))
    width = max(len(title) for title, _ in rows)
    wide = [max(len(name), 6) for name in columns]
    lines = [" " * width + "".join(f"  {name:>{w}}" for name, w in zip(columns, wide, strict=True))]
    for index, (title, values) in enumerate(rows):
        if index == len(class_names):
            lines.append("-" * len(lines[0]))
        cells = ("-" if value is None else f"{100 * value:.1f}" for value in values)
        lines.append(f"{title:<{width}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, wide, strict=True)))
    if any(value is None for _, values in rows[: len(class_names)] for value in values):
        lines.append("-: in no truth and no prediction; it does not count, as in VOC's evaluation")
    for name, scores in columns.items():
        extra = [
            class_names[k]
            for k, (iou, share) in enumerate(zip(scores["iou"], scores["frequency"], strict=True))
            if iou is not None and share == 0
        ]
        if extra:
            lines.append(f"{name}: in no truth, but predicted, hence 0 in the mIoU: {', '.join(extra)}")
    return "\n".join(lines)

"""Scores of a segmentation, from one confusion matrix, and the network's prediction for whole images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from dataloaders.custom_transforms import resize_short_side, to_tensor
from errors import InputError
from training.distributed import is_main, sum_over_processes


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


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[dict[str, Any]], num_classes: int, title: str) -> dict[str, Any]:
    """Return the scores of `model` on batches of image (N, 3, H, W) and label (N, H, W), leaving its mode as it was."""
    matrix = ConfusionMatrix(num_classes)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=None if is_main() else True):
        prediction = model(batch["image"].to(device, non_blocking=True)).argmax(1)
        matrix.update(batch["label"].to(device), prediction)
    model.train(training)
    matrix.counts = sum_over_processes(matrix.counts)
    if not matrix.counts.any():
        raise InputError(f"{title}: expected labelled pixels to score on, found none")
    return matrix.scores()


@torch.inference_mode()
def predict(model: nn.Module, image: Image.Image, size: int) -> tuple[Tensor, Tensor]:
    """Segment a whole RGB image of any shape, its short side scaled to `size`.

    Returns:
        The network's input (1, 3, h, w) and logits (1, K, h, w) at the scaled size, on the model's device.
    """
    scaled = resize_short_side(image, size)
    inputs = to_tensor(scaled).unsqueeze(0).to(next(model.parameters()).device)
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


def score_table(columns: dict[str, dict[str, Any]], class_names: list[str]) -> str:
    """Return a text table of scores in percent: one line a class and a score, one column for each of `columns`."""
    rows = [(name, [scores["iou"][k] for scores in columns.values()]) for k, name in enumerate(class_names)]
    for key, title in (
        ("miou", "mIoU"),
        ("fwiou", "frequency-weighted IoU"),
        ("pixel_accuracy", "pixel accuracy"),
        ("class_accuracy", "class accuracy"),
    ):
        rows.append((title, [scores[key] for scores in columns.values()]))
    width = max(len(title) for title, _ in rows)
    wide = [max(len(name), 6) for name in columns]
    lines = [" " * width + "".join(f"  {name:>{w}}" for name, w in zip(columns, wide, strict=True))]
    for index, (title, values) in enumerate(rows):
        if index == len(class_names):
            lines.append("-" * len(lines[0]))
        cells = ("-" if value is None else f"{100 * value:.1f}" for value in values)
        lines.append(f"{title:<{width}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, wide, strict=True)))
    return "\n".join(lines)

"""Scores of a segmentation: counted pixel by pixel, near borders and image by image."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common import distributed


class ConfusionMatrix:
    """Counts of pixels by true class (rows) and predicted class (columns)."""

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Count pixels of `truth` and `prediction`, integers of the same shape, where the truth is in [0, K).

        Raises ValueError for a prediction there that is no class.
        """
        k = len(self.counts)
        counted = (truth >= 0) & (truth < k)
        predicted = prediction[counted].to(torch.int64)
        if predicted.numel() and not (predicted.min() >= 0 and predicted.max() < k):
            wrong = predicted[(predicted < 0) | (predicted >= k)][0].item()
            raise ValueError(f"expected predictions of 0 to {k - 1}, found {wrong}")
        pairs = k * truth[counted].to(torch.int64) + predicted
        self.counts += torch.bincount(pairs, minlength=k * k).reshape(k, k).cpu()

    def scores(self) -> dict[str, Any]:
        """Return pixel_accuracy, class_accuracy, miou, fwiou, and by class iou (None if it never occurs) and frequency.

        The class accuracy is the mean over classes that occur in the truth, the mIoU the mean over classes that occur
        in truth or prediction. Plain floats in 0..1; there must be a labelled pixel.
        """
        counts = self.counts.double()
        hit, true, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        union = true + predicted - hit
        iou, frequency = hit / union, true / counts.sum()
        return {
            "pixel_accuracy": (hit.sum() / counts.sum()).item(),
            "class_accuracy": (hit / true)[true > 0].mean().item(),
            "miou": iou[union > 0].mean().item(),
            "fwiou": (frequency * iou)[true > 0].sum().item(),
            "iou": [None if math.isnan(value) else value for value in iou.tolist()],
            "frequency": frequency.tolist(),
        }


class Tally:
    """Everything that is counted over a set of images: in total, near borders (by band width), and image by image.

    `images` holds the mIoU of each image over the classes in its truth or prediction, if it has a labelled pixel.
    """

    def __init__(self, num_classes: int, band_widths: Sequence[int] = ()) -> None:
        self.matrix = ConfusionMatrix(num_classes)
        self.bands = {width: ConfusionMatrix(num_classes) for width in band_widths}
        self.images: dict[str, float] = {}

    def update(self, names: Sequence[str], truth: Tensor, prediction: Tensor) -> None:
        """Count a batch: `truth` and `prediction` (N, H, W), int64."""
        for name, true, predicted in zip(names, truth, prediction, strict=True):
            one = ConfusionMatrix(len(self.matrix.counts))
            one.update(true, predicted)
            self.matrix.counts += one.counts
            if one.counts.any():
                self.images[name] = one.scores()["miou"]
        for width, matrix in self.bands.items():
            near = near_border(truth, width)
            matrix.update(truth[near], prediction[near])

    def gather(self) -> None:
        """Sum over the processes of a distributed run, each of which has counted different images."""
        matrices = [self.matrix, *self.bands.values()]
        everyone = distributed.gather(([matrix.counts for matrix in matrices], self.images))
        for index, matrix in enumerate(matrices):
            matrix.counts = sum(counts[index] for counts, _ in everyone)
        self.images = {name: miou for _, images in everyone for name, miou in images.items()}

    def scores(self) -> dict[str, Any]:
        """Return ConfusionMatrix.scores and, as `boundary`, the mIoU of each band that has a labelled pixel."""
        bands = {width: matrix.scores()["miou"] for width, matrix in self.bands.items() if matrix.counts.any()}
        return self.matrix.scores() | ({"boundary": bands} if bands else {})

    def extremes(self, count: int) -> list[str]:
        """Return the names of the `count` worst images, worst first, and of the `count` best, best last."""
        order = sorted(self.images, key=lambda name: (self.images[name], name))
        return order if len(order) <= 2 * count else order[:count] + order[-count:]


def near_border(labels: Tensor, width: int) -> Tensor:
    """Return where another label lies at most `width` rows and columns away, bool, for labels (N, H, W).

    The trimap of Kohli et al. (IJCV 2009). Unlabelled (void) pixels are a label of their own, so that VOC's void border
    counts as one.
    """

    def largest(values: Tensor) -> Tensor:
        values = F.max_pool2d(values, (2 * width + 1, 1), stride=1, padding=(width, 0))
        return F.max_pool2d(values, (1, 2 * width + 1), stride=1, padding=(0, width))

    values = labels.float().unsqueeze(1)
    return (largest(values) != -largest(-values)).squeeze(1)


TOTALS = {
    "miou": "mIoU",
    "fwiou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
}


def score_table(columns: dict[str, dict[str, Any]], class_names: Sequence[str]) -> str:
    """Return a text table of scores in percent: a line for each class and each score, a column for each of `columns`.

    Notes below it say how classes count that do not occur in the images.
    """
    rows = [(name, [scores["iou"][k] for scores in columns.values()]) for k, name in enumerate(class_names)]
    absent = any(value is None for _, values in rows for value in values)
    rows += [(title, [scores[key] for scores in columns.values()]) for key, title in TOTALS.items()]
    boundaries = [scores.get("boundary", {}) for scores in columns.values()]
    for band in sorted(set().union(*boundaries)):
        rows.append((f"boundary mIoU, {band} px", [boundary.get(band) for boundary in boundaries]))
    cells = [(title, ["-" if value is None else f"{100 * value:.1f}" for value in values]) for title, values in rows]
    widths = [max(len(title) for title, _ in rows), *(max(len(name), 6) for name in columns)]
    lines = []
    for title, values in [("", list(columns)), *cells]:
        line = [
            f"{title:<{widths[0]}}",
            *(f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True)),
        ]
        lines.append("  ".join(line))
    lines.insert(1 + len(class_names), "-" * len(lines[0]))
    if absent:
        lines.append("-: in no truth and no prediction; it does not count, as in VOC's evaluation")
    for name, scores in columns.items():
        known = zip(class_names, scores["iou"], scores["frequency"], strict=True)
        extra = [title for title, iou, share in known if iou is not None and share == 0]
        if extra:
            lines.append(f"{name}: in no truth, but predicted, hence 0 in the mIoU: {', '.join(extra)}")
    return "\n".join(lines)

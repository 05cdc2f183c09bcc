"""Partial cross-entropy and focal loss: over labelled pixels only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PartialCrossEntropy(nn.Module):
    """Cross-entropy over the labelled pixels, as the original computes it.

    With m the (weighted) mean over labelled pixels and n the number of images: `ce` is m / n and `focal` is
    0.5 m (1 - e^-m)^2 / n. The division by n is the original's, whose DenseCRF weights were tuned with it; without it
    (`reduction="mean"`) the balance of the losses does not depend on the batch size. A batch without any label costs 0.

    Args:
        kind: `ce` or `focal`.
        ignore_index: label of the pixels that do not count.
        class_weights: (K,) or None.
        reduction: `batch` divides by the number of images once more, `mean` does not.
    """

    def __init__(
        self, kind: str = "ce", *, ignore_index: int, class_weights: Tensor | None = None, reduction: str = "batch"
    ) -> None:
        super().__init__()
        self.kind = kind
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, for logits (N, K, H, W) and labels (N, H, W) int64."""
        logits = logits.to(torch.float32)
        total = F.cross_entropy(
            logits, labels, weight=self.class_weights, ignore_index=self.ignore_index, reduction="sum"
        )
        labelled = labels != self.ignore_index
        if self.class_weights is None:
            count = labelled.sum()
        else:
            count = (self.class_weights[labels.masked_fill(~labelled, 0)] * labelled).sum()
        mean = torch.where(count > 0, total / count.clamp(min=torch.finfo(torch.float32).tiny), total)
        loss = 0.5 * mean * (1 - torch.exp(-mean)) ** 2 if self.kind == "focal" else mean
        return loss / logits.shape[0] if self.reduction == "batch" else loss


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Return the (K,) weights 1 / ln(1.02 + frequency) of the original for the pixel counts (K,) of the classes."""
    return 1 / torch.log(1.02 + counts.double() / counts.sum()).float()

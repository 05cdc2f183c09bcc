"""Partial cross-entropy and focal loss: over labelled pixels only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distributed import DifferentiableSum, world_size


class PartialCrossEntropy(nn.Module):
    """Cross-entropy over the labelled pixels, as the original computes it.

    With m the (weighted) mean over labelled pixels and n the number of images: `ce` is m / n and `focal` is
    0.5 m (1 - e^-m)^2 / n. The division by n is the original's, whose DenseCRF weights were tuned with it; without it
    (`reduction` `mean`, not `batch`) the balance of the losses does not depend on the batch size. A batch without any
    label costs 0. `ignore_index` is the label of the pixels that do not count; `class_weights` are (K,) or None.
    Raises ValueError for another kind or reduction.

    A batch may come in parts, over several processes or one after the other: given the `size` of the batch, the losses
    of its parts add up to its loss. For `focal`, which is no sum over pixels, the processes' parts must be
    passed at the same time.
    """

    def __init__(
        self, kind: str = "ce", *, ignore_index: int, class_weights: Tensor | None = None, reduction: str = "batch"
    ) -> None:
        super().__init__()
        for what, given, known in (("kind", kind, ("ce", "focal")), ("reduction", reduction, ("batch", "mean"))):
            if given not in known:
                raise ValueError(f"{what}: expected {' or '.join(known)}, found {given!r}")
        self.kind, self.ignore_index, self.reduction = kind, ignore_index, reduction
        self.register_buffer("class_weights", class_weights)

    def size(self, labels: Tensor) -> Tensor:
        """Return what the loss of `labels` (N, H, W) is divided by, which parts of a batch add up.

        float64 (2,): the number of labelled pixels (the sum of their class weights), and of images.
        """
        labelled = labels != self.ignore_index
        if self.class_weights is not None:
            labelled = self.class_weights[labels.masked_fill(~labelled, 0)] * labelled
        count = labelled.sum()
        return torch.stack([count.double(), torch.full_like(count, len(labels), dtype=torch.float64)])

    def forward(self, logits: Tensor, labels: Tensor, size: Tensor | None = None) -> Tensor:
        """Return the loss, a float32 scalar, for logits (N, K, H, W) and labels (N, H, W) int64, `size` as above."""
        return self.of_total(self.total(logits, labels), self.size(labels) if size is None else size)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the (weighted) cross-entropies of the labelled pixels."""
        # The sum of a GPU is not deterministic, and PyTorch refuses it where it has to be.
        reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
        how = {"ignore_index": self.ignore_index, "reduction": reduction}
        return F.cross_entropy(logits.to(torch.float32), labels, self.class_weights, **how).sum()

    def of_total(self, total: Tensor, size: Tensor) -> Tensor:
        """Return the loss of what `total` gives, over all parts together or for a batch's part."""
        count, images = size.to(torch.float32)
        mean = torch.where(count > 0, total / count.clamp(min=torch.finfo(torch.float32).tiny), total)
        loss = focal(DifferentiableSum.apply(mean)) / world_size() if self.kind == "focal" else mean
        return loss / images if self.reduction == "batch" else loss


def focal(mean: Tensor) -> Tensor:
    """Return the original's focal loss, 0.5 m (1 - e^-m)^2, of the mean cross-entropy m."""
    return 0.5 * mean * (1 - torch.exp(-mean)) ** 2


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Return the (K,) weights 1 / ln(1.02 + frequency) of the original for the pixel counts (K,) of the classes."""
    return 1 / torch.log(1.02 + counts.double() / counts.sum()).float()

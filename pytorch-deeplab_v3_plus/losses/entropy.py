"""Entropy minimisation, the shortest regulariser of all."""

import torch
from torch import Tensor, nn

from dataloaders.labels import UNLABELLED
from losses._inputs import at_least_float32, check_inputs


class Entropy(nn.Module):
    """The network should be sure of the label of every pixel, whichever it is.

    L = 1/N sum_n 1/|R_n| sum_{i in R_n} sum_k -S_ik log S_ik

    with R_n the region of an image, or its pixels without a label. It is between 0 and log K.
    Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", NIPS 2004.

    Args:
        labelled: also the pixels with a label, which the cross-entropy makes sure of already.
    """

    def __init__(self, weight: float, *, labelled: bool = False) -> None:
        super().__init__()
        self.weight, self.labelled = weight, labelled

    def forward(self, image: Tensor, probabilities: Tensor, region_of_interest: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar for probabilities (N,K,H,W), region_of_interest (N,H,W) bool, labels (N,H,W) int64."""
        check_inputs(self, image, probabilities, region_of_interest, labels)
        region = region_of_interest if self.labelled else region_of_interest & (labels == UNLABELLED)
        soft = at_least_float32(probabilities)
        tiny = torch.finfo(soft.dtype).tiny  # the logarithm of 0 has no gradient
        # Image by image, because the intermediate results are as large as the probabilities.
        entropy = torch.stack([torch.special.entr(one + tiny).sum(0) for one in soft]) * region
        return self.weight * (entropy.sum((1, 2)) / region.sum((1, 2)).clamp_min(1)).mean()

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, labelled={self.labelled}"

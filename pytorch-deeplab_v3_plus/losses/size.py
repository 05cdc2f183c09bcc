"""The size constraint: how much of the image each class may cover."""

import torch
from torch import Tensor, nn

from common.errors import InputError
from dataloaders.labels import UNLABELLED
from losses._inputs import at_least_float32, check_inputs, on_device_of


class Size(nn.Module):
    """A scribbled class should cover a share of the region within bounds, a class without scribbles none.

    L = 1/(N K) sum_n sum_k dist(V_nk, [lower_k, upper_k])^2,  V_nk = sum_{i in R_n} S_ik / |R_n|

    where the bounds of a class that is not scribbled in the image are 0 and 0. It is between 0 and 1, and P^2 / (W H)
    of it is the authors', who count pixels: P of the region, W H of the image.
    Kervadec, Dolz, Tang, Granger, Boykov and Ben Ayed, "Constrained-CNN losses for weakly supervised segmentation",
    MIDL 2018 and Medical Image Analysis 2019, arXiv:1805.04628.

    Args:
        lower, upper: bounds of every class, as shares of the region.
        bounds: a text file with bounds of each class: a line `number lower upper` for each; lower and upper hold for
            those that it leaves out.
        absent: whether a class without scribbles is bound to 0; without, it is free.
    """

    def __init__(
        self, weight: float, *, lower: float = 0.01, upper: float = 1.0, bounds: str = "", absent: bool = True
    ) -> None:
        super().__init__()
        check_bounds("regulariser size", lower, upper)
        self.weight, self.lower, self.upper, self.bounds, self.absent = weight, lower, upper, bounds, absent
        self.by_class = read_bounds(bounds) if bounds else {}

    def forward(self, image: Tensor, probabilities: Tensor, region_of_interest: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss, a scalar; arguments as in losses.registry."""
        check_inputs(self, image, probabilities, region_of_interest, labels)
        n, classes = probabilities.shape[:2]
        for number in self.by_class:
            if number >= classes:
                raise InputError(f"{self.bounds}: expected classes from 0 to {classes - 1}, found {number}")
        region = region_of_interest.unsqueeze(1)
        pixels = region.flatten(1).sum(1, keepdim=True)
        shares = (at_least_float32(probabilities) * region).flatten(2).sum(2) / pixels.clamp_min(1)
        # Which classes are scribbled; the number `classes` stands for no label.
        numbers = torch.where((labels == UNLABELLED) | ~region_of_interest, classes, labels).flatten(1)
        tags = torch.zeros(n, classes + 1, device=shares.device).scatter_(1, numbers, 1.0)[:, :classes] > 0
        pairs = [self.by_class.get(number, (self.lower, self.upper)) for number in range(classes)]
        lower, upper = (on_device_of(shares, bounds) for bounds in zip(*pairs, strict=True))
        if self.absent:
            lower, upper = lower * tags, upper * tags
        distance = (lower - shares).clamp_min(0) + (shares - upper).clamp_min(0)
        counts = (pixels > 0) if self.absent else (pixels > 0) & tags
        return self.weight * (distance.square() * counts).mean()

    def extra_repr(self) -> str:
        bounds = f", bounds={self.bounds}" * bool(self.bounds)
        return f"weight={self.weight:g}, lower={self.lower:g}, upper={self.upper:g}{bounds}, absent={self.absent}"


def check_bounds(where: str, lower: float, upper: float) -> None:
    """Raise InputError unless 0 <= lower <= upper <= 1."""
    if not 0 <= lower <= upper <= 1:
        raise InputError(f"{where}: expected 0 <= lower <= upper <= 1, found lower {lower:g}, upper {upper:g}")


def read_bounds(path: str) -> dict[int, tuple[float, float]]:
    """Return the bounds by class number that a file of lines `number lower upper` holds; raise InputError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"regulariser size: cannot read {path}: {error}") from None
    bounds: dict[int, tuple[float, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            first, lower, upper = line.split()
            label, low, high = int(first), float(lower), float(upper)
        except ValueError:
            raise InputError(f"{where}: expected `number lower upper`, as `1 0.05 0.3`, found {line!r}") from None
        if label < 0 or label in bounds:
            raise InputError(f"{where}: expected the number of another class, found {label}")
        check_bounds(where, low, high)
        bounds[label] = low, high
    return bounds

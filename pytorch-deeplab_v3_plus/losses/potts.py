"""The Potts model on the grid of pixels, relaxed (grid CRF)."""

import math
from collections.abc import Iterator

from torch import Tensor, nn

from common.arguments import has_square
from common.errors import InputError
from losses._inputs import at_least_float32, check_inputs, check_settings, on_device_of, resized, scaled_size
from losses._pairs import PairEnergy, fitting, over_pairs, pair_sums, similarity, squared_distance

NEIGHBOURS = {4: [(0, 1), (1, 0)], 8: [(0, 1), (1, 0), (1, 1), (1, -1)]}


class Potts(nn.Module):
    """Adjacent pixels of similar colour should get the same label.

    L = 1/N sum_n 1/|P_n| sum_{ij in P_n} (1 - S_i . S_j) exp(-|I_i - I_j|^2 / 2 sigma_rgb^2) / dist(i, j)

    over the pairs P_n of adjacent pixels in the region of an image. It is between 0 and 1.
    Marin, Tang, Ben Ayed and Boykov, "Beyond Gradient Descent for Regularized Segmentation Losses", CVPR 2019.

    Args:
        sigma_rgb: width of the kernel in colour, in grey levels of 0..255; 0: from each image, such that sigma_rgb^2 is
            the mean of |I_i - I_j|^2 over its pairs, as in the paper.
        neighbours: of a pixel, 4 or 8.
        rloss_scale: in (0, 1], size at which the loss is evaluated, relative to the input.
    """

    def __init__(self, weight: float, *, sigma_rgb: float = 0.0, neighbours: int = 8, rloss_scale: float = 1.0) -> None:
        super().__init__()
        check_settings("potts", shares=[("rloss_scale", rloss_scale)])
        if neighbours not in NEIGHBOURS:
            raise InputError(f"regulariser potts: neighbours must be 4 or 8, found {neighbours}")
        if not (sigma_rgb >= 0 and has_square(sigma_rgb)):
            raise InputError(f"regulariser potts: sigma_rgb must be 0 or more, up to 1e18, found {sigma_rgb}")
        self.weight, self.sigma_rgb, self.rloss_scale = weight, sigma_rgb, rloss_scale
        self.offsets = NEIGHBOURS[neighbours]

    def forward(self, image: Tensor, probabilities: Tensor, region_of_interest: Tensor) -> Tensor:
        """Return the weighted loss, a scalar; arguments as in losses.registry."""
        check_inputs(self, image, probabilities, region_of_interest)
        image, soft, (region,) = resized(
            scaled_size(image, self.rloss_scale), image, at_least_float32(probabilities), region_of_interest
        )
        offsets = fitting(self.offsets, image)
        tables = self._weights(image.to(soft.dtype), region, offsets)
        energy = PairEnergy.apply(soft, lambda values: pair_sums(values, offsets, tables))
        return self.weight * energy / len(image)

    def _weights(self, image: Tensor, region: Tensor, offsets: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Give for each image the table of its pairs' weights, which are 0 where an end is outside the region."""
        lengths = on_device_of(image, [math.hypot(*offset) for offset in offsets])[:, None, None]
        for colours, inside in zip(image, region.to(image.dtype), strict=True):
            distances = over_pairs(squared_distance, colours, offsets)
            pairs = over_pairs(lambda here, there: (here * there)[0], inside[None], offsets)
            count = pairs.sum().clamp_min(1)
            # Twice the squared width; an image of one colour has none of its own.
            width = 2 * self.sigma_rgb**2 or (2 * (distances * pairs).sum() / count).clamp_min(1e-20)
            yield similarity(distances / -width).mul_(pairs).div_(lengths * count)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, sigma_rgb={self.sigma_rgb:g}, neighbours={2 * len(self.offsets)}, "
            f"rloss_scale={self.rloss_scale:g}"
        )

"""The Gated CRF loss: a dense CRF within a window."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.errors import InputError
from dataloaders.transforms import normalize
from filtering import native
from losses._inputs import at_least_float32, check_inputs, check_settings, on_device_of, resized, scaled_size
from losses._pairs import PairEnergy, fitting, half_window, over_pairs, pair_sums, similarity, squared_distance


class GatedCRF(nn.Module):
    """Pixels of similar colour within a window should get the same label.

    L = 1/|R| sum_i sum_{j in R, j != i, |x_i - x_j|, |y_i - y_j| <= radius} K_ij (1 - S_i . S_j)
    K_ij = exp(-|p_i - p_j|^2 / 2 sigma_xy^2 - |c_i - c_j|^2 / 2 sigma_rgb^2)
           + smoothness_weight exp(-|p_i - p_j|^2 / 2 smoothness_xy^2)

    with colours c as the network sees them, and the region R of all images of the batch.
    Obukhov, Georgoulis, Dai and Van Gool, "Gated CRF Loss for Weakly Supervised Semantic Image Segmentation", 2019,
    arXiv:1906.04651.

    Args:
        radius: reach of the window in rows and columns, in pixels after scaling.
        sigma_xy: width of the kernel in position, in pixels after scaling.
        sigma_rgb: width of the kernel in colour, in standard deviations of ImageNet's colours (0.1: 6 grey levels).
        smoothness_weight, smoothness_xy: share and width of a second kernel, of position alone.
        rloss_scale: in (0, 1], size at which the loss is evaluated, relative to the input; the authors' example: 0.25.
    """

    def __init__(
        self,
        weight: float,
        *,
        radius: int = 5,
        sigma_xy: float = 6.0,
        sigma_rgb: float = 0.1,
        smoothness_weight: float = 0.0,
        smoothness_xy: float = 6.0,
        rloss_scale: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [("sigma_xy", sigma_xy), ("sigma_rgb", sigma_rgb), ("smoothness_xy", smoothness_xy)]
        check_settings("gated_crf", positive=[("radius", radius), *widths], shares=[("rloss_scale", rloss_scale)])
        if not 0 <= smoothness_weight < float("inf"):
            raise InputError(f"regulariser gated_crf: smoothness_weight must be 0 or more, found {smoothness_weight}")
        self.weight, self.radius, self.sigma_xy, self.sigma_rgb = weight, radius, sigma_xy, sigma_rgb
        self.smoothness_weight, self.smoothness_xy = smoothness_weight, smoothness_xy
        self.rloss_scale = rloss_scale

    def forward(self, image: Tensor, probabilities: Tensor, region_of_interest: Tensor) -> Tensor:
        """Return the weighted loss, a scalar; arguments as in losses.registry."""
        check_inputs(self, image, probabilities, region_of_interest)
        image, soft, (region,) = resized(
            scaled_size(image, self.rloss_scale), image, at_least_float32(probabilities), region_of_interest
        )
        colours = normalize(image).to(soft.dtype)
        energy = PairEnergy.apply(soft, lambda values: self._sums(colours, region, values))
        return self.weight * energy / region.sum().clamp_min(1)

    def _sums(self, colours: Tensor, region: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `pair_sums` does; a pair counts once for each end in the region."""
        if native.can_filter(values, "window_filter"):
            widths = self.sigma_rgb, self.sigma_xy, self.smoothness_weight, self.smoothness_xy
            sums, masses = native.window_filter(colours, region, values, self.radius, *widths)
            return sums, masses.sum(dtype=torch.float64) / 2  # every pair is there from both ends
        offsets = fitting(half_window(self.radius), values)
        return pair_sums(values, offsets, self._weights(colours, region, offsets))

    def _weights(self, colours: Tensor, region: Tensor, offsets: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Give for each image the table of its pairs' weights."""
        squares = on_device_of(colours, [rows**2 + columns**2 for rows, columns in offsets])[:, None, None]
        appearance = squares / (-2 * self.sigma_xy**2)
        smoothness = self.smoothness_weight * torch.exp(squares / (-2 * self.smoothness_xy**2))
        for image, inside in zip(colours, region.to(colours.dtype), strict=True):
            weights = over_pairs(squared_distance, image, offsets).div_(-2 * self.sigma_rgb**2)
            weights = similarity(weights.add_(appearance)).add_(smoothness)
            yield weights.mul_(over_pairs(lambda here, there: (here + there)[0], inside[None], offsets))

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, radius={self.radius}, sigma_xy={self.sigma_xy:g}, "
            f"sigma_rgb={self.sigma_rgb:g}, smoothness_weight={self.smoothness_weight:g}, "
            f"smoothness_xy={self.smoothness_xy:g}, rloss_scale={self.rloss_scale:g}"
        )

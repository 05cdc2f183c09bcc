"""Mean-field inference in a fully connected CRF, on our own lattice: sharper borders for a finished prediction.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from filtering import native
from filtering.bilateral import Lattice, check_image_range, check_images, check_probability_range, check_values


@dataclass(frozen=True)
class MeanField:
    """Settings of a dense CRF with Potts compatibility, and its inference.

    With unary terms -log P, `iterations` times (algorithm 1 of the paper)

        Q_i(k)  <-  softmax over k of  log P_i(k) + sum_m w_m sum_j n_m(i) K_m(i, j) n_m(j) Q_j(k)

    where K_1 is the appearance kernel, a Gaussian of position (`appearance_xy`, pixels) and colour (`appearance_rgb`,
    grey levels), K_2 the smoothness kernel, a Gaussian of position (`smoothness_xy`), and n = 1 / sqrt(K 1) normalises
    symmetrically. As in the authors' code the sums include j = i. The defaults are those in common use with DeepLab on
    PASCAL VOC.

    The appearance kernel is the permutohedral lattice's, built once; the smoothness kernel is exact.
    """

    iterations: int = 10
    appearance_weight: float = 4.0
    appearance_xy: float = 67.0
    appearance_rgb: float = 3.0
    smoothness_weight: float = 3.0
    smoothness_xy: float = 1.0

    @torch.no_grad()
    def __call__(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """Return Q, float32 (N, K, H, W), of which each pixel's sum over K is 1.

        `images` are RGB (N, 3, H, W) in 0..255, of any dtype; `probabilities` (N, K, H, W), on the same device, are the
        network's P. Raises ValueError for other shapes, devices or values.
        """
        check_images(images, self.appearance_rgb, self.appearance_xy)
        check_values(probabilities, images.shape, images.device)
        found = [value.float() for value in (*images.aminmax(), *probabilities.aminmax())]
        low, high, least, most = torch.stack(found).tolist()  # at once, as a GPU has to finish its work before
        check_image_range(low, high)
        check_probability_range(least, most, "probabilities must lie")
        log_p = probabilities.float().clamp_min(1e-8).log()
        if images.device.type != "cpu":
            return self.by_tensors(images, log_p)
        appearance = self.appearance_weight, self.appearance_rgb, self.appearance_xy
        smoothness = self.smoothness_weight, self.smoothness_xy
        return native.mean_field(images.float(), log_p, self.iterations, appearance, smoothness)

    def by_tensors(self, images: Tensor, log_p: Tensor) -> Tensor:
        """Return Q of log P by tensor operations on any device: the same plainly, and slower on a CPU."""
        kernels = []
        if self.appearance_weight:
            kernels.append((self.appearance_weight, Lattice(images, self.appearance_rgb, self.appearance_xy).filter))
        if self.smoothness_weight:
            kernels.append((self.smoothness_weight, lambda x: gaussian_filter(x, self.smoothness_xy)))
        ones = torch.ones_like(log_p[:, :1])
        terms = [(weight, kernel, kernel(ones).clamp_min(1e-20).rsqrt()) for weight, kernel in kernels]
        q = log_p.softmax(1)
        for _ in range(self.iterations):
            logits = log_p
            for weight, kernel, n in terms:
                logits = torch.addcmul(logits, kernel(n * q), n, value=weight)
            q = logits.softmax(1)
        return q


def gaussian_filter(values: Tensor, sigma: float) -> Tensor:
    """Return sum_j exp(-|xy_i - xy_j|^2 / (2 sigma^2)) values_j for (N, K, H, W); the kernel ends after 4 sigma."""
    planes, out = values.flatten(0, 1), values.new_empty(values.shape)
    # Plane by plane a CPU stays within its caches; a GPU is better busy with all at once.
    group = 1 if values.device.type == "cpu" else len(planes)
    for some, sums in zip(planes.split(group), out.flatten(0, 1).split(group), strict=True):
        sums.copy_(_filter_along(_filter_along(some, sigma, 1), sigma, 2))
    return out


def _filter_along(values: Tensor, sigma: float, dim: int) -> Tensor:
    """Add what lies 1, 2, ... places before and behind along one dimension, with the Gaussian's weights."""
    sums, length = values.clone(), values.shape[dim]
    for step in range(1, min(int(4 * sigma + 0.5), length - 1) + 1):
        weight, rest = math.exp(-(step**2) / (2 * sigma**2)), length - step
        sums.narrow(dim, step, rest).add_(values.narrow(dim, 0, rest), alpha=weight)
        sums.narrow(dim, 0, rest).add_(values.narrow(dim, step, rest), alpha=weight)
    return sums

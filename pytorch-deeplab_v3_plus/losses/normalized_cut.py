"""The normalised cut loss, and its sum with the DenseCRF loss."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from common.errors import InputError
from DenseCRFLoss import DenseCRFLoss
from filtering import Lattice, bilateral_filter
from filtering.autograd import never_twice
from losses.options import DenseCRFOptions

EPSILON = 1e-6  # share of an image's kernel mass below which a class counts as absent


class LatticeEnergy(Function):
    """-1/N sum_n sum_k (cut a_k / (b_k + eps) + crf a_k), a_k = S_k' A S_k, b_k = S_k' d, and its gradient.

    All come from one filtering of the K classes and the region, which gives the degrees d = A R. As in the DenseCRF
    loss A is taken for symmetric, which it is with `exact_gradient`, so that the gradient of a_k is 2 A S_k. With
    `size_free` crf is divided by each image's kernel mass R' d.
    """

    @staticmethod
    def forward(
        ctx,
        images: Tensor,
        segmentations: Tensor,
        rois: Tensor,
        sigma_rgb: float,
        sigma_xy: float,
        cut: float,
        crf: float,
        size_free: bool,
        exact_gradient: bool,
        lattice: Lattice | None,
    ) -> Tensor:
        """Return a scalar for float32 images (N, 3, H, W), segmentations (N, K, H, W) and rois (N, H, W).

        `lattice` is that of the images and sigmas, if it has been built.
        """
        n, k, h, w = segmentations.shape
        rois = rois.unsqueeze(1)
        values = rois.new_empty((n, k + 1, h, w))
        values[:, k:] = rois
        s = torch.mul(segmentations, rois, out=values[:, :k])
        if lattice is None:
            filtered = bilateral_filter(images, values, sigma_rgb, sigma_xy, symmetric=exact_gradient)
        else:
            filtered = lattice.filter(values, symmetric=exact_gradient)
        a_s, degrees = filtered[:, :k], filtered[:, k:]
        with torch.autocast(s.device.type, enabled=False):  # it would overflow float16
            b = torch.bmm(s.flatten(2), degrees.flatten(2).transpose(1, 2)).squeeze(2)
        mass = (degrees * rois).flatten(1).sum(1, keepdim=True)
        a = s.mul_(a_s).flatten(2).sum(2)  # overwritten, as it has served
        b = (b + EPSILON * mass).clamp_min_(1e-20)  # an empty region has none
        plain = crf / mass.clamp_min(1e-20) if size_free else torch.full_like(mass, crf)
        if ctx.needs_input_grad[1]:
            # factor (A S_k + ratio d), in the place of A S_k
            factor = (cut / b + plain) * (-2 / n)
            ratio = torch.where(factor != 0, cut * a / (b * b * n * factor), torch.zeros_like(a))
            a_s.addcmul_(degrees, ratio[:, :, None, None]).mul_(rois)
            ctx.save_for_backward(a_s, factor)
        return -(cut * a / b + plain * a).sum() / n

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor):
        gradient, factor = ctx.saved_tensors
        gradient = gradient * (factor * grad_output)[:, :, None, None]
        return None, gradient, None, None, None, None, None, None, None, None


class NormalizedCut(DenseCRFLoss):
    """Each class should hang together: alike pixels within it, few of them cut off, whatever its size.

    L = -1/N sum_n sum_k  S_k' A S_k / S_k' d,  d = A R

    with the kernel A of the DenseCRF loss and the region R. It is the normalised cut without its constant K, between -K
    and 0, and needs no other weight at another size of the image.
    Tang, Djelouah, Perazzi, Boykov and Schroers, "Normalized Cut Loss for Weakly-supervised CNN Segmentation", CVPR
    2018, arXiv:1804.01346.

    Args:
        sigma_rgb: width of the kernel in colour, in grey levels of 0..255.
        sigma_xy: width of the kernel in position, in pixels before scaling.
        rloss_scale: in (0, 1], size at which the loss is evaluated, relative to the input.
        exact_gradient: use the lattice's true gradient instead of the original's, as in the DenseCRF loss.
    """

    name = "normalized_cut"
    cut, crf = 1.0, 0.0

    def __init__(
        self,
        weight: float,
        *,
        sigma_rgb: float = DenseCRFOptions.sigma_rgb,
        sigma_xy: float = DenseCRFOptions.sigma_xy,
        rloss_scale: float = 1.0,
        exact_gradient: bool = False,
    ) -> None:
        try:
            super().__init__(weight, sigma_rgb, sigma_xy, rloss_scale, exact_gradient=exact_gradient)
        except ValueError as error:
            raise InputError(f"regulariser {self.name}: {error}") from None

    def energy(
        self,
        images: Tensor,
        segmentations: Tensor,
        rois: Tensor,
        sigma_rgb: float,
        sigma_xy: float,
        lattice: Lattice | None,
    ) -> Tensor:
        """Return the unweighted loss of inputs that are checked, scaled and float32."""
        how = self.cut, self.crf, self.size_free, self.exact_gradient
        return LatticeEnergy.apply(images, segmentations, rois, sigma_rgb, sigma_xy, *how, lattice)

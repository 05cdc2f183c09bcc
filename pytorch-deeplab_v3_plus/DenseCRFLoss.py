"""The DenseCRF regularised loss.

Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018.

For N images with soft segmentations S_k (one column per class k, zeroed outside the region of interest), the energy is

    E(S) = -1/N  sum_n sum_k  S_k' A S_k

where A is the Gaussian affinity of all pixel pairs in position (sigma_xy, pixels) and colour (sigma_rgb, grey levels
of 0..255): A_ij = exp(-|p_i - p_j|^2 / 2 sigma_xy^2 - |c_i - c_j|^2 / 2 sigma_rgb^2), approximated on a permutohedral
lattice (Adams, Baek and Davis 2010), whose kernel has about half these values. With `normalised_kernel` it is
D^-1/2 A D^-1/2 instead, where D holds the sums of A's rows over the region of interest, as in the inference of
Krähenbühl and Koltun (NIPS 2011): every pixel then weighs about the same, whereas the plain kernel leaves those of
textured objects, which few others resemble, next to nothing.

The energy is the pairwise term sum_k S_k' A (1 - S_k) without its part sum_k S_k' A 1, which is constant because the
S_k sum to one; hence the negative sign. The more alike pixels agree, the lower it is.

The gradient is -(A + A') S / N. On a sparse lattice the axis-by-axis blur makes A slightly asymmetric; the original
returns -2 A S / N, which is the default here too, and `exact_gradient=True` gives the true one: with (A + A') / 2 in
place of A the energy is the same, and its gradient is minus twice the filtered segmentations.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from filtering import Lattice, bilateral_filter
from filtering.autograd import never_twice
from filtering.bilateral import check_image_range, check_probability_range, check_tensors


class DenseCRFLossFunction(Function):
    """The energy above, unweighted and unscaled, with its gradient with respect to the segmentations."""

    @staticmethod
    def forward(
        ctx,
        images: Tensor,
        segmentations: Tensor,
        sigma_rgb: float,
        sigma_xy: float,
        regions_of_interest: Tensor,
        exact_gradient: bool = False,
        size_free: bool = False,
        normalised_kernel: bool = False,
        lattice: Lattice | None = None,
    ) -> Tensor:
        """Return the energy, a scalar of the segmentations' dtype and device.

        Arguments as of DenseCRFLoss, without its checks and scaling: sigma_xy counts pixels of these tensors. The
        kernel mass of a region R, by which `size_free` divides, is R' A R. `lattice` is that of the images and sigmas,
        if it has been built.
        """
        rois = regions_of_interest.unsqueeze(1).to(torch.float32)
        n, k, h, w = segmentations.shape
        if normalised_kernel:  # D^-1/2 on both sides of A: here, and after the filter
            lattice = lattice or Lattice(images, sigma_rgb, sigma_xy)
            sums = lattice.filter(rois, symmetric=exact_gradient)
            rois = rois * sums.clamp_min_(1e-20).rsqrt_()
        # One tensor for all that is to be filtered now, so that there is one lattice.
        values = rois.new_empty((n, k + size_free, h, w))
        values[:, k:] = rois
        s = torch.mul(segmentations, rois, out=values[:, :k])
        if lattice is None:
            filtered = bilateral_filter(images, values, sigma_rgb, sigma_xy, symmetric=exact_gradient)
        else:
            filtered = lattice.filter(values, symmetric=exact_gradient)
        a_s = filtered[:, :k]

        # Overwritten, as it has served: on a CPU a new tensor of this size takes half as long as the filter.
        energies = s.mul_(a_s).flatten(1).sum(1)
        scale = rois.new_full((n,), 1.0 / n)
        if size_free:
            mass = filtered[:, k:].mul_(rois).flatten(1).sum(1)
            scale = torch.where(mass > 0, scale / mass, torch.zeros_like(scale))  # an empty region has no energy
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(a_s, rois * (-2 * scale[:, None, None, None]))
            ctx.dtype = segmentations.dtype
        return -(scale * energies).sum().to(segmentations.dtype)

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor):
        a_s, factor = ctx.saved_tensors
        gradient = a_s * (factor * grad_output.to(torch.float32))
        # No gradient with respect to images, sigmas, regions and options.
        return None, gradient.to(ctx.dtype), None, None, None, None, None, None, None


class DenseCRFLoss(nn.Module):
    """weight x DenseCRF energy of a soft segmentation, evaluated at `scale_factor` times the input's size.

    Images and regions are scaled by nearest neighbour and segmentations bilinearly, and sigma_xy is multiplied by
    `scale_factor`, as in the original.

    Args:
        weight: factor of the energy. The plain energy is a sum over all pairs of pixels, so that its weight is of the
            order of 1e-9 and depends on the image size; with `size_free` a weight means the same at every size.
        sigma_rgb: kernel width in colour, in grey levels of 0..255.
        sigma_xy: kernel width in position, in pixels before scaling.
        scale_factor: in (0, 1], size at which the energy is evaluated, relative to the input.
        exact_gradient: use the gradient -(A + A') S instead of the original's -2 A S.
        size_free: divide each image's energy by the kernel mass of its region of interest; the energy is in [-1, 0].
        normalised_kernel: use D^-1/2 A D^-1/2 in place of A, so that pixels that few others resemble weigh as much.

    Raises ValueError for an argument out of its range, and for inputs whose shapes, devices or values do not fit.
    Values are checked after scaling, as they enter the energy.
    """

    def __init__(
        self,
        weight: float,
        sigma_rgb: float,
        sigma_xy: float,
        scale_factor: float,
        *,
        exact_gradient: bool = False,
        size_free: bool = False,
        normalised_kernel: bool = False,
    ) -> None:
        super().__init__()
        numbers = {"weight": weight, "sigma_rgb": sigma_rgb, "sigma_xy": sigma_xy, "scale_factor": scale_factor}
        for name, value in numbers.items():
            if isinstance(value, str):  # as which YAML reads 2e-9, for want of a point
                raise ValueError(f"{name} must be a number, found the text {value!r}")
        for name, value in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy)):
            if not 1e-18 <= value <= 1e18:  # of which the square is a number in single precision
                raise ValueError(f"{name} must be a positive number, within 1e-18 and 1e18, found {value}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a number of 0 or more, found {weight}")
        if not 0 < scale_factor <= 1:
            raise ValueError(f"scale_factor must lie in (0, 1], found {scale_factor}")
        self.weight, self.scale_factor = weight, scale_factor
        self.sigma_rgb, self.sigma_xy = sigma_rgb, sigma_xy
        self.exact_gradient, self.size_free = exact_gradient, size_free
        self.normalised_kernel = normalised_kernel

    def forward(self, images: Tensor, segmentations: Tensor, regions_of_interest: Tensor) -> Tensor:
        """Return the weighted energy, a scalar.

        Args:
            images: (N, 3, H, W), RGB in 0..255.
            segmentations: (N, K, H, W), softmax probabilities in any floating dtype; computed in float32. Of a
                sigmoid p (N, 1, H, W) pass torch.cat([1 - p, p], 1).
            regions_of_interest: (N, H, W), 1 (or True) where the loss applies, 0 elsewhere.
        """
        check_form(images, segmentations, regions_of_interest)
        scaled = self.rescale(segmentations.to(torch.float32))
        return self.forward_rescaled(images, scaled, regions_of_interest).to(segmentations.dtype)

    def rescale(self, segmentations: Tensor) -> Tensor:
        """Return segmentations (N, K, H, W) at the size at which the energy is evaluated."""
        if self.scale_factor == 1:
            return segmentations
        if min(segmentations.shape[2:]) * self.scale_factor < 1:
            shape = tuple(segmentations.shape[2:])
            raise ValueError(f"scale_factor {self.scale_factor} leaves nothing of {shape} pixels: raise it")
        # `scale_factor` and not `size`: they sample differently for odd sizes, and the original uses this one.
        return F.interpolate(segmentations, scale_factor=self.scale_factor, mode="bilinear", align_corners=False)

    @property
    def kernel(self) -> tuple[float, float, float]:
        """What the lattice depends on besides the images."""
        return self.sigma_rgb, self.sigma_xy, self.scale_factor

    def forward_rescaled(
        self,
        images: Tensor,
        scaled: Tensor,
        regions_of_interest: Tensor,
        lattices: dict[tuple[float, float, float], Lattice | None] | None = None,
    ) -> Tensor:
        """Return what `forward` does, in float32, for segmentations in float32 that `rescale` has scaled.

        `lattices` are those of the images by kernel, for kernels that several losses have; the first one builds it.
        """
        images = images.to(torch.float32)
        rois = regions_of_interest.unsqueeze(1).to(torch.float32)
        if self.scale_factor != 1:
            images = F.interpolate(images, scale_factor=self.scale_factor)
            rois = F.interpolate(rois, scale_factor=self.scale_factor)
        check_ranges(images, scaled.detach(), rois)
        sigmas, lattice = (self.sigma_rgb, self.sigma_xy * self.scale_factor), None
        if lattices and self.kernel in lattices:
            lattice = lattices[self.kernel] = lattices[self.kernel] or Lattice(images, *sigmas)
        return self.weight * self.energy(images, scaled, rois.squeeze(1), *sigmas, lattice)

    def energy(
        self,
        images: Tensor,
        segmentations: Tensor,
        rois: Tensor,
        sigma_rgb: float,
        sigma_xy: float,
        lattice: Lattice | None,
    ) -> Tensor:
        """Return the unweighted energy of inputs that are checked, scaled and float32; sigma_xy is scaled too."""
        switches = self.exact_gradient, self.size_free, self.normalised_kernel
        return DenseCRFLossFunction.apply(images, segmentations, sigma_rgb, sigma_xy, rois, *switches, lattice)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, sigma_rgb={self.sigma_rgb:g}, sigma_xy={self.sigma_xy:g}, "
            f"scale_factor={self.scale_factor:g}, exact_gradient={self.exact_gradient}, size_free={self.size_free}, "
            f"normalised_kernel={self.normalised_kernel}"
        )


def check_form(images: Tensor, segmentations: Tensor, rois: Tensor) -> None:
    """Raise ValueError unless the inputs of DenseCRFLoss.forward have its shapes and are on one device."""
    check_tensors(images=images, segmentations=segmentations, regions_of_interest=rois)
    shape, dtype = tuple(segmentations.shape), segmentations.dtype
    if len(shape) != 4 or not dtype.is_floating_point:
        raise ValueError(f"segmentations must be floating (N, K, H, W), found {dtype} {shape}")
    n, _, h, w = shape
    if images.shape != (n, 3, h, w):
        raise ValueError(f"images must be {(n, 3, h, w)} like the segmentations, found {tuple(images.shape)}")
    if rois.shape != (n, h, w):
        raise ValueError(f"regions_of_interest must be {(n, h, w)}, found {tuple(rois.shape)}")
    if not images.device == segmentations.device == rois.device:
        raise ValueError(
            f"all inputs must be on one device, found images on {images.device}, segmentations on "
            f"{segmentations.device}, regions_of_interest on {rois.device}"
        )
    if 0 in shape:
        raise ValueError(f"segmentations must not be empty, found {shape}")


def check_ranges(images: Tensor, segmentations: Tensor, rois: Tensor) -> None:
    """Raise ValueError for values out of the ranges of DenseCRFLoss.forward; warn of images in 0..1 and sigmoids."""
    binary = ((rois == 0) | (rois == 1)).all()
    found = [value.float() for value in (*images.aminmax(), *segmentations.aminmax(), binary)]
    # All of them at once, as a GPU has to finish its work before each transfer.
    low, high, least, most, binary = torch.stack(found).tolist()
    check_image_range(low, high)
    check_probability_range(least, most, "segmentations must be probabilities")
    if segmentations.shape[1] == 1 and least < 0.99:  # the loss would merely ask for more of it
        what = "segmentations have one channel p that is not 1: expected all classes, for a sigmoid [1 - p, p]"
        warnings.warn(what, stacklevel=3)
    if not binary:
        raise ValueError("regions_of_interest must hold only 0 and 1")

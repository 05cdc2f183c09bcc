"""Bilateral filtering of tensors on any device, without autograd: the operator A of the DenseCRF loss."""

import math
import os
import warnings
from numbers import Real
from types import ModuleType

import torch
from torch import Tensor

from filtering import native, torch_lattice


def bilateral_filter(
    images: Tensor,
    values: Tensor,
    sigma_rgb: float,
    sigma_xy: float,
    *,
    transpose: bool = False,
    symmetric: bool = False,
) -> Tensor:
    """Filter every channel of `values` with a Gaussian kernel over the positions and colours of `images`.

    `out[n, k, i] = sum_j w_ij values[n, k, j]`, computed in float32, where `w_ij` has about the shape of
    `exp(-|xy_i - xy_j|^2 / (2 sigma_xy^2) - |rgb_i - rgb_j|^2 / (2 sigma_rgb^2))` and, in the mean, about half its
    values. The sum includes j = i and is not normalised. CPU tensors are
    filtered by the C++ module, others on their device (see `choose_engine`).

    Args:
        images: `(N, 3, H, W)`, any dtype, RGB in 0..255.
        values: `(N, K, H, W)`, any floating-point dtype, on the same device as `images`.
        sigma_rgb, sigma_xy: standard deviations of the Gaussian in colour, in units of `images`, and in pixels.
        transpose: apply the transposed operator A' (on the lattice A is not quite symmetric).
        symmetric: apply (A + A') / 2, whose quadratic form is that of A.

    Returns a new tensor with the shape, dtype and device of `values`, through which no gradient flows. Raises
    ValueError for other shapes, devices, dtypes or sigmas, for images and values that are not finite, and for sigmas so
    small that the lattice becomes too large; ImportError, which says how to build it, if the C++ filter is not built.

    Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.
    """
    check_images(images, sigma_rgb, sigma_xy)
    check_values(values, images.shape, images.device)
    images, sigmas = images.detach().to(torch.float32), (float(sigma_rgb), float(sigma_xy))
    return choose_engine(images.device).bilateral_filter(images, values.detach(), *sigmas, transpose, symmetric)


class Lattice:
    """What `bilateral_filter` builds from images before it filters: built once here, to filter any number of times.

    On a CPU a single filtering by `bilateral_filter` takes less time and memory, because it builds image by image.
    """

    def __init__(self, images: Tensor, sigma_rgb: float, sigma_xy: float) -> None:
        """Build it; arguments and errors as of `bilateral_filter`. The images are not needed afterwards."""
        check_images(images, sigma_rgb, sigma_xy)
        self.image_shape, self.device = images.shape, images.device
        images = images.detach().to(torch.float32)
        self._lattices = choose_engine(self.device).Lattices(images, float(sigma_rgb), float(sigma_xy))

    def filter(self, values: Tensor, *, transpose: bool = False, symmetric: bool = False) -> Tensor:
        """Return what `bilateral_filter` returns for `values`, `(N, K, H, W)` with any K; errors likewise."""
        check_values(values, self.image_shape, self.device)
        return self._lattices.filter(values.detach(), transpose, symmetric)


def choose_engine(device: torch.device) -> ModuleType:
    """Return the module that filters tensors on a device: `native` on a CPU, `torch_lattice` elsewhere.

    It filters by its `bilateral_filter` once, by its `Lattices` many times.

    Where the environment variable RLOSS_TRITON is 1, CUDA tensors are filtered by `triton_lattice`, which has never run
    on a GPU; but not if PyTorch shall use deterministic algorithms.
    """
    if device.type == "cpu":
        return native
    wanted = device.type == "cuda" and os.environ.get("RLOSS_TRITON") == "1"
    if not wanted or torch.are_deterministic_algorithms_enabled():
        return torch_lattice
    from filtering import triton_lattice  # only here, as not every PyTorch brings Triton

    return triton_lattice


def check_tensors(**inputs: Tensor) -> None:
    """Raise ValueError, which names the argument, for what is no tensor."""
    for name, value in inputs.items():
        if not isinstance(value, Tensor):  # a NumPy array has a shape, a dtype and a device, too
            raise ValueError(f"{name}: expected a tensor, found {torch.typename(value)}")


def check_image_range(low: float, high: float) -> None:
    """Raise ValueError unless images with values in low..high can be RGB in 0..255, and warn of such in 0..1."""
    if not (low >= -0.5 and high <= 255.5):  # denormalised images miss the range by rounding
        raise ValueError(f"images must be RGB in 0..255 (not normalised), found values in {low:g}..{high:g}")
    if high <= 1 and low != high:
        warnings.warn(f"images lie in {low:g}..{high:g}: expected 0..255, is this a 0..1 image?", stacklevel=3)


def check_probability_range(low: float, high: float, expected: str) -> None:
    """Raise ValueError unless values in low..high can be probabilities; `expected` says of what."""
    if not (low >= -0.01 and high <= 1.01):  # written so that NaN is refused too; half precision rounds
        raise ValueError(f"{expected} in 0..1, found values in {low:g}..{high:g}")


def check_values(values: Tensor, image_shape: torch.Size, device: torch.device) -> None:
    """Raise ValueError unless `values` are (N, K, H, W), to be filtered by images of that shape on that device."""
    check_tensors(values=values)
    image_shape, shape = tuple(image_shape), tuple(values.shape)
    if values.dim() != 4:
        raise ValueError(f"values: expected shape (N, K, H, W), found {shape}")
    n, _, h, w = image_shape
    if (shape[0], *shape[2:]) != (n, h, w):
        raise ValueError(f"values: expected shape ({n}, K, {h}, {w}) to match images {image_shape}, found {shape}")
    if values.numel() == 0:
        raise ValueError(f"values: expected at least one image, channel and pixel, found shape {shape}")
    if not values.is_floating_point():
        raise ValueError(f"values: expected a floating-point dtype, found {values.dtype}")
    if values.device != device:
        raise ValueError(f"images and values: expected one device, found {device} and {values.device}")


def check_images(images: Tensor, sigma_rgb: float, sigma_xy: float) -> None:
    """Raise ValueError unless a lattice can be built of the images, (N, 3, H, W)."""
    check_tensors(images=images)
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape (N, 3, H, W), found {tuple(images.shape)}")
    if images.is_complex():
        raise ValueError(f"images: expected real numbers, found {images.dtype}")
    for name, sigma in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy)):
        if not isinstance(sigma, Real) or not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"{name}: expected a positive finite number, found {sigma!r}")

"""Bilateral filtering of tensors on any device, without autograd: the operator A of the DenseCRF loss."""

import math
import os
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
    `exp(-|xy_i - xy_j|^2 / (2 sigma_xy^2) - |rgb_i - rgb_j|^2 / (2 sigma_rgb^2))`. The sum includes j = i and is not
    normalised. CPU tensors are filtered by the C++ module, others on their device (see `choose_engine`).

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
    _check(images, values, sigma_rgb, sigma_xy)
    engine = choose_engine(images.device)
    images, values = images.detach().to(torch.float32), values.detach()
    return engine.bilateral_filter(images, values, float(sigma_rgb), float(sigma_xy), transpose, symmetric)


def choose_engine(device: torch.device) -> ModuleType:
    """Return the module that filters tensors on a device: `native` on a CPU, `torch_lattice` elsewhere.

    Where the environment variable RLOSS_TRITON is 1, CUDA tensors are filtered by `triton_lattice`, which has never run
    on a GPU; but not if PyTorch shall use deterministic algorithms or there is no Triton.
    """
    if device.type == "cpu":
        return native
    wanted = device.type == "cuda" and os.environ.get("RLOSS_TRITON") == "1"
    if not wanted or torch.are_deterministic_algorithms_enabled():
        return torch_lattice
    try:
        from filtering import triton_lattice
    except ImportError:
        return torch_lattice
    return triton_lattice


def _check(images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float) -> None:
    image_shape, shape = tuple(images.shape), tuple(values.shape)
    if images.dim() != 4 or image_shape[1] != 3:
        raise ValueError(f"images: expected shape (N, 3, H, W), found {image_shape}")
    if values.dim() != 4:
        raise ValueError(f"values: expected shape (N, K, H, W), found {shape}")
    n, _, h, w = image_shape
    if (shape[0], *shape[2:]) != (n, h, w):
        raise ValueError(f"values: expected shape ({n}, K, {h}, {w}) to match images {image_shape}, found {shape}")
    if values.numel() == 0:
        raise ValueError(f"values: expected at least one image, channel and pixel, found shape {shape}")
    if not values.is_floating_point():
        raise ValueError(f"values: expected a floating-point dtype, found {values.dtype}")
    if images.is_complex():
        raise ValueError(f"images: expected real numbers, found {images.dtype}")
    if images.device != values.device:
        raise ValueError(f"images and values: expected one device, found {images.device} and {values.device}")
    for name, sigma in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy)):
        if not isinstance(sigma, Real) or not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"{name}: expected a positive finite number, found {sigma!r}")

"""The filter on the CPU, by the C++ module `bilateralfilter` (`wrapper/bilateralfilter`)."""

from types import ModuleType

import torch
from torch import Tensor


def bilateral_filter(
    images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, transpose: bool = False, symmetric: bool = False
) -> Tensor:
    """Filter CPU tensors as `filtering.bilateral_filter` does, without copying contiguous ones of float32.

    `images` are float32. The module itself checks that the values are finite.
    """
    source = values.to(torch.float32).contiguous()
    out = torch.empty_like(source)
    arrays = images.contiguous().numpy(), source.numpy(), out.numpy()
    _load().bilateralfilter_batch(*arrays, *source.shape, sigma_rgb, sigma_xy, transpose, symmetric)
    return out.to(values.dtype)


class Lattices:
    """The lattices of CPU images, as `filtering.Lattice` has them; `images` are float32."""

    def __init__(self, images: Tensor, sigma_rgb: float, sigma_xy: float) -> None:
        n, _, height, width = images.shape
        self._lattice = _load().Lattice(images.contiguous().numpy(), n, height, width, sigma_rgb, sigma_xy)

    def filter(self, values: Tensor, transpose: bool = False, symmetric: bool = False) -> Tensor:
        """Filter as `filtering.Lattice.filter` does."""
        source = values.to(torch.float32).contiguous()
        out = torch.empty_like(source)
        self._lattice.filter(source.numpy(), out.numpy(), source.shape[1], transpose, symmetric)
        return out.to(values.dtype)


def mean_field(
    images: Tensor,
    logits: Tensor,
    iterations: int,
    appearance: tuple[float, float, float],
    smoothness: tuple[float, float],
) -> Tensor:
    """Return Q, float32 (N, K, H, W), as `filtering.mean_field.MeanField.by_tensors` does, for float32 CPU tensors.

    `appearance` are the kernel's weight, sigma_rgb and sigma_xy, `smoothness` weight and sigma_xy.
    """
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    arrays = images.contiguous().numpy(), logits.numpy(), out.numpy()
    _load().mean_field(*arrays, *logits.shape, iterations, *appearance, *smoothness)
    return out


def _load() -> ModuleType:
    # Imported at the first call, so that everything else works without the module.
    build = "build it with: pip install ./wrapper/bilateralfilter"
    try:
        import bilateralfilter
    except ImportError as error:
        raise ImportError(f"the C++ bilateral filter is not usable ({error}); {build}") from error
    if not hasattr(bilateralfilter, "mean_field"):
        raise ImportError(f"the C++ bilateral filter {bilateralfilter.__file__} is an earlier one; {build}")
    return bilateralfilter

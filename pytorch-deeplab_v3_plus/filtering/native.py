"""The filters on the CPU, by the C++ module `bilateralfilter` (`wrapper/bilateralfilter`)."""

from types import ModuleType

import numpy as np
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
    log_p: Tensor,
    iterations: int,
    appearance: tuple[float, float, float],
    smoothness: tuple[float, float],
) -> Tensor:
    """Return Q, float32 (N, K, H, W), as `filtering.mean_field.MeanField.by_tensors` does, for float32 CPU tensors.

    `appearance` are the kernel's weight, sigma_rgb and sigma_xy, `smoothness` weight and sigma_xy.
    """
    log_p = log_p.contiguous()
    out = torch.empty_like(log_p)
    arrays = images.contiguous().numpy(), log_p.numpy(), out.numpy()
    _load().mean_field(*arrays, *log_p.shape, iterations, *appearance, *smoothness)
    return out


class SpanningForest:
    """The minimum spanning trees of N images, by the lengths (N, E) of their edges (see EdgeDistances)."""

    def __init__(self, lengths: Tensor, height: int, width: int) -> None:
        self._forest = _load().SpanningForest(_array(lengths), len(lengths), height, width)

    def filter(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return for values (N, K, H, W) and weights (N, E) the means along trees, float32, and the sums of weights."""
        out, masses = _empty(values.shape), _empty((len(values), 1, *values.shape[2:]))
        self._forest.filter(_array(values), _array(weights), out.numpy(), masses.numpy(), values.shape[1])
        return out, masses

    def filter_transposed(self, values: Tensor, weights: Tensor, masses: Tensor) -> Tensor:
        """Return the transposed operator's result, with the sums that `filter` returned."""
        out = _empty(values.shape)
        self._forest.filter_transposed(_array(values), _array(weights), _array(masses), out.numpy(), values.shape[1])
        return out

    def edge_gradient(self, values: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to the weights, (N, E), if that of the sums, not means, is `gradient`."""
        out = _empty(weights.shape)
        self._forest.edge_gradient(_array(values), _array(weights), _array(gradient), out.numpy(), values.shape[1])
        return out


def window_filter(
    images: Tensor,
    regions: Tensor,
    values: Tensor,
    radius: int,
    sigma_rgb: float,
    sigma_xy: float,
    smoothness_weight: float,
    smoothness_xy: float,
) -> tuple[Tensor, Tensor]:
    """Return sum_j w_ij (R_i + R_j) values_j (N, K, H, W) over a window, and the same of ones (N, H, W), float32.

    w_ij is the kernel of the Gated CRF loss, for images (N, 3, H, W), regions (N, H, W) and values (N, K, H, W).
    """
    n, classes, height, width = values.shape
    sums, masses = _empty(values.shape), _empty(regions.shape)
    arrays = _array(images), _array(regions), _array(values), sums.numpy(), masses.numpy()
    widths = sigma_rgb, sigma_xy, smoothness_weight, smoothness_xy
    _load().window_filter(*arrays, n, classes, height, width, radius, *widths)
    return sums, masses


def can_filter(values: Tensor, kind: str) -> bool:
    """Return whether the installed module has the filter `kind` and takes such values: float32 on the CPU."""
    if values.device.type != "cpu" or values.dtype != torch.float32:
        return False
    try:
        import bilateralfilter
    except ImportError:
        return False
    return hasattr(bilateralfilter, kind)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().to(torch.float32).contiguous().numpy()


def _empty(shape: tuple[int, ...]) -> Tensor:
    """Return memory for the module to write to, whatever dtype and device are PyTorch's defaults."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _load() -> ModuleType:
    # Imported at the first call, so that everything else works without the module.
    build = "build it with: pip install ./wrapper/bilateralfilter"
    try:
        import bilateralfilter
    except ImportError as error:
        what = f"the C++ bilateral filter is not usable ({error}); {build}"
        raise ModuleNotFoundError(what, name="bilateralfilter") from error
    if not hasattr(bilateralfilter, "mean_field"):
        what = f"the C++ bilateral filter {bilateralfilter.__file__} is an earlier one; {build}"
        raise ModuleNotFoundError(what, name="bilateralfilter")
    return bilateralfilter

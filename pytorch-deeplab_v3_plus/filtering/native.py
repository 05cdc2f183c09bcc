"""The filter on the CPU, by the C++ module `bilateralfilter` (`wrapper/bilateralfilter`)."""

import torch
from torch import Tensor


def bilateral_filter(
    images: Tensor,
    values: Tensor,
    sigma_rgb: float,
    sigma_xy: float,
    *,
    transpose: bool = False,
    symmetric: bool = False,
) -> Tensor:
    """Filter CPU tensors; contiguous ones of float32 are read where they lie, without a copy.

    Args:
        images: `(N, 3, H, W)`, float32.
        values: `(N, K, H, W)`, any floating-point dtype.
        sigma_rgb, sigma_xy, transpose, symmetric: as in `filtering.bilateral_filter`.

    Returns:
        A new tensor `(N, K, H, W)` of the dtype of `values`.

    Raises:
        ImportError: if the module is not built.
        ValueError: if the module refuses the values.
    """
    bilateralfilter_batch = _load()
    images = images.contiguous()
    source = values.to(torch.float32).contiguous()

    def filtered(transpose: bool) -> Tensor:
        out = torch.empty(values.shape, dtype=torch.float32, device="cpu")
        bilateralfilter_batch(
            images.numpy(), source.numpy(), out.numpy(), *values.shape, sigma_rgb, sigma_xy, transpose
        )
        return out

    out = filtered(False).add_(filtered(True)).mul_(0.5) if symmetric else filtered(transpose)
    return out.to(values.dtype)


def _load():
    # Imported at the first call, so that everything else works where the module is not built.
    try:
        from bilateralfilter import bilateralfilter_batch
    except ImportError as error:
        raise ImportError(
            f"the C++ bilateral filter is not usable ({error}); build it with: pip install ./wrapper/bilateralfilter"
        ) from error
    return bilateralfilter_batch

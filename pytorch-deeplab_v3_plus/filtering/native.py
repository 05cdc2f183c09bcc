"""The filter on the CPU, by the C++ module `bilateralfilter` (`wrapper/bilateralfilter`)."""

import torch
from torch import Tensor


def bilateral_filter(
    images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, *, transpose: bool = False
) -> Tensor:
    """Filter float32 CPU tensors; contiguous ones are read where they lie, without a copy.

    Args:
        images: `(N, 3, H, W)`.
        values: `(N, K, H, W)`.
        sigma_rgb, sigma_xy, transpose: as in `filtering.bilateral_filter`.

    Returns:
        A new tensor `(N, K, H, W)`.

    Raises:
        ImportError: if the module is not built.
        ValueError: if the module refuses the values.
    """
    bilateralfilter_batch = _load()
    out = torch.empty(values.shape, dtype=torch.float32, device="cpu")
    bilateralfilter_batch(
        images.contiguous().numpy(),
        values.contiguous().numpy(),
        out.numpy(),
        *values.shape,
        sigma_rgb,
        sigma_xy,
        transpose,
    )
    return out


def _load():
    # Imported at the first call, so that everything else works where the module is not built.
    try:
        from bilateralfilter import bilateralfilter_batch
    except ImportError as error:
        raise ImportError(
            f"the C++ bilateral filter is not usable ({error}); build it with: pip install ./wrapper/bilateralfilter"
        ) from error
    return bilateralfilter_batch

"""The filter on the CPU, by the C++ module `bilateralfilter` (`wrapper/bilateralfilter`)."""

from collections.abc import Callable

import torch
from torch import Tensor


def bilateral_filter(
    images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, transpose: bool = False, symmetric: bool = False
) -> Tensor:
    """Filter CPU tensors as `filtering.bilateral_filter` does; `images` are float32.

    Contiguous float32 tensors are not copied. The module itself checks that the values are finite.
    """
    bilateralfilter_batch = _load()
    images, source = images.contiguous(), values.to(torch.float32).contiguous()
    out = torch.empty_like(source)

    def run(images: Tensor, source: Tensor, out: Tensor, transpose: bool) -> None:
        arrays = (tensor.numpy() for tensor in (images, source, out))
        bilateralfilter_batch(*arrays, *source.shape, sigma_rgb, sigma_xy, transpose)

    run(images, source, out, transpose and not symmetric)
    if symmetric:
        # A few images at a time, one per thread: new memory for all of them would take nearly as long as the filter.
        group = torch.get_num_threads()
        transposed = torch.empty_like(out[:group])
        for some_images, some_values, sums in zip(*(x.split(group) for x in (images, source, out)), strict=True):
            backward = transposed[: len(sums)]
            run(some_images, some_values, backward, True)
            sums.add_(backward).mul_(0.5)
    return out.to(values.dtype)


def _load() -> Callable[..., None]:
    # Imported at the first call, so that everything else works without the module.
    try:
        from bilateralfilter import bilateralfilter_batch
    except ImportError as error:
        raise ImportError(
            f"the C++ bilateral filter is not usable ({error}); build it with: pip install ./wrapper/bilateralfilter"
        ) from error
    return bilateralfilter_batch

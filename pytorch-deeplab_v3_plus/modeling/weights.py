"""Are these weights numbers that a network can compute with?"""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_plain(value: Tensor) -> bool:
    """Whether a tensor holds its values one by one: not quantised, sparse or without values."""
    return not value.is_quantized and value.layout is torch.strided and not value.is_meta


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first weight that is infinite, not a number or not plain, or None."""

    def finite(value: Tensor) -> bool:
        if not is_plain(value):
            return False
        return bool((value.float() if value.element_size() == 1 else value).isfinite().all())  # float8 has none itself

    return next((key for key, value in weights.items() if not finite(value)), None)

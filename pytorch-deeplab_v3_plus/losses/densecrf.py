"""The DenseCRF loss as a regulariser, with its settings from the command line."""

from __future__ import annotations

from typing import Any

from DenseCRFLoss import DenseCRFLoss
from losses import register


@register("densecrf")
def build(weight: float, options: Any) -> DenseCRFLoss:
    """Build it from `options`: sigma_rgb, sigma_xy, rloss_scale, exact_gradient, size_free."""
    return DenseCRFLoss(
        weight,
        options.sigma_rgb,
        options.sigma_xy,
        options.rloss_scale,
        exact_gradient=options.exact_gradient,
        size_free=options.size_free,
    )

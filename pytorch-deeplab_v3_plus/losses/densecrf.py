"""The DenseCRF loss as a regulariser (see DenseCRFLoss.py)."""

from common.errors import InputError
from DenseCRFLoss import DenseCRFLoss
from losses.options import DenseCRFOptions


class DenseCRF(DenseCRFLoss):
    """Nearby pixels of similar colour should get the same label. Its settings are also options of their own."""

    def __init__(
        self,
        weight: float,
        *,
        sigma_rgb: float = DenseCRFOptions.sigma_rgb,
        sigma_xy: float = DenseCRFOptions.sigma_xy,
        rloss_scale: float = 1.0,
        exact_gradient: bool = False,
        size_free: bool = False,
        normalised_kernel: bool = False,
    ) -> None:
        how = {"exact_gradient": exact_gradient, "size_free": size_free, "normalised_kernel": normalised_kernel}
        try:
            super().__init__(weight, sigma_rgb, sigma_xy, rloss_scale, **how)
        except ValueError as error:
            raise InputError(f"regulariser densecrf: {error}") from None

"""The DenseCRF loss as a regulariser (see DenseCRFLoss.py)."""

from common.errors import InputError
from DenseCRFLoss import DenseCRFLoss
from losses.options import DenseCRFOptions


class DenseCRF(DenseCRFLoss):
    """Nearby pixels of similar colour should get the same label. Its settings are also options of their own.

    L = -1/N sum_n sum_k S_k' A S_k
    A_ij = exp(-|p_i - p_j|^2 / 2 sigma_xy^2 - |c_i - c_j|^2 / 2 sigma_rgb^2)

    with positions p, colours c, and S zero outside the region R; weights are of the order of 1e-9.
    Tang, Perazzi, Djelouah, Ben Ayed, Schroers and Boykov, "On Regularized Losses for Weakly-supervised CNN
    Segmentation", ECCV 2018.

    Args:
        sigma_rgb: width of the kernel in colour, in grey levels of 0..255.
        sigma_xy: width of the kernel in position, in pixels before scaling.
        rloss_scale: in (0, 1], size at which the loss is evaluated, relative to the input.
        exact_gradient: use the lattice's true gradient instead of the original's.
        size_free: divide by the kernel mass R' A R of each image: L is in [-1, 0], weights are of the order of 1.
        normalised_kernel: D^-1/2 A D^-1/2 in place of A, D = diag(A R), so that all pixels weigh about the same.
    """

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

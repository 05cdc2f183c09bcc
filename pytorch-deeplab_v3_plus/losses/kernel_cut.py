"""KernelCut: the DenseCRF loss and the normalised cut loss on one lattice."""

from common.errors import InputError
from losses.normalized_cut import NormalizedCut
from losses.options import DenseCRFOptions


class KernelCut(NormalizedCut):
    """The DenseCRF loss and the normalised cut loss with the same kernel, for the price of one.

    L = -1/N sum_n sum_k ( crf S_k' A S_k / m  +  cut S_k' A S_k / S_k' d ),  d = A R

    with the kernel A of the DenseCRF loss, the region R, and m = R' d, or 1 without size_free.
    Tang, Perazzi, Djelouah, Ben Ayed, Schroers and Boykov, "On Regularized Losses for Weakly-supervised CNN
    Segmentation", ECCV 2018.

    Args:
        crf: share of the DenseCRF loss.
        cut: share of the normalised cut loss.
        size_free: divide the DenseCRF loss by the kernel mass of each image, so that a share means the same at every
            size; without it crf is of the order of 1e-9.
        sigma_rgb, sigma_xy, rloss_scale, exact_gradient: as of normalized_cut.
    """

    name = "kernel_cut"

    def __init__(
        self,
        weight: float,
        *,
        crf: float = 1.0,
        cut: float = 1.0,
        size_free: bool = True,
        sigma_rgb: float = DenseCRFOptions.sigma_rgb,
        sigma_xy: float = DenseCRFOptions.sigma_xy,
        rloss_scale: float = 1.0,
        exact_gradient: bool = False,
    ) -> None:
        how = {"rloss_scale": rloss_scale, "exact_gradient": exact_gradient}
        super().__init__(weight, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy, **how)
        for name, share in (("crf", crf), ("cut", cut)):
            if not 0 <= share < float("inf"):
                raise InputError(f"regulariser kernel_cut: {name} must be 0 or more, found {share}")
        self.crf, self.cut, self.size_free = crf, cut, size_free

    def extra_repr(self) -> str:
        return f"crf={self.crf:g}, cut={self.cut:g}, {super().extra_repr()}"

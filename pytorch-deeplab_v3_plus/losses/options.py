"""The kernel of the DenseCRF loss, said once for training and inference."""

from dataclasses import dataclass

from common.arguments import number, option, switch


@dataclass(frozen=True)
class DenseCRFOptions:
    """DenseCRF loss"""

    sigma_rgb: float = option(
        15.0, "width of the kernel in colour, in grey levels of 0-255", type=number(float, 0, above=True), metavar="S"
    )
    sigma_xy: float = option(
        80.0, "width of the kernel in position, in pixels of the crop", type=number(float, 0, above=True), metavar="S"
    )
    size_free: bool = switch(
        "divide the DenseCRF loss by the kernel mass of each image, so that it lies in [-1, 0] and a weight means the "
        "same at every image size"
    )
    normalised_kernel: bool = switch(
        "normalise the kernel of the DenseCRF loss by its sums, so that pixels of textured objects, which few others "
        "resemble, weigh as much as those of plain grounds"
    )

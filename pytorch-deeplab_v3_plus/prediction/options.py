"""The options of inference, and those that it shares with evaluation."""

from dataclasses import dataclass, fields
from typing import Any

from common.arguments import COUNT, number, option, switch
from common.devices import DeviceOptions
from common.errors import InputError
from dataloaders.sizes import DEFAULT_CROP
from filtering.mean_field import MeanField
from losses.options import DenseCRFOptions
from modeling.backbone import BACKBONES, OUTPUT_STRIDES
from prediction.predict import INTERPOLATIONS, TILE

WEIGHT: dict[str, Any] = {"type": number(float, 0), "metavar": "W"}
WIDTH: dict[str, Any] = {"type": number(float, 0, above=True), "metavar": "S"}


def count(low: int, metavar: str = "N") -> dict[str, Any]:
    """Return how an option takes an integer of at least `low`."""
    return {"type": number(int, low), "metavar": metavar}


@dataclass(frozen=True)
class CheckpointOptions:
    """network

    What the checkpoint does not hold itself, or to check what it holds.
    """

    checkpoint: str | None = option(None, "trained network", metavar="FILE", required=True)
    backbone: str | None = option(
        None, "feature network (default: the checkpoint's, or else resnet)", choices=tuple(BACKBONES)
    )
    n_class: int | None = option(None, "number of classes (default: the checkpoint's)", "--n_class", **count(2, "K"))
    out_stride: int | None = option(
        None, "input pixels per feature pixel (default: the checkpoint's, or else 16)", type=int, choices=OUTPUT_STRIDES
    )


@dataclass(frozen=True)
class ViewOptions:
    """views of an image to average over"""

    scales: tuple[float, ...] = option(
        (1.0,),
        "average the probabilities over the network's size of the image times each of these factors; 0.5 0.75 1 1.25 "
        "1.5 1.75 are usual (default: 1)",
        type=number(float, 0, above=True, high=1000),
        nargs="+",
        metavar="FACTOR",
    )
    flip: bool = switch("average over the mirrored image too")


@dataclass(frozen=True)
class RefinementOptions:
    """refinement by a DenseCRF"""

    crf: bool = switch("refine the predictions with a DenseCRF, by mean-field inference")
    crf_iterations: int = option(MeanField.iterations, "iterations of the inference", **count(0))
    crf_weight: float = option(MeanField.appearance_weight, "weight of its kernel of position and colour", **WEIGHT)
    crf_sigma_xy: float = option(MeanField.appearance_xy, "width of that kernel in position, in pixels", **WIDTH)
    crf_sigma_rgb: float = option(
        MeanField.appearance_rgb, "width of that kernel in colour, in grey levels of 0-255", **WIDTH
    )
    crf_smooth_weight: float = option(MeanField.smoothness_weight, "weight of its kernel of position alone", **WEIGHT)
    crf_smooth_sigma: float = option(MeanField.smoothness_xy, "width of that kernel, in pixels", **WIDTH)

    def mean_field(self) -> MeanField | None:
        """Return the DenseCRF that the options ask for; None without --crf."""
        if not self.crf:
            idle = [f.name for f in fields(RefinementOptions) if f.name != "crf" and getattr(self, f.name) != f.default]
            if idle:
                raise InputError(f"--{idle[0].replace('_', '-')} goes with --crf, which is missing")
            return None
        appearance = self.crf_weight, self.crf_sigma_xy, self.crf_sigma_rgb
        return MeanField(self.crf_iterations, *appearance, self.crf_smooth_weight, self.crf_smooth_sigma)


@dataclass(frozen=True)
class ImageOptions:
    """images and results"""

    image_path: tuple[str, ...] = option(
        (),
        "what to segment: images, folders (searched recursively), patterns such as 'photos/*.jpg' (default: none)",
        "--image_path",
        nargs="+",
        metavar="PATH",
    )
    output_directory: str | None = option(
        None,
        "where the results go; created if absent",
        "--output_directory",
        required=True,
        metavar="FOLDER",
    )
    crop_size: int | None = option(
        None,
        "an image's short side is scaled to this for the network; 0: not scaled (default: the checkpoint's, or else "
        f"{DEFAULT_CROP})",
        "--crop_size",
        **count(0, "PIXELS"),
    )
    scribbles: str | None = option(
        None,
        "folder with scribbles of these images, named like them: where there are some, the prediction offers only the "
        "classes drawn and keeps the strokes",
        metavar="FOLDER",
    )
    center_crop: bool = switch("segment the centre square of the scaled image, at that size, as the original did")
    tile: int = option(
        TILE, "cut scaled images with a longer side into overlapping tiles of this size; 0: never", **count(0, "PIXELS")
    )
    interpolation: str = option(
        INTERPOLATIONS[0], "how the network's scores are scaled back to the image's size", choices=INTERPOLATIONS
    )
    batch_size: int = option(1, "images or tiles of the same size per step", **COUNT)
    workers: int = option(4, "processes that read images ahead", **count(0))
    confidence: bool = switch("<name>_confidence.png: the probability of the predicted class, as grey levels of 0-255")
    probabilities: bool = switch("<name>_probabilities.npz: `probabilities` (K, H, W) float16 and `class_names`")
    export: str | None = option(
        None,
        "write the network to <checkpoint>.onnx (images of any size, RGB 0-255) and check it against PyTorch",
        choices=("onnx",),
    )


@dataclass(frozen=True)
class LossReportOptions(DenseCRFOptions):
    """report of that loss for the prediction"""

    rloss_weight: float | None = option(
        None,
        "weight of the DenseCRF loss: report it and draw its gradient for each class (default: off)",
        type=number(float, 0, above=True),
        metavar="WEIGHT",
    )
    rloss_scale: float = option(
        0.5, "shrink the input of the loss by this factor", type=number(float, 0, above=True, high=1), metavar="FACTOR"
    )


@dataclass(frozen=True)
class InferenceOptions(
    DeviceOptions, LossReportOptions, RefinementOptions, ViewOptions, ImageOptions, CheckpointOptions
):
    """What inference.py segments, with which network, and what it writes."""

    @property
    def several_views(self) -> bool:
        """Whether an image is predicted more than as it is."""
        return self.flip or self.scales != (1.0,)

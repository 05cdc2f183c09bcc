"""The options of the evaluation."""

from dataclasses import dataclass

from common.arguments import COUNT, PIXELS, number, option, switch
from common.devices import DeviceOptions
from dataloaders.sizes import DEFAULT_CROP
from evaluation.protocols import VIEWS, Protocol
from prediction.options import CheckpointOptions, RefinementOptions


@dataclass(frozen=True)
class ScoreOptions:
    """scores"""

    protocol: tuple[str, ...] = option(
        tuple(VIEWS),
        "crop: the centre square of the image scaled to the crop size, as in the original; full: every pixel at the "
        "original size, as in VOC's evaluation (default: both)",
        nargs="+",
        choices=VIEWS,
    )
    crop_size: int | None = option(
        None,
        f"short side of what the network sees (default: the checkpoint's, or else {DEFAULT_CROP})",
        *("--crop-size", "--crop_size"),
        **PIXELS,
    )
    scales: tuple[float, ...] = option(
        (1.0,),
        "average the probabilities over that size times each of these factors; 0.5 0.75 1 1.25 1.5 1.75 are usual "
        "(default: 1)",
        type=number(float, 0, above=True, high=1000),
        nargs="+",
        metavar="FACTOR",
    )
    flip: bool = switch("average over the mirrored image too")
    test_batch_size: int = option(4, "images per step", **COUNT)
    fill_in: bool = switch("also score the training images against their full truth")
    output: str | None = option(
        None,
        "where JSON and figures go (default: evaluation/ beside the checkpoint; evaluation_2/ and so on where that has "
        "reports of other weights, data or settings)",
        metavar="FOLDER",
    )


@dataclass(frozen=True)
class EvaluationOptions(DeviceOptions, RefinementOptions, ScoreOptions, CheckpointOptions):
    """What evaluate.py scores, and how; its data set is described by dataloaders.options.DataOptions."""

    def protocols(self, crop_size: int, short_side: int) -> list[Protocol]:
        """Return the protocols to score by, for a network that sees crops and whole images of these sizes."""
        how = tuple(self.scales), self.flip, self.mean_field()
        sizes = {"crop": crop_size, "full": short_side}
        return [Protocol(view, sizes[view], *how) for view in self.protocol]

"""The options of the evaluation."""

from dataclasses import dataclass

from common.arguments import COUNT, PIXELS, option, switch
from common.devices import DeviceOptions
from dataloaders.sizes import DEFAULT_CROP
from evaluation.protocols import VIEWS, Protocol
from prediction.options import CheckpointOptions, RefinementOptions, ViewOptions


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
        **PIXELS,
    )
    test_batch_size: int = option(4, "images per step", **COUNT)
    fill_in: bool = switch("also score the training images against their full truth")
    output: str | None = option(
        None,
        "where JSON and figures go (default: evaluation/ beside the checkpoint; evaluation_2/ and so on where that has "
        "reports of other weights, data or settings)",
        metavar="FOLDER",
    )


@dataclass(frozen=True)
class EvaluationOptions(DeviceOptions, RefinementOptions, ViewOptions, ScoreOptions, CheckpointOptions):
    """What evaluate.py scores, and how; its data set is described by dataloaders.options.DataOptions."""

    def protocols(self, crop_size: int, short_side: int) -> list[Protocol]:
        """Return the protocols to score by, for a network that sees crops and whole images of these sizes."""
        how = self.scales, self.flip, self.mean_field()
        sizes = {"crop": crop_size, "full": short_side}
        return [Protocol(view, sizes[view], *how) for view in self.protocol]

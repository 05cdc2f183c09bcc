"""Which images, seen how, in which batches."""

from dataclasses import dataclass

from common.arguments import COUNT, PIXELS, number, option, switch
from common.errors import InputError
from dataloaders.sizes import DEFAULT_CROP
from dataloaders.transforms import PADDING_COLOURS

FACTOR = number(float, 0, above=True, high=1000)  # Pillow counts pixels in 31 bits


@dataclass(frozen=True)
class DataOptions:
    """data

    `batch_size` and `test_batch_size` None are for training to choose.
    """

    dataset: str | None = option(
        None,
        "a name in dataloaders/datasets/: pascal, synthetic or your own (default: pascal where it is found, otherwise "
        "synthetic)",
        metavar="NAME",
    )
    data_root: str | None = option(
        None,
        "any folder with JPEGImages/, pascal_2012_scribble/ and, where known, SegmentationClassAug/; no code needed",
        metavar="FOLDER",
    )
    classes: str | None = option(
        None, "class names of --data-root, one a line, background first (default: FOLDER/classes.txt)", metavar="FILE"
    )
    workers: int = option(4, "processes that load images", type=number(int, 0), metavar="N")
    supervision: str = option(
        "scribble", "labels to train on; full is the upper bound to compare with", choices=("scribble", "full")
    )
    base_size: int | None = option(
        DEFAULT_CROP,
        "short side of a training image before the random scaling; own: that of each image, at which the trained "
        "network then sees whole images too",
        type=lambda text: None if text == "own" else PIXELS["type"](text),
        metavar="PIXELS",
    )
    scale_range: tuple[float, float] = option(
        (0.5, 2.0),
        "random scaling of a training image; narrower learns faster from few small images (default: 0.5 2)",
        type=FACTOR,
        nargs=2,
        metavar=("LOW", "HIGH"),
    )
    scales: tuple[float, ...] | None = option(
        None,
        "random scaling by one of these factors, instead of by --scale-range",
        type=FACTOR,
        nargs="+",
        metavar="FACTOR",
    )
    blur: bool = switch("blur half of the training images", default=True)
    padding: str = option(
        "black",
        "colour of what a training image lacks of the crop; mean: the one that the networks from Caffe subtract",
        choices=tuple(PADDING_COLOURS),
    )
    crop_size: int = option(DEFAULT_CROP, "side of the training crop", **PIXELS)
    batch_size: int | None = option(None, "images in a step, over all devices (default: 4 per device)", **COUNT)
    test_batch_size: int | None = option(None, "images in a step of the evaluation (default: as --batch-size)", **COUNT)
    repeat: int = option(
        1,
        "how often an epoch takes each training image: with few images, its end is a large part of the time",
        type=number(int, 1, high=1_000_000),
        metavar="N",
    )
    seed: int = option(1, "random seed for weights, order and augmentation", type=number(int, 0), metavar="N")

    def __post_init__(self) -> None:
        for name in ("scale_range", "scales"):  # argparse makes them lists
            object.__setattr__(self, name, getattr(self, name) and tuple(getattr(self, name)))
        if self.data_root == "":
            raise InputError("--data-root: expected a folder, found an empty word (a variable that is not set?)")
        if self.classes and not self.data_root:
            raise InputError("--classes FILE goes with --data-root FOLDER, which is missing")
        if self.data_root and self.dataset:
            raise InputError("give either --dataset NAME or --data-root FOLDER, not both")
        low, high = self.scale_range
        if low > high or (self.base_size and self.base_size * low < 1):
            raise InputError(f"--scale-range {low:g} {high:g}: expected LOW up to HIGH, of a pixel or more")

    @property
    def short_side(self) -> int:
        """The short side at which the trained network sees whole images; 0: their own."""
        return self.crop_size if self.base_size else 0

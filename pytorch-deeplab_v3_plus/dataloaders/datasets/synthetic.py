"""The data set that the project draws itself, in VOC's layout; drawn into its folder the first time it is asked for."""

from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.synthetic import CLASS_NAMES, ensure_drawn
from mypath import Path


class SyntheticSegmentation(VOCSegmentation):
    """Four kinds of textured objects on textured, cluttered grounds; see dataloaders/synthetic."""

    CLASSES = CLASS_NAMES

    def __init__(self, args, base_dir=None, split="train", class_names=None) -> None:
        """Draw the data set if its folder has none; arguments as VOCSegmentation's."""
        folder = base_dir or Path.db_root_dir("synthetic")
        ensure_drawn(folder)
        super().__init__(args, folder, split, class_names)

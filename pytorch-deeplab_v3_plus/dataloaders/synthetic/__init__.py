"""The data set that the project draws itself: textured objects on cluttered grounds, with scribbles and full truth."""

from dataloaders.synthetic.drawing import CLASS_NAMES, SEED, TRAIN, VAL, draw_dataset, ensure_drawn, read_stamp

__all__ = ["CLASS_NAMES", "SEED", "TRAIN", "VAL", "draw_dataset", "ensure_drawn", "read_stamp"]

"""What training would silently get wrong, from what is known without reading more files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dataloaders.class_names import is_background
from dataloaders.labels import PADDING, UNLABELLED

if TYPE_CHECKING:
    from dataloaders.datasets.pascal import VOCSegmentation

NO_BACKGROUND = "no image has background scribbles: everything would become an object"
CLASS_0 = "no class is called background, so that class 0 is a class like any other"
CLASS_NEVER = "a class is never labelled: the network cannot learn it"
OBJECT_255 = "every pixel is 0 or 255, and 255 means 'not labelled': there is nothing but background to learn"
NUMBER_ANEW = (
    "import_scribbles.py masks FOLDER NEW --images IMAGES --classes FILE --map 255=1 renumbers it, where FILE has "
    "the lines background and NAME"
)
TRAIN_AND_VAL = "the same picture is used for training and for validation: the scores are too good"


def quick_check(train: VOCSegmentation, val: VOCSegmentation | None, counts: np.ndarray) -> list[str]:
    """Return a line for each thing that training would silently get wrong.

    `counts` are of train.survey(); without `val` nothing is evaluated.
    """
    missing, first = classes_without_labels(counts, train.class_names), train.class_names[0]
    lines = [f"{NO_BACKGROUND} ('{name}')" for name in missing if is_background(name)]
    if never := [name for name in missing if not is_background(name)]:
        lines.append(f"{CLASS_NEVER} ({', '.join(map(repr, never))})")
    if not is_background(first):
        lines.append(f"{CLASS_0} ('{first}')")
    if train.label_kind == "scribbles" and not counts[UNLABELLED] and counts[0] > 0.5 * counts.sum():
        lines.append(f"every pixel has a class, most the background: is that meant? {UNLABELLED} says 'not labelled'")
    both = sorted(set(train.ids) & set(val.ids)) if val else []
    if both:
        lines.append(f"{TRAIN_AND_VAL} ({len(both)} of the images, first '{both[0]}')")
    return lines


def object_is_255(counts: np.ndarray) -> bool:
    """Whether labels whose values occur `counts` (256,) times are 0 and 255 alone, as tools write an object's mask."""
    return bool(counts[0] and counts[UNLABELLED] and not counts[1:PADDING].any())


def classes_without_labels(counts: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Return the classes of which there is no pixel, by the counts (256,) of all training labels."""
    return [name for name, count in zip(class_names, counts, strict=False) if not count]

"""What training would silently get wrong, from what is known without more reading."""

import logging
from collections.abc import Sequence

import numpy as np

from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.labels import UNLABELLED
from preparation.problems import KINDS, Problem

logger = logging.getLogger(__name__)


def quick_check(train: VOCSegmentation, val: VOCSegmentation, counts: np.ndarray) -> list[str]:
    """Return a line for each thing that training would silently get wrong, from what is known without more reading.

    Args:
        train, val: the data sets.
        counts: of train, by its count_labels.
    """
    lines = [
        f"{KINDS[problem.kind].meaning} ({problem.detail})" for problem in count_problems(counts, train.class_names)
    ]
    if train.label_kind == "scribbles" and not counts[UNLABELLED] and counts[0] > 0.5 * counts.sum():
        lines.append(f"every pixel has a class, most the background: is that meant? {UNLABELLED} says 'not labelled'")
    both = sorted(set(train.ids) & set(val.ids))
    if both:
        lines.append(f"{KINDS['train and val'].meaning} ({len(both)} of the images, first '{both[0]}')")
    return lines


def count_problems(counts: np.ndarray, class_names: Sequence[str]) -> list[Problem]:
    """Find classes without labels in the pixel counts (256,) of all training labels."""
    missing = [name for name, count in zip(class_names, counts, strict=False) if not count]
    return [Problem("class never" if name != class_names[0] else "no background", "", f"'{name}'") for name in missing]

"""The layout of a data set on disk."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dataloaders.datasets.pascal import LISTS

logger = logging.getLogger(__name__)

CLASS_FILE = "classes.txt"


def write_lists(folder: Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Write the lists of a data set."""
    lists = folder / LISTS / "SegmentationAug"
    lists.mkdir(parents=True, exist_ok=True)
    for name, ids in (("train", train), ("val", val)):
        (lists / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")

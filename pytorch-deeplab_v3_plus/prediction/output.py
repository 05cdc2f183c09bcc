"""The files that inference writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import replace_file
from dataloaders.images import write_label


def save_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W) uint8 as a palette PNG: its values are class numbers, its colours VOC's."""
    replace_file(path, lambda temporary: write_label(temporary, labels))


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG."""
    replace_file(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_probabilities(path: Path, probabilities: np.ndarray, class_names: Sequence[str]) -> None:
    """Write `probabilities` (K, H, W) as float16 and `class_names` into an .npz file."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # given a name, NumPy would add a suffix
            np.savez_compressed(
                file, probabilities=probabilities.astype(np.float16), class_names=np.array(class_names, dtype=str)
            )

    replace_file(path, write)

"""What the values of a label map mean: special values, class names, colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError

PADDING = 254
"""Label of pixels that the transform added around an image: outside the region where the losses apply."""

UNLABELLED = 255
"""Label of pixels without a label (not scribbled, or VOC's void border): part of the image, no cross-entropy."""

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def voc_palette() -> np.ndarray:
    """Return PASCAL VOC's colour map, uint8 (256, 3): the RGB colour of each label value.

    The bits of a label are dealt to red, green, blue in turn, the lowest bits to the highest bits of the colours, so
    that neighbouring labels differ most (the VOC development kit's ``VOClabelcolormap``).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            palette[:, channel] |= ((labels >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read class names from a text file: one class a line, either ``name`` or, from the first on, ``index name``.

    Returns the names in the order of their labels, index 0 upwards; raises InputError when the file cannot be read or
    is not of that form, or names a class twice.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a text file with one class name a line, cannot read {path}: {error}") from None
    if lines and _begins_with_number(lines[0]):
        for number, line in enumerate(lines):
            if not _begins_with_number(line) or int(line.split()[0]) != number:
                raise InputError(
                    f"expected '{number} NAME', found '{line}' in {path}: number all classes from 0 "
                    "upwards without gaps, or begin with a name without a number"
                )
        lines = [line.split(maxsplit=1)[1] for line in lines]
    if not 2 <= len(lines) <= PADDING:
        raise InputError(
            f"expected 2 to {PADDING} classes, found {len(lines)} in {path}: one class a line, the background first"
        )
    for name in lines:
        if lines.count(name) > 1:
            raise InputError(
                f"expected each class once, found '{name}' {lines.count(name)} times in {path}: rename or remove one"
            )
    return tuple(lines)


def write_class_names(path: Path, class_names: Sequence[str]) -> None:
    """Write class names as read_class_names reads them: with an index where a name could be taken for one."""
    indexed = _begins_with_number(class_names[0])
    lines = [f"{number} {name}\n" if indexed else f"{name}\n" for number, name in enumerate(class_names)]
    path.write_text("".join(lines), encoding="utf-8")


def _begins_with_number(line: str) -> bool:
    words = line.split(maxsplit=1)
    return len(words) == 2 and words[0].isdecimal()

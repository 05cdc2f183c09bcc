"""The annotation formats that import_scribbles.py reads, and what a format's module hands over.

A format NAME is a line in FORMATS and a module preparation/NAME.py with one function:

    def collect(source: Path, options: ImportOptions) -> Collection
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError

FORMATS = {
    "labelme": "JSON files of labelme",
    "scribblesup": "XML files of ScribbleSup, the scribbles for PASCAL VOC",
    "masks": "pictures whose colours stand for classes",
}
"""What a source of each format holds."""


@dataclass(frozen=True)
class ImportOptions:
    """How to read annotations; each format takes what it needs."""

    images: Path | None = None
    """Folder of photographs, named as their annotations."""
    class_names: tuple[str, ...] | None = None
    """In the order of their labels; None leaves them to the format."""
    colours: Path | None = None
    """File that says which colour stands for which class."""
    ignore_unknown: bool = False
    """Whether colours that are not in that file are unlabelled instead of an error."""
    width: int = 3
    """Of strokes and dots, in pixels of the photograph."""
    truth: bool = False
    """Whether the labels are full ground truth, so that what lies outside the shapes is background."""


class Labelled(NamedTuple):
    """An image and how to draw its label map."""

    name: str
    """File name of the image; without its suffix it is the image's id."""
    image: Path | bytes
    """The image file, or its content."""
    source: Path
    """File that the labels come from, for messages."""
    draw: Callable[[tuple[int, int]], np.ndarray]
    """From (width, height) of the upright image to its label map, uint8 (H, W); raises InputError."""

    @property
    def id(self) -> str:
        """The image's id."""
        return Path(self.name).stem


class Collection(NamedTuple):
    """The images of a source, and what the values of their labels mean."""

    items: list[Labelled]
    class_names: tuple[str, ...]


def collect(name: str, source: Path, options: ImportOptions) -> Collection:
    """Find what a source of the format `name` holds; raise InputError for what is wrong with it or with the options."""
    return importlib.import_module(f"preparation.{name}").collect(source, options)


def need_images(name: str, options: ImportOptions) -> Path:
    """Return the folder of photographs, without which the format `name` cannot do; raise InputError where it lacks."""
    if options.images is None:
        raise InputError(f"{name} needs --images FOLDER, the photographs")
    return options.images

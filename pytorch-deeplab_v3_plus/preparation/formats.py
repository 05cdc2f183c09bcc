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

from common.arguments import number, option, switch
from common.errors import InputError
from dataloaders.class_names import arranged
from dataloaders.images import id_of_file
from dataloaders.layout import read_class_lines
from dataloaders.options import PIXELS

FORMATS = {  # what a source of each format holds
    "labelme": "JSON files of labelme",
    "scribblesup": "XML files of ScribbleSup, the scribbles for PASCAL VOC",
    "masks": "pictures whose colours stand for classes",
}


@dataclass(frozen=True)
class ImportOptions:
    """how to read SOURCE and write DATA"""

    images: Path | None = option(
        None,
        "photographs, named as their annotations (labelme default: those that the JSON files name or carry)",
        type=Path,
        metavar="FOLDER",
    )
    classes: Path | None = option(
        None,
        "class names, one a line, background first (default: DATA/classes.txt where it exists; otherwise labelme takes "
        "the labels in use and scribblesup those of PASCAL VOC; masks always takes them from --colours)",
        type=Path,
        metavar="FILE",
    )
    colours: Path | None = option(
        None, "for masks: 'R G B name' a line, background first, or CVAT's labelmap.txt", type=Path, metavar="FILE"
    )
    ignore_unknown: bool = switch("for masks: colours that are not in --colours are unlabelled")
    width: int | None = option(
        None,
        "width of strokes and dots, in pixels of the photograph (default: a 150th of its short side, at least 3)",
        **PIXELS,
    )
    truth: bool = switch(
        "the labels are the full ground truth, to measure with or to simulate scribbles from; what lies outside the "
        "shapes is background"
    )
    val: float = option(
        0.2,
        "share of images held out for validation, stratified by class; where there is ground truth, only images that "
        "have it",
        type=number(float, 0, above=True, high=0.9),
        metavar="SHARE",
    )
    seed: int = option(1, "chooses the images held out for validation", type=number(int, 0), metavar="N")
    new_lists: bool = switch("replace the lists that DATA has")
    overwrite: bool = switch("replace labels and images of SOURCE that DATA has already; the others stay")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names in the file `classes`, the background first; None leaves them to the format."""
        return arranged(read_class_lines(self.classes), self.classes) if self.classes else None


class Labelled(NamedTuple):
    """An image and how to draw its label map."""

    name: str  # file name of the image; without its suffix it is the image's id
    image: Path | bytes  # the image file, or its content
    source: Path  # file that the labels come from, for messages
    draw: Callable[[tuple[int, int]], np.ndarray]
    """From (width, height) of the upright image to its label map, uint8 (H, W); raises InputError."""

    @property
    def id(self) -> str:
        """The image's id."""
        return id_of_file(self.name)


class Collection(NamedTuple):
    """The images of a source, and what the values of their labels mean."""

    items: list[Labelled]
    class_names: tuple[str, ...]


def collect(name: str, source: Path, options: ImportOptions) -> Collection:
    """Find what a source of the format `name` holds; raise InputError where it or an option is wrong."""
    return importlib.import_module(f"preparation.{name}").collect(source, options)


def need(name: str, options: ImportOptions, **needed: str) -> None:
    """Raise InputError for an option without which the format `name` cannot be read; `needed` says what it is."""
    for option_name, what in needed.items():
        if getattr(options, option_name) is None:
            kind = "FOLDER" if option_name == "images" else "FILE"
            raise InputError(f"{name} needs --{option_name} {kind}, {what}")

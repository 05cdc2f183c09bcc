"""The annotation formats that import_scribbles.py reads, and what a format's module hands over.

A format NAME is a line in FORMATS and a module preparation/NAME.py with

    SUFFIXES = (".json",)                                   of its files
    def recognises(path: Path) -> bool                      whether a file is one, by its content; never raises
    def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection

and, where options are meant for some formats alone, OPTIONS, their names.
"""

import argparse
import functools
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from common.arguments import PIXELS, flag, number, option
from common.errors import InputError
from dataloaders.class_names import arranged
from dataloaders.images import id_of_file
from dataloaders.layout import read_class_lines
from preparation.sources import Photographs, files_in, read_json, read_xml

logger = logging.getLogger(__name__)

FORMATS = {  # what a source of each format holds
    "labelme": "JSON files of labelme or X-AnyLabeling",
    "cvat": "XML of CVAT, 'CVAT for images 1.1'",
    "coco": "JSON of COCO, with polygons or run lengths",
    "label_studio": "JSON of Label Studio, or the PNGs of its brush",
    "via": "JSON or CSV of the VGG Image Annotator 1 and 2",
    "qupath": "GeoJSON of QuPath",
    "scribblesup": "XML files of ScribbleSup, the scribbles for PASCAL VOC",
    "masks": "pictures whose numbers or colours stand for classes",
}


_BESIDE_MASKS = (".md", ".db", ".ini")  # and text files, but for those called as a picture, as YOLO's are
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


def value_map(text: str) -> dict[int, int]:
    """Parse 'VALUE=CLASS', several separated by commas."""
    try:
        pairs = [tuple(map(int, part.split("="))) for part in text.split(",")]
        values = dict(pairs)
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"expected VALUE=CLASS, as in 255=1, found {text!r}") from None
    if len(values) < len(pairs) or not all(0 <= value <= 255 for value in values.values()):
        raise argparse.ArgumentTypeError(f"expected each value once and classes of 0 to 255, found {text!r}")
    return values


def text_encoding(text: str) -> str:
    """Parse the name of a text encoding that Python knows."""
    try:
        "".encode(text)
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(f"expected a text encoding, such as cp932, found {text!r}") from None
    return text


@dataclass(frozen=True)
class ImportOptions:
    """how to read SOURCE and write DATA"""

    images: Path | None = option(
        None,
        "photographs (default: those in SOURCE, or within its files)",
        type=Path,
        metavar="FOLDER",
    )
    classes: Path | None = option(
        None,
        "class names, one a line, background first (default: DATA/classes.txt where it exists; otherwise the labels in "
        "use, for scribblesup those of PASCAL VOC; masks takes them from its table of colours where there is one)",
        type=Path,
        metavar="FILE",
    )
    colours: Path | None = option(
        None,
        "for masks: 'R G B name' a line, background first, or CVAT's labelmap.txt, or Roboflow's _classes.csv "
        "(default: such a file in SOURCE; without one, the numbers count)",
        type=Path,
        metavar="FILE",
    )
    map: tuple[dict[int, int], ...] | None = option(
        None,
        "for masks: the grey value VALUE stands for that class (number in the list of classes); repeat it, or "
        "separate several with commas",
        type=value_map,
        action="append",
        metavar="VALUE=CLASS",
    )
    unlabelled: tuple[int, ...] | None = option(
        None,
        "for masks: the grey value VALUE is not labelled; may be repeated",
        type=int,
        action="append",
        metavar="VALUE",
    )
    ignore_unknown: bool = flag("for masks: colours that are not in --colours are unlabelled")
    attribute: str | None = option(
        None, "for via: the attribute of the regions that holds the class (default: the only one)", metavar="NAME"
    )
    zip_names: str | None = option(
        None,
        "for a ZIP: the encoding of its file names where it does not say (cp932: Japanese Windows; default: UTF-8)",
        type=text_encoding,
        metavar="ENCODING",
    )
    width: int | None = option(
        None,
        "width of strokes and dots, in pixels of the photograph (default: a 150th of its short side, at least 3)",
        **PIXELS,
    )
    truth: bool = flag(
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
    new_lists: bool = flag("replace the lists that DATA has")
    overwrite: bool = flag("replace labels and images of SOURCE that DATA has already; the others stay")

    @functools.cached_property
    def class_lines(self) -> list[str]:
        """The lines of the file `classes`, which is read once: it may be a pipe."""
        return read_class_lines(self.classes) if self.classes else []

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names in the file `classes`, the background first; None leaves them to the format."""
        return arranged(self.class_lines, self.classes) if self.classes else None


class Labelled(NamedTuple):
    """An image and how to draw its label map."""

    name: str  # file name of the image; without its suffix it is the image's id
    image: Path | Callable[[], bytes]  # the image file, or what reads its content
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


def collect(source: Path, options: ImportOptions, name: str | None = None) -> Collection:
    """Find what a file or folder holds, in the format `name` or in the only one that its files are recognised as.

    Raises InputError where there is none or more than one, and where a file or an option is wrong.
    """
    files = files_in(source)
    modules = {known: importlib.import_module(f"preparation.{known}") for known in FORMATS}
    found, unknown = recognise(files, modules)
    if options.images and not options.images.is_dir():
        raise InputError(
            f"--images: expected a folder of photographs, found none at {options.images}: correct the name, or unpack "
            "it where it is a ZIP"
        )
    folder = options.images or (source if source.is_dir() else source.parent)
    photographs = Photographs(folder, files if folder == source else files_in(folder))
    pictures = found.get("masks", [])
    told_apart = bool(pictures and modules["masks"].tell_apart(pictures, photographs, options)[0])
    name = name or choose(found, unknown, files, source, told_apart)
    module = modules[name]
    for field in fields(options):
        users = [known for known in FORMATS if field.name in getattr(modules[known], "OPTIONS", ())]
        if users and name not in users and getattr(options, field.name):
            raise InputError(f"{name} does not take --{field.name.replace('_', '-')}, which is for {', '.join(users)}")
    # Files that no format recognises are its own: what is wrong with them is then said.
    own = sorted(found.get(name, []) + [path for path in unknown if path.suffix.lower() in module.SUFFIXES])
    for known, paths in found.items():
        if known in (name, "masks"):
            continue
        if not own:
            raise InputError(
                f"expected {FORMATS[name]}, found {FORMATS[known]}, {paths[0]}: name {known}, or no format"
            )
        logger.info("left out: %d files of %s (%s)", len(paths), known, paths[0].name)
    if not own:
        names = ", ".join(f"*{suffix}" for suffix in module.SUFFIXES)
        raise InputError(f"expected {FORMATS[name]}, files {names}, found none in {source}")
    unread = set(files).difference(own, photographs.files, *found.values())
    if unread := sorted(path for path in unread if path.suffix.lower() not in (*_BESIDE_MASKS, ".txt", ".csv")):
        logger.info("left out: %d files of kinds that are not read (first %s)", len(unread), unread[0])
    return module.collect(own, photographs, options)


def recognise(files: list[Path], modules: dict[str, ModuleType]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the files of each format, by its name, and those of a format's suffixes that are of none."""
    found: dict[str, list[Path]] = {}
    unknown = []
    for path in files:
        candidates = [name for name, module in modules.items() if path.suffix.lower() in module.SUFFIXES]
        name = next((name for name in candidates if modules[name].recognises(path)), None)
        if name:
            found.setdefault(name, []).append(path)
        elif candidates:
            unknown.append(path)
    return found, unknown


def choose(found: dict[str, list[Path]], unknown: list[Path], files: list[Path], source: Path, told_apart: bool) -> str:
    """Return the format of a source with these files.

    Pictures are masks only where nothing else is found, beside files that no format reads (a ZIP, YOLO's text files)
    only where `told_apart` says that some are masks by their names or folders.
    """
    names = [name for name in found if name != "masks"]
    if len(names) > 1:
        first = ", ".join(f"{name} ({found[name][0]})" for name in names)
        raise InputError(f"expected annotations of one format, found {first}: name the one to read before SOURCE")
    documents = [path for path in unknown if path.suffix.lower() != ".csv" or not told_apart]
    if not told_apart:
        stems, others = {path.stem for path in found.get("masks", [])}, set(files).difference(unknown, *found.values())
        others = [path for path in sorted(others) if path.suffix.lower() not in _BESIDE_MASKS]
        documents += [path for path in others if path.suffix.lower() != ".txt" or path.stem in stems]
    if names or ("masks" in found and not documents):
        return names[0] if names else "masks"
    for path in documents:
        read = {".xml": read_xml, ".json": read_json, ".geojson": read_json}.get(path.suffix.lower())
        if read:
            read(path)  # says so where it is damaged
    packed = [path for path in files if path.name.lower().endswith(_ARCHIVES)]
    what = "the ZIP in it" if packed and packed[0].suffix.lower() == ".zip" else "the folder that comes out of it"
    advice = f"unpack it, and name {what}, {packed[0]}" if packed else "export one of these from the tool"
    advice = "put 'masks' before SOURCE to read the masks, or " + advice if told_apart else advice
    raise InputError(
        f"expected annotations, found {documents[0] if documents else f'none in {source}'}: {advice}: "
        f"{'; '.join(FORMATS.values())}"
    )

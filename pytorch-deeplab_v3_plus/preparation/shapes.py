"""What people draw on an image, and the label map that it becomes."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.errors import InputError
from dataloaders.class_names import check_class_names, is_background, is_unlabelled, same_name, tidy
from dataloaders.images import IMAGE_SUFFIXES, listing
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.strokes import brush_stroke, usual_width
from preparation.formats import Collection, ImportOptions, Labelled

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """One thing that was drawn, in pixels of the image, the centre of the first pixel at (0, 0)."""

    label: str
    kind: str  # point, line (any number of points in a row), polygon, rectangle, circle or mask
    points: np.ndarray
    """Float (points, 2): x, y. Of a rectangle two corners, of a circle centre and rim, of a mask its first corner."""
    mask: np.ndarray | None = None  # bool (h, w), for a mask


class Annotation(NamedTuple):
    """What was drawn on one image."""

    source: Path
    image_name: str | None  # file that the source names, relative to its own folder
    size: tuple[int, int] | None  # width and height on which it was drawn, where the source says so
    shapes: tuple[Shape, ...]
    image_bytes: bytes = b""  # the image file itself, where the source carries it


def label_values(annotations: Iterable[Annotation], class_names: tuple[str, ...]) -> dict[str, int]:
    """Return the value of every label that was drawn; raise InputError for labels that are no class.

    A label is a class where the names agree but for case, spaces and Unicode form; the usual names of "unlabelled", and
    those of the background where class 0 is one, are known too.
    """
    known = {same_name(name): value for value, name in enumerate(class_names)}

    def value_of(label: str) -> int | None:
        if is_unlabelled(label):
            return UNLABELLED
        return 0 if is_background(label) and is_background(class_names[0]) else known.get(same_name(label))

    drawn = [(shape.label, annotation.source) for annotation in annotations for shape in annotation.shapes]
    times = Counter(label for label, _ in drawn if value_of(label) is None)
    if times:
        label, count = times.most_common(1)[0]
        first = next(source for name, source in drawn if name == label)
        others = f" (and {', '.join(sorted(times.keys() - {label}))})" if len(times) > 1 else ""
        more = f" and {count - 1} other shapes" if count > 1 else ""
        hint = ", of which the background is the first line" if is_background(label) else ""
        raise InputError(
            f"expected labels out of {', '.join(class_names)}, found '{label}'{others} in {first}{more}: "
            f"correct the labels or the class list{hint}"
        )
    return {label: value_of(label) for label, _ in drawn}


def class_names_of(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """Return the classes that were drawn: background, then the others by name.

    Raises InputError where two names differ by case alone.
    """
    names: dict[str, str] = {}
    for annotation in annotations:
        for name in (tidy(shape.label) for shape in annotation.shapes):
            if not (is_background(name) or is_unlabelled(name)) and names.setdefault(same_name(name), name) != name:
                raise InputError(
                    f"expected one spelling of each class, found '{names[same_name(name)]}' and '{name}' (in "
                    f"{annotation.source}): give the right names with --classes FILE"
                )
    others = [name for _, name in sorted(names.items())]
    if not 1 <= len(others) < PADDING:
        raise InputError(
            f"expected 1 to {PADDING - 1} classes beside the background, found {len(others)} in what was drawn"
        )
    check_class_names(("background", *others), "what was drawn")
    return "background", *others


def covered_pixels(shape: Shape, size: tuple[int, int], width: int) -> np.ndarray:
    """Return the pixels, bool (H, W), that a shape covers in an image of `size` (width, height).

    Points and lines are drawn `width` pixels wide, other shapes are filled.
    """
    points = shape.points
    if shape.kind in ("point", "line"):
        paths = [points] if shape.kind == "line" else points[:, None]
        strokes = (brush_stroke(path, width, size[::-1]) for path in paths)
        return functools.reduce(np.logical_or, strokes)
    picture = Image.new("1", size)
    pen = ImageDraw.Draw(picture)
    if shape.kind == "polygon":
        pen.polygon([tuple(point) for point in points.tolist()], fill=1)
    elif shape.kind == "rectangle":
        pen.rectangle(tuple(np.sort(points[:2], axis=0).ravel().tolist()), fill=1)
    elif shape.kind == "circle":
        radius = np.hypot(*(points[1] - points[0]))
        pen.ellipse((*(points[0] - radius).tolist(), *(points[0] + radius).tolist()), fill=1)
    else:
        picture.paste(Image.fromarray(shape.mask), tuple(points[0].astype(int).tolist()))
    return np.array(picture)


def annotation_files(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder with these suffixes, or raise InputError where there are none."""
    files = list(listing(folder, suffixes).values())
    if not files:
        names = ", ".join(f"*{suffix}" for suffix in suffixes)
        raise InputError(f"expected files {names}, found none in {folder}: name their folder")
    return files


def image_of(source: Path, photographs: dict[str, Path], folder: Path) -> Path:
    """Return the photograph of an annotation file."""
    if source.stem not in photographs:
        raise InputError(f"expected the photograph of {source}, found no {source.stem}{IMAGE_SUFFIXES[0]} in {folder}")
    return photographs[source.stem]


def collect_shapes(annotations: list[Annotation], options: ImportOptions, class_names: tuple[str, ...]) -> Collection:
    """Join annotations with their images and with the values of their labels, for a format that draws shapes.

    Images on which nothing is drawn are left out, unless that means background. Raises InputError for a label that is
    no class, or an annotation without its image.
    """
    values, outside = label_values(annotations, class_names), 0 if options.truth else UNLABELLED
    if options.truth and not is_background(class_names[0]):
        raise InputError(
            f"expected a background, which full truth has outside the shapes, found the classes "
            f"{', '.join(class_names)}: add it to the class list, as its first line"
        )

    def draw(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
        if annotation.size:
            check_size(annotation.source, annotation.size, size)
        label = np.full(size[::-1], outside, dtype=np.uint8)
        for shape in annotation.shapes:  # later ones over earlier ones
            label[covered_pixels(shape, size, options.width or usual_width(size))] = values[shape.label]
        return label

    photographs = listing(options.images, IMAGE_SUFFIXES) if options.images else {}
    if not options.width and any(s.kind in ("point", "line") for one in annotations for s in one.shapes):
        logger.info("strokes and dots: a 150th of a photograph's short side wide, at least 3 pixels (--width: another)")
    drawn = [annotation for annotation in annotations if annotation.shapes or options.truth]
    items = []
    for annotation in drawn:
        if options.images:
            image: Path | bytes = image_of(annotation.source, photographs, options.images)
            name = image.name
        else:
            name, image = named_image(annotation)
        items.append(Labelled(name, image, annotation.source, functools.partial(draw, annotation)))
    if len(drawn) < len(annotations):
        logger.info("left out: %d images on which nothing is drawn", len(annotations) - len(drawn))
    return Collection(items, class_names)


def named_image(annotation: Annotation) -> tuple[str, Path | bytes]:
    """Return name and file (or content) of the image that an annotation names or carries."""
    path = annotation.source.parent / (annotation.image_name or annotation.source.name)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.name, path
    if annotation.image_bytes:
        suffix = ".jpg" if annotation.image_bytes.startswith(b"\xff\xd8") else ".png"
        return path.stem + suffix, annotation.image_bytes
    raise InputError(
        f"expected the photograph {path} that {annotation.source} names, found none: put it there, or name the folder "
        "of the photographs with --images"
    )


class WrongSize(InputError):
    """An annotation that does not have the size of its image, but the (width, height) `found`."""

    found = (0, 0)


def check_size(source: Path, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raise WrongSize unless an annotation has the size of its image."""
    if tuple(found) != tuple(expected):
        error = WrongSize(
            f"expected labels for the {expected[0]}x{expected[1]} pixels of the photograph (turned upright if it says "
            f"so), found {found[0]}x{found[1]} in {source}: annotate the photograph itself, not a scaled or turned copy"
        )
        error.found = tuple(found)
        raise error

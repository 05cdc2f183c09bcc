"""What people draw on an image, and the label map that it becomes."""

import contextlib
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from common.errors import InputError
from dataloaders.class_names import check_class_names, is_background, is_unlabelled, same_name, tidy
from dataloaders.images import LARGEST, stored_size
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.strokes import brush_stroke, usual_width
from preparation.formats import Collection, ImportOptions, Labelled
from preparation.sources import HEIC_SUFFIXES, PHOTOGRAPH_SUFFIXES, Photographs, data_set_image

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """One thing that was drawn, in pixels of the image; where (0, 0) lies, its annotation says."""

    label: str
    kind: str  # point, line (any number of points in a row), polygon, rectangle, circle or mask
    points: np.ndarray
    """Float (points, 2): x, y. Of a rectangle two corners, of a circle centre and rim, of a mask its first corner."""
    mask: Callable[[], np.ndarray] | None = None  # makes a mask's bool (h, w); raises ValueError
    holes: tuple[np.ndarray, ...] = ()  # of a polygon, float (points, 2) each


class Annotation(NamedTuple):
    """What was drawn on one image."""

    source: Path
    image_name: str | None  # file that the source names; None where the source is called as its image
    size: tuple[int, int] | None  # width and height on which it was drawn, where the source says so
    shapes: tuple[Shape, ...]
    carried: Callable[[], bytes] | None = None  # reads the image file itself, where the source carries it
    counts_pixels: bool = False
    """Whether (0, 0) is the centre of the first pixel, and an outline part of its shape; else it is the corner."""

    @property
    def place(self) -> str:
        """The source, and the image where that is called otherwise, for messages: many tools write one file for all."""
        name = self.image_name
        return f"{self.source}, image '{name}'" if name and Path(name).stem != self.source.stem else str(self.source)


MIN_POINTS = {"point": 1, "line": 2, "polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}


def make_shape(label: object, kind: str, points: object, **more: Any) -> Shape:
    """Return a shape whose label and points were found in a file; raise ValueError, which says what is wrong with them.

    A rectangle may also have its four corners, in a row and turned.
    """
    label = str(label).strip() if isinstance(label, str | int) and label is not True else ""
    if not label:
        raise ValueError(f"a {kind} without a label")
    try:
        with np.errstate(over="ignore"):
            array = np.array(points, dtype=np.float64).round(6)  # where computed, it may be a hair off a pixel's border
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)
    if kind == "rectangle" and array.shape == (4, 2):
        kind = "polygon"
    count = MIN_POINTS[kind]
    exact = kind in ("rectangle", "circle")
    right = array.ndim == 2 and array.shape[1] == 2 and len(array) >= count and (not exact or len(array) == count)
    if not right or not np.isfinite(array).all():
        found = points.tolist() if isinstance(points, np.ndarray) else points
        wanted = f"{count}{'' if exact else ' or more'} pairs of numbers expected"
        raise ValueError(f"a {kind} of '{label}' with the points {str(found)[:100]} ({wanted})")
    return Shape(label, kind, array, **more)


def turned(points: object, degrees: float, centre: object) -> np.ndarray:
    """Return points, float (points, 2), turned clockwise on the screen, where y points down, about a centre (x, y)."""
    with np.errstate(invalid="ignore"):  # of what is not finite, which make_shape refuses
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return (np.asarray(points, dtype=float) - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def box_corners(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return the four corners, float (4, 2), of an upright box with its upper left corner at (x, y)."""
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], dtype=float)


def ellipse_outline(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """Return points, float (points, 2), along the rim of an upright ellipse with its centre at (x, y).

    They are so many that the lines between them stay within 0.002 pixels of the rim.
    """
    count = int(np.nan_to_num(50 * np.sqrt(max(abs(rx), abs(ry)))).clip(16, 10_000))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)])


def mask_from_runs(counts: object, shape: tuple[int, int], order: str = "C") -> np.ndarray:
    """Return the mask, bool of the given shape (h, w), of run lengths that begin with a run outside the mask.

    The runs go along the rows (order C) or down the columns (F). Raises ValueError where they do not fill the shape.
    """
    try:
        runs = np.array(counts, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("run lengths that are no numbers") from None
    pixels = shape[0] * shape[1]
    if min(shape) < 1 or pixels > LARGEST:
        raise ValueError(f"a mask of {shape[1]}x{shape[0]}")
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise ValueError(f"run lengths for {runs.sum()} pixels in a mask of {shape[1]}x{shape[0]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape, order=order)


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

    drawn = [(shape.label, annotation.place) for annotation in annotations for shape in annotation.shapes]
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


def value_outside(class_names: tuple[str, ...], truth: bool) -> int:
    """Return the value of what is not drawn; raise InputError for full truth of classes without a background."""
    if truth and not is_background(class_names[0]):
        raise InputError(
            f"expected a background, which full truth has outside the shapes, found the classes "
            f"{', '.join(class_names)}: add it to the class list, as its first line"
        )
    return 0 if truth else UNLABELLED


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
                    f"{annotation.place}): give the right names with --classes FILE"
                )
    others = [name for _, name in sorted(names.items())]
    if not 1 <= len(others) < PADDING:
        raise InputError(
            f"expected 1 to {PADDING - 1} classes beside the background, found {len(others)} in what was drawn"
        )
    check_class_names(("background", *others), "what was drawn")
    return "background", *others


def covered_pixels(shape: Shape, size: tuple[int, int], width: int, counts_pixels: bool) -> np.ndarray:
    """Return the pixels, bool (H, W), that a shape covers in an image of `size` (width, height).

    Points and lines are drawn `width` pixels wide, other shapes are filled. `counts_pixels` is that of the annotation.
    Raises ValueError for a mask that is damaged or leaves the image.
    """
    points = shape.points
    if shape.kind in ("point", "line"):
        points = points if counts_pixels else points - 0.5
        paths = [points] if shape.kind == "line" else points[:, None]
        strokes = (brush_stroke(path, width, size[::-1]) for path in paths)
        return functools.reduce(np.logical_or, strokes)
    if shape.kind == "polygon" and not counts_pixels:
        holes = (pixels_within(hole, size) for hole in shape.holes)
        return functools.reduce(lambda left, hole: left & ~hole, holes, pixels_within(points, size))
    picture = Image.new("1", size)
    pen = ImageDraw.Draw(picture)  # with which labelme itself makes masks
    if shape.kind == "polygon":
        pen.polygon([tuple(point) for point in points.tolist()], fill=1)
    elif shape.kind == "rectangle":
        pen.rectangle(tuple(np.sort(points, axis=0).ravel().tolist()), fill=1)
    elif shape.kind == "circle":
        radius = np.hypot(*(points[1] - points[0]))
        pen.ellipse((*(points[0] - radius).tolist(), *(points[0] + radius).tolist()), fill=1)
    else:
        mask, corner = shape.mask(), np.round(points[0]).astype(int)
        if (corner < 0).any() or (corner + mask.shape[::-1] > np.array(size) + 1).any():
            raise ValueError(f"a mask of {mask.shape[1]}x{mask.shape[0]} at x {corner[0]}, y {corner[1]}")
        picture.paste(Image.fromarray(mask), tuple(corner.tolist()))
    return np.array(picture)


def pixels_within(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W), whose centres lie in a polygon, by the even-odd rule.

    `ring` is float (points, 2), x and y from the corner of an image of `size` (width, height). Polygons that share a
    border share no pixel. Written here, as Pillow draws polygons up to a pixel larger.
    """
    following = np.roll(ring, -1, axis=0)
    ends = np.sort(np.stack([ring[:, 1], following[:, 1]]), axis=0)
    first, last = np.ceil(ends - 0.5).clip(0, size[1]).astype(int)
    # An edge crosses the middles of these rows, each at one place, behind which inside and outside change.
    rows = np.concatenate([np.arange(*span) for span in zip(first, last, strict=True)])
    edge = np.repeat(np.arange(len(ring)), last - first)
    (x, y), (along, down) = ring[edge].T, (following - ring)[edge].T
    columns = np.ceil(x + (rows + 0.5 - y) * along / down - 0.5).clip(0, size[0]).astype(int)
    top, bottom, inside = first.min(), last.max(), np.zeros(size[::-1], dtype=bool)
    changes = np.zeros((bottom - top, size[0] + 1), dtype=bool)
    np.logical_xor.at(changes, (rows - top, columns), True)
    inside[top:bottom] = np.logical_xor.accumulate(changes, axis=1)[:, :-1]
    return inside


def collect_shapes(
    annotations: list[Annotation], photographs: Photographs, options: ImportOptions, class_names: tuple[str, ...] = ()
) -> Collection:
    """Join annotations with their images and with the values of their labels, for a format that draws shapes.

    Without class names the classes are the labels in use. Images on which nothing is drawn are left out, unless that
    means background. Raises InputError for a label that is no class, or an annotation without its image.
    """
    if not any(annotation.shapes for annotation in annotations):
        where = annotations[0].place if annotations else "what was read"
        others = f" and {len(annotations) - 1} more" if len(annotations) > 1 else ""
        raise InputError(f"expected something drawn, found nothing in {where}{others}: draw, save, and export it again")
    class_names = class_names or class_names_of(annotations)
    values, outside = label_values(annotations, class_names), value_outside(class_names, options.truth)
    stroked = [one for one in annotations if any(shape.kind in ("point", "line") for shape in one.shapes)]
    if stroked and not options.width:
        logger.info("strokes and dots: a 150th of a photograph's short side wide, at least 3 pixels (--width: another)")
    if stroked and options.truth:
        logger.warning(
            "%d images have lines or dots (first %s), and what lies beside them is background: import them without "
            "--truth where they are scribbles",
            len(stroked),
            stroked[0].place,
        )
    drawn = [annotation for annotation in annotations if annotation.shapes or options.truth]
    items, doubtful, known = [], [], set()
    for annotation in drawn:
        path = photograph_of(annotation, photographs)
        known.add(path)
        name, image = data_set_image(path) if path else _carried_image(annotation)
        draw = functools.partial(_draw, annotation, values, outside, options.width)
        items.append(Labelled(name, image, annotation.source, draw))
        if path and not annotation.size and is_turned(path):
            doubtful.append(annotation)
    if doubtful:
        logger.warning(
            "%d photographs carry an EXIF rotation, and their labels do not say on which size they were drawn (first "
            "%s): taken as drawn on the upright photograph, which browsers show since 2020",
            len(doubtful),
            doubtful[0].place,
        )
    if len(drawn) < len(annotations):
        logger.info("left out: %d images on which nothing is drawn", len(annotations) - len(drawn))
        for annotation in annotations:
            with contextlib.suppress(InputError):  # of those that are left out the photograph may be missing
                known.add(photograph_of(annotation, photographs))
    others = [path for path in photographs.files if path not in known]
    if others and not options.images:
        logger.info("left out: %d pictures that no annotation names (first %s)", len(others), others[0])
    empty = sum(not annotation.shapes for annotation in drawn)
    if empty:
        logger.info("--truth: %d images on which nothing is drawn are background throughout", empty)
    return Collection(items, class_names)


def _draw(
    annotation: Annotation, values: Mapping[str, int], outside: int, width: int | None, size: tuple[int, int]
) -> np.ndarray:
    """Return the label map, uint8 (H, W), of an annotation of a photograph of `size`, (width, height)."""
    if annotation.size:
        check_size(annotation.place, annotation.size, size)
    label, nowhere = np.full(size[::-1], outside, dtype=np.uint8), []
    for shape in annotation.shapes:  # later ones over earlier ones
        try:
            check_place(shape, size)
            pixels = covered_pixels(shape, size, width or usual_width(size), annotation.counts_pixels)
        except ValueError as error:
            raise InputError(
                f"expected shapes on the {size[0]}x{size[1]} pixels of the photograph, found {error} of "
                f"'{shape.label}' in {annotation.place}: correct or remove it"
            ) from None
        label[pixels] = values[shape.label]
        if not pixels.any():
            nowhere.append(f"a {shape.kind} of '{shape.label}'")
    if nowhere:
        logger.warning("%s: %d shapes cover no pixel, first %s", annotation.place, len(nowhere), nowhere[0])
    return label


def photograph_of(annotation: Annotation, photographs: Photographs) -> Path | None:
    """Return the photograph that an annotation names, None where there is none but the one that it carries."""
    source, name = annotation.source, _image_name(annotation)
    beside = Path(os.path.normpath(source.parent / name))
    if photographs.folder in source.parents and beside.suffix.lower() in PHOTOGRAPH_SUFFIXES and os.path.isfile(beside):
        return beside
    try:
        return photographs.find(name, source)
    except InputError:
        if not annotation.carried:
            raise
        return None


def _carried_image(annotation: Annotation) -> tuple[str, Callable[[], bytes]]:
    jpeg = annotation.carried().startswith(b"\xff\xd8")
    return Path(_image_name(annotation)).stem + (".jpg" if jpeg else ".png"), annotation.carried


def _image_name(annotation: Annotation) -> str:
    return annotation.image_name or annotation.source.stem


def is_turned(image: Path) -> bool:
    """Whether an image file is turned by its EXIF tag when it is read."""
    return image.suffix.lower() not in HEIC_SUFFIXES and stored_size(image)[1] is not None


def check_place(shape: Shape, size: tuple[int, int]) -> None:
    """Raise ValueError where a shape lies beside an image of `size` (width, height), or leaves it by more than that."""
    low, high, limits = shape.points.min(0), shape.points.max(0), np.array(size)
    if shape.kind == "circle":
        radius = np.hypot(*(shape.points[1] - shape.points[0]))
        low, high = shape.points[0] - radius, shape.points[0] + radius
    if shape.kind == "mask":
        high = np.maximum(high, 0)  # where it ends is seen when it is drawn
    if (low > limits).any() or (high < -1).any() or (low < -limits).any() or (high > 2 * limits).any():
        raise ValueError(f"a {shape.kind} at x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}")


class WrongSize(InputError):
    """An annotation that does not have the size of its image, but the (width, height) `found`."""

    found = (0, 0)


def check_size(source: Path | str, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raise WrongSize unless an annotation has the size of its image."""
    if tuple(found) != tuple(expected):
        error = WrongSize(
            f"expected labels for the {expected[0]}x{expected[1]} pixels of the photograph (turned upright if it says "
            f"so), found {found[0]}x{found[1]} in {source}: annotate the photograph itself, not a scaled or turned copy"
        )
        error.found = tuple(found)
        raise error

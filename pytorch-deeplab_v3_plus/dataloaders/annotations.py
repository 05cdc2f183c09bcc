"""Read what annotation tools write: labelme's JSON, ScribbleSup's XML, pictures whose colours are classes.

The `collect` functions find a folder's annotations and their images; folders.import_labels makes a data set of them.
"""

import base64
import binascii
import io
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

from dataloaders.files import IMAGE_SUFFIXES, listing
from dataloaders.folders import Labelled
from dataloaders.labels import PADDING, UNLABELLED, VOC_CLASSES
from errors import InputError

logger = logging.getLogger(__name__)

BACKGROUND_NAMES = ("background", "_background_", "bg")
UNLABELLED_NAMES = ("unlabelled", "unlabeled", "ignore", "__ignore__", "void")


class Shape(NamedTuple):
    """One thing that was drawn, in pixels of the image, the centre of the first pixel at (0, 0)."""

    label: str
    kind: str
    """point, line (any number of points in a row), polygon, rectangle, circle or mask."""
    points: np.ndarray
    """Float (points, 2): x, y. Of a rectangle two corners, of a circle centre and rim, of a mask its first corner."""
    mask: np.ndarray | None = None
    """Bool (h, w), for a mask."""


class Annotation(NamedTuple):
    """What was drawn on one image."""

    source: Path
    image_name: str | None
    """File that the source names, relative to its own folder."""
    size: tuple[int, int] | None
    """Width and height on which it was drawn, where the source says so."""
    shapes: tuple[Shape, ...]
    image_bytes: bytes | None = None
    """The image file itself, where the source carries it."""


# labelme's names of shapes; `points` and `linestrip` are several points.
_KINDS = {
    "point": "point",
    "points": "point",
    "line": "line",
    "linestrip": "line",
    "polygon": "polygon",
    "rectangle": "rectangle",
    "circle": "circle",
    "mask": "mask",
}
_LEAST_POINTS = {"point": 1, "line": 2, "polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}


def read_labelme(path: Path) -> Annotation:
    """Read a JSON file of labelme (versions 3 to 5): what it draws and the image that it names or carries."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes = tuple(_labelme_shape(shape) for shape in content["shapes"])
        size = content.get("imageWidth"), content.get("imageHeight")
        data = content.get("imageData")
        image_bytes = base64.b64decode(data) if data else None
        image_name = content.get("imagePath")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"expected a JSON file of labelme, cannot read {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"expected a JSON file of labelme, found {reason} in {path}: save it anew, or remove it"
        ) from None
    if image_name is not None:
        image_name = str(image_name).replace("\\", "/")  # annotated under Windows
    return Annotation(path, image_name, size if all(size) else None, shapes, image_bytes)


def _labelme_shape(shape: dict) -> Shape:
    label, name = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
    if name not in _KINDS:
        raise ValueError(f"the shape '{name}' of '{label}' (known: {', '.join(_KINDS)})")
    kind, points = _KINDS[name], np.array(shape["points"], dtype=np.float64).reshape(-1, 2)
    if len(points) < _LEAST_POINTS[kind] or not np.isfinite(points).all():
        raise ValueError(f"a {name} of '{label}' with the points {points.tolist()}")
    mask = None
    if kind == "mask":
        try:
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
                mask = np.asarray(image.convert("L")) > 0
        except (OSError, TypeError):
            raise ValueError(f"a mask of '{label}' that is no PNG") from None
    return Shape(label, kind, points, mask)


def read_scribblesup(path: Path) -> Annotation:
    """Read an XML file of the PASCAL-scribble data set (Lin et al., ScribbleSup, CVPR 2016).

    One polyline an element: ``<polygon><tag>class</tag><point><X>12</X><Y>34</Y></point>...</polygon>``. That is the
    form that programs for the data set read; it was not compared with the published archive. So this takes the elements
    at any depth, upper or lower case, and names the file where something else stands.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"expected an XML file with scribbles, cannot read {path}: {error}") from None

    def inside(parent: ElementTree.Element, name: str) -> list[ElementTree.Element]:
        return [element for element in parent.iter() if element.tag.lower() == name and element is not parent]

    def text(parent: ElementTree.Element, name: str) -> str:
        found = inside(parent, name)
        if not found or not (found[0].text or "").strip():
            raise ValueError(f"no <{name}> in a <{parent.tag}>")
        return found[0].text.strip()

    try:
        shapes = []
        for polyline in inside(root, "polygon"):
            points = np.array([[float(text(point, axis)) for axis in "xy"] for point in inside(polyline, "point")])
            if not len(points):
                raise ValueError(f"a <{polyline.tag}> without points")
            shapes.append(Shape(text(polyline, "tag"), "line" if len(points) > 1 else "point", points))
        sizes = inside(root, "size")
        size = tuple(int(float(text(sizes[0], side))) for side in ("width", "height")) if sizes else None
    except ValueError as error:
        raise InputError(
            f"expected <polygon><tag>CLASS</tag><point><X>..</X><Y>..</Y></point>...</polygon>, found {error} in {path}"
        ) from None
    return Annotation(path, None, size, tuple(shapes))


def label_values(annotations: Iterable[Annotation], class_names: tuple[str, ...]) -> dict[str, int]:
    """Return the value of every label that was drawn; raise InputError for labels that are no class.

    A label is a class where the names agree but for upper and lower case; the usual names of the background and of
    "unlabelled" are known too.
    """
    known = dict.fromkeys(UNLABELLED_NAMES, UNLABELLED) | dict.fromkeys(BACKGROUND_NAMES, 0)
    known |= {name.casefold(): value for value, name in enumerate(class_names)}
    values, unknown = {}, {}
    for annotation in annotations:
        for shape in annotation.shapes:
            value = known.get(shape.label.casefold())
            if value is None:
                unknown.setdefault(shape.label, []).append(annotation.source)
            else:
                values[shape.label] = value
    if unknown:
        label, files = max(unknown.items(), key=lambda item: len(item[1]))
        others = f" (and {', '.join(sorted(set(unknown) - {label}))})" if len(unknown) > 1 else ""
        raise InputError(
            f"expected labels out of {', '.join(class_names)}, found '{label}'{others} in {files[0]}"
            f"{f' and {len(files) - 1} other shapes' if len(files) > 1 else ''}: correct the labels or the class list"
        )
    return values


def class_names_of(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """Return the classes that were drawn: background, then the others by name.

    Raises InputError where two names differ by case alone.
    """
    names: dict[str, str] = {}
    for annotation in annotations:
        for shape in annotation.shapes:
            key = shape.label.casefold()
            if names.setdefault(key, shape.label) != shape.label:
                raise InputError(
                    f"expected one spelling of each class, found '{names[key]}' and '{shape.label}' (in "
                    f"{annotation.source}): give the right names with --classes FILE"
                )
    others = [name for key, name in sorted(names.items()) if key not in BACKGROUND_NAMES + UNLABELLED_NAMES]
    if not 1 <= len(others) < PADDING:
        raise InputError(
            f"expected 1 to {PADDING - 1} classes beside the background, found {len(others)} in what was drawn"
        )
    return ("background", *others)


def draw_annotation(
    annotation: Annotation, size: tuple[int, int], values: dict[str, int], width: int, outside: int = UNLABELLED
) -> np.ndarray:
    """Draw shapes into a label map, later ones over earlier ones.

    Args:
        annotation: the shapes.
        size: width and height of the label map.
        values: of the labels.
        width: of strokes and dots, in pixels; polygons, rectangles, circles and masks are filled.
        outside: value where nothing is drawn.

    Returns:
        uint8 (H, W).
    """
    label = np.full(size[::-1], outside, dtype=np.uint8)
    for shape in annotation.shapes:
        label[covered_pixels(shape, size, width)] = values[shape.label]
    return label


def covered_pixels(shape: Shape, size: tuple[int, int], width: int) -> np.ndarray:
    """Return the pixels that a shape covers, bool (H, W); arguments as draw_annotation's."""
    points = shape.points
    if shape.kind in ("point", "line"):
        paths = [points] if shape.kind == "line" else points[:, None]
        covered = np.zeros(size[::-1], dtype=bool)
        for path in paths:
            columns, rows = stroke_pixels(path, width).T
            inside = (columns >= 0) & (columns < size[0]) & (rows >= 0) & (rows < size[1])
            covered[rows[inside], columns[inside]] = True
        return covered
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


def stroke_pixels(path: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels under a round brush of `width` pixels that is led along a path, int (n, 2) as x, y.

    Pillow's own wide lines are a pixel thinner or thicker, by their slope.
    """
    steps = np.ceil(np.abs(np.diff(path, axis=0)).max(axis=1)).astype(int)
    line = [path[:1]]
    for start, end, count in zip(path[:-1], path[1:], steps, strict=True):
        line.append(start + (end - start) * np.arange(1, count + 1)[:, None] / max(count, 1))
    middle = (width - 1) / 2
    brush = np.argwhere(np.hypot(*(np.indices((width, width)) - middle)) <= width / 2) - width // 2
    centres = np.floor(np.concatenate(line) + 0.5).astype(int)
    return (centres[:, None] + brush).reshape(-1, 2)


class ColourTable(NamedTuple):
    """Which colour stands for which class."""

    class_names: tuple[str, ...]
    values: dict[tuple[int, int, int], int]


def read_colours(path: Path) -> ColourTable:
    """Read a colour table: one class a line, background first, as ``R G B name`` or, from CVAT, ``name:R,G,B::``.

    The names unlabelled, ignore and void stand for pixels without a class. Raises InputError for anything else.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a colour table, cannot read {path}: {error}") from None
    names: list[str] = []
    values: dict[tuple[int, int, int], int] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        rgb = r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)"
        match = re.fullmatch(rf"{rgb}[\s,]+(?P<name>\S.*)", line) or re.fullmatch(rf"(?P<name>[^:]+):{rgb}:.*", line)
        colour = tuple(map(int, match.group("r", "g", "b"))) if match else (256,)
        if max(colour) > 255:
            raise InputError(f"expected 'R G B name' with numbers of 0-255, found '{line}' in {path}")
        name = match["name"].strip()
        if colour in values or name in names:
            raise InputError(f"expected each colour and each name once, found '{line}' again in {path}")
        if name.casefold() in UNLABELLED_NAMES:
            values[colour] = UNLABELLED
        else:
            values[colour] = len(names)
            names.append(name)
    if not 2 <= len(names) <= PADDING:
        raise InputError(
            f"expected 2 to {PADDING} classes, found {len(names)} in {path}: one a line, the background first"
        )
    return ColourTable(tuple(names), values)


def read_coloured(path: Path, table: ColourTable, ignore_unknown: bool = False) -> np.ndarray:
    """Read a picture whose colours are classes; transparent pixels are unlabelled.

    Args:
        path: of any kind that Pillow reads without loss; a palette counts by its colours, not its numbers.
        table: class of each colour.
        ignore_unknown: whether colours that the table lacks are unlabelled instead of an error.

    Returns:
        uint8 (H, W).
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"expected a picture of classes, cannot read {path}: {error}") from None
    label = np.full(pixels.shape[:2], UNLABELLED, dtype=np.uint8)
    codes = np.where(pixels[..., 3] < 128, -1, pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2])
    unknown: list[tuple[int, int]] = []
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        colour = int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
        if colour in table.values:
            label[codes == code] = table.values[colour]
        elif code >= 0:
            unknown.append((int(count), colour))
    if unknown and not ignore_unknown:
        count, colour = max(unknown)
        raise InputError(
            f"expected colours of the table, found {len(unknown)} others in {path}, mostly {colour} ({count} pixels): "
            "add them to the table, or leave such pixels unlabelled with --ignore-unknown (soft edges, JPEG noise)"
        )
    return label


# --- a folder of annotations ----------------------------------------------------------------------------------------


def collect_labelme(
    folder: Path, images: Path | None, class_names: tuple[str, ...] | None, width: int, truth: bool
) -> tuple[list[Labelled], tuple[str, ...]]:
    """Find the JSON files of labelme in a folder.

    Args:
        folder: of the JSON files.
        images: folder of photographs called as the JSON files; None takes the files that they name or carry.
        class_names: None takes the labels in use.
        width: of strokes, in pixels.
        truth: whether what lies outside the shapes is background instead of unlabelled.

    Returns:
        What to import, and the class names.

    Raises:
        InputError: a file is no labelme file, has no image, or uses a label that is no class.
    """
    annotations = [read_labelme(path) for path in annotation_files(folder, ".json")]
    names = class_names or class_names_of(annotations)
    return collected(annotations, images, names, width, 0 if truth else UNLABELLED), names


def collect_scribblesup(
    folder: Path, images: Path, class_names: tuple[str, ...] | None, width: int
) -> tuple[list[Labelled], tuple[str, ...]]:
    """Find ScribbleSup's XML files in a folder; arguments, result and errors as collect_labelme's."""
    annotations = [read_scribblesup(path) for path in annotation_files(folder, ".xml")]
    names = class_names or VOC_CLASSES
    return collected(annotations, images, names, width, UNLABELLED), names


def collect_masks(
    folder: Path, images: Path, colours: Path, ignore_unknown: bool
) -> tuple[list[Labelled], tuple[str, ...]]:
    """Find the coloured masks of a folder; arguments as read_coloured, result and errors as collect_labelme's."""
    table = read_colours(colours)
    photographs = listing(images, IMAGE_SUFFIXES)
    items = []
    for path in annotation_files(folder, *IMAGE_SUFFIXES):
        image = image_of(path, photographs, images)
        if image.samefile(path):
            raise InputError(f"expected a mask and its photograph, found one file for both, {path}: part their folders")

        def draw(size: tuple[int, int], path: Path = path) -> np.ndarray:
            label = read_coloured(path, table, ignore_unknown)
            check_size(path, label.shape[::-1], size)
            return label

        items.append(Labelled(image.name, image, path, draw))
    return items, table.class_names


def annotation_files(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder with these suffixes, or raise InputError where there are none."""
    files = list(listing(folder, suffixes).values())
    if not files:
        raise InputError(
            f"expected files {', '.join('*' + s for s in suffixes)}, found none in {folder}: name their folder"
        )
    return files


def image_of(source: Path, photographs: dict[str, Path], folder: Path) -> Path:
    """Return the photograph of an annotation file."""
    if source.stem not in photographs:
        raise InputError(f"expected the photograph of {source}, found no {source.stem}{IMAGE_SUFFIXES[0]} in {folder}")
    return photographs[source.stem]


def collected(
    annotations: Sequence[Annotation], images: Path | None, class_names: tuple[str, ...], width: int, outside: int
) -> list[Labelled]:
    """Join annotations with their images; without those on which nothing is drawn, unless that means background."""
    values = label_values(annotations, class_names)
    photographs = listing(images, IMAGE_SUFFIXES) if images else {}
    items, empty = [], 0
    for annotation in annotations:
        if not annotation.shapes and outside == UNLABELLED:
            empty += 1
            continue
        if images:
            image: Path | bytes = image_of(annotation.source, photographs, images)
            name = image.name
        else:
            name, image = named_image(annotation)

        def draw(size: tuple[int, int], annotation: Annotation = annotation) -> np.ndarray:
            if annotation.size:
                check_size(annotation.source, annotation.size, size)
            return draw_annotation(annotation, size, values, width, outside)

        items.append(Labelled(name, image, annotation.source, draw))
    if empty:
        logger.info("left out: %d images on which nothing is drawn", empty)
    return items


def named_image(annotation: Annotation) -> tuple[str, Path | bytes]:
    """Return name and file (or content) of the image that an annotation names or carries."""
    name = Path(annotation.image_name or annotation.source.name)
    path = annotation.source.parent / name
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.name, path
    if annotation.image_bytes:
        is_jpeg = annotation.image_bytes.startswith(b"\xff\xd8")
        return f"{name.stem}{'.jpg' if is_jpeg else '.png'}", annotation.image_bytes
    raise InputError(
        f"expected the photograph {path} that {annotation.source} names, found none: put it there, or name the folder "
        "of the photographs with --images"
    )


def check_size(source: Path, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raise InputError unless an annotation has the size of its image."""
    if tuple(found) != tuple(expected):
        raise InputError(
            f"expected labels for the {expected[0]}x{expected[1]} pixels of the photograph (turned upright if it says "
            f"so), found {found[0]}x{found[1]} in {source}: annotate the photograph itself, not a scaled or turned copy"
        )

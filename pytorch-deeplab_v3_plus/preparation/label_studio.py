"""The format label_studio: Label Studio's JSON and JSON-MIN, and the PNGs that it makes of brush strokes."""

import base64
import functools
import io
import itertools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from common.errors import InputError
from common.files import why
from dataloaders.images import LARGEST, READ_ERRORS, open_image, verify
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, Shape, box_corners, collect_shapes, ellipse_outline, make_shape, turned
from preparation.sources import Photographs, json_or_none, read_json, reading, side, within

logger = logging.getLogger(__name__)

SUFFIXES = (".json", ".png")

_SHAPES = ("brush", "bitmask", "polygon", "keypoint", "rectangle", "ellipse", "vector")
# What is said of a region, or of the whole image, under the place of the region.
_REMARKS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker", "relation")
_PLACES = {"x", "points", "rle", "imageDataURL", "vertices"}
_PNG = re.compile(r"task-(?P<task>\d+)-annotation-(?P<annotation>\d+)-by-(?P<rest>[^-]*-[^-]+-.+)-\d+")


def recognises(path: Path) -> bool:
    """Whether a file is a list of tasks, or is called as a PNG of a brush."""
    if path.suffix.lower() == ".png":
        return _PNG.fullmatch(path.stem) is not None
    content = json_or_none(path)
    task = content[0] if isinstance(content, list) and content else None
    return isinstance(task, dict) and ("data" in task or "annotation_id" in task)


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; raise InputError where one holds what is not read, or names a photograph that is not there.

    Of PNGs the photographs are called by the number of the task, 7.jpg or task-7.jpg: the PNGs say no more.
    """
    documents = [path for path in files if path.suffix.lower() == ".json"]
    if documents:
        annotations = [annotation for path in documents for annotation in read_tasks(path)]
    else:
        annotations = brush_pictures(files, photographs, options.class_names)
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_tasks(path: Path) -> list[Annotation]:
    """Read the tasks of an export; those that nobody has annotated are left out."""
    annotations, unseen = [], 0
    content = read_json(path)
    with reading("JSON of Label Studio", path):
        for task in content:
            number = task.get("id")
            results = _results(task)
            if results is None:
                unseen += 1
                continue
            images = {r["to_name"] for r in results if "original_width" in r and "to_name" in r}
            if len(images) > 1:
                raise ValueError(f"regions on several images, {', '.join(sorted(images))}, in task {number}")
            sizes = {(side(r["original_width"]), side(r["original_height"])) for r in results if "original_width" in r}
            if len(sizes) > 1:
                raise ValueError(f"sizes of one image that differ, {sizes}, in task {number}")
            name = _image_name(task)
            with within(name):
                shapes = tuple(
                    _region(part, labels, number) for result, labels in _regions(results) for part in _parts(result)
                )
            annotations.append(Annotation(path, name, next(iter(sizes), None), shapes))
    if unseen:
        logger.info("left out: %d tasks that nobody has annotated", unseen)
    return annotations


def _results(task: dict) -> list[dict] | None:
    """Return what one person has drawn in a task, None where nobody has."""
    if "data" not in task:  # JSON-MIN: each tag is a list of values, with the size of the image among them
        lists = [value for value in task.values() if isinstance(value, list)]
        return [{"type": "", "value": v, **v} for values in lists for v in values if isinstance(v, dict)]
    annotations = task["annotations"] if "annotations" in task else task.get("completions") or []
    annotations = [a for a in annotations if not a.get("was_cancelled")]
    if len(annotations) > 1:
        annotations = [a for a in annotations if a.get("ground_truth")] or annotations
    if len(annotations) > 1:
        raise ValueError(
            f"{len(annotations)} annotations of task {task.get('id')}: keep one, or mark one as ground truth"
        )
    return annotations[0]["result"] if annotations else None


def _regions(results: list[dict]) -> Iterator[tuple[dict, list[str]]]:
    """Yield what is drawn with its labels; the tag Labels keeps them apart from the shape, under the same id."""
    drawn = [(r, (r.get("value") or {}).keys()) for r in results if r["type"] not in _REMARKS]
    regions = [r for r, keys in drawn if _PLACES & keys or any(key.endswith("labels") for key in keys)]
    apart = {r["id"]: r["value"]["labels"] for r in regions if r["type"] == "labels"}
    shapes = {r.get("id") for r in regions if r["type"] != "labels"}
    for region in regions:
        if region["type"] != "labels" or region["id"] not in shapes:
            own = [label for name, labels in region["value"].items() if name.endswith("labels") for label in labels]
            yield region, list(dict.fromkeys(own + apart.get(region.get("id"), [])))


def _parts(result: dict) -> list[dict]:
    """Return a region, or, of an open vector whose vertices are not linked in their order, one for each of its lines.

    A vertex is linked to that which it names as the one before it, so that a vector may branch.
    """
    vertices = result["value"].get("vertices") or []
    by_id = {vertex["id"]: vertex for vertex in vertices if vertex.get("id")}
    links = [(by_id[before], vertex) for vertex in vertices if (before := vertex.get("prevPointId")) in by_id]
    in_order = list(itertools.pairwise(vertices))
    if not links or links == in_order:
        return [result]
    if result["value"].get("closed"):
        return [{**result, "value": {**result["value"], "vertices": _ring(vertices, links)}}]
    links += [(vertex, vertex) for vertex in vertices if not any(vertex in link for link in links)]
    return [{**result, "value": {**result["value"], "vertices": link}} for link in links]


def _ring(vertices: list[dict], links: list[tuple[dict, dict]]) -> list[dict]:
    """Return the vertices of a closed vector in the order of its links, of which one may be left out."""
    beside = {id(vertex): [b if a is vertex else a for a, b in links if vertex in (a, b)] for vertex in vertices}
    ring = [min(vertices, key=lambda vertex: len(beside[id(vertex)]))]
    while ahead := [vertex for vertex in beside[id(ring[-1])] if vertex not in ring]:
        ring.append(ahead[0])
    if len(ring) < len(vertices) or any(len(others) > 2 for others in beside.values()):
        raise ValueError("a closed vector with branches")
    return ring


def _region(result: dict, labels: list[str], task: object) -> Shape:
    value = result["value"]
    if len(labels) != 1:
        raise ValueError(f"a region with the labels {labels} in task {task}: one is expected")
    label = labels[0]
    if not _PLACES & value.keys():
        raise ValueError(f"a region of the kind {result['type']} in task {task} (read are {', '.join(_SHAPES)})")
    if (result.get("image_rotation") or 0) % 360:
        raise ValueError(f"an image turned by {result['image_rotation']} degrees in task {task}: turn the file itself")
    size = side(result["original_width"]), side(result["original_height"])
    scale = np.array(size) / 100  # positions are percentages
    rotation = value.get("rotation") or 0
    if "rle" in value:
        return make_shape(label, "mask", [(0, 0)], mask=functools.partial(_brush, value["rle"], size))
    if "imageDataURL" in value:
        return make_shape(label, "mask", [(0, 0)], mask=functools.partial(_bitmask, value["imageDataURL"], size))
    if "points" in value:
        kind = "polygon" if value.get("closed", True) else "line"  # which was left before it was closed
        return make_shape(label, kind, np.array(value["points"], dtype=float) * scale)
    if "vertices" in value:
        if any(vertex.get("isBezier") for vertex in value["vertices"]):
            raise ValueError(f"a curve of '{label}' in task {task}: draw straight lines")
        points = np.array([[vertex["x"], vertex["y"]] for vertex in value["vertices"]], dtype=float) * scale
        return make_shape(label, "polygon" if value.get("closed") else "line", points)
    x, y = np.array([value["x"], value["y"]], dtype=float) * scale
    if "radiusX" in value:
        rx, ry = np.array([value["radiusX"], value["radiusY"]]) * scale
        return make_shape(label, "polygon", turned(ellipse_outline(x, y, rx, ry), rotation, (x, y)))
    if "height" in value:
        width, height = np.array([value["width"], value["height"]]) * scale
        # Label Studio turns a rectangle about its first corner.
        return make_shape(label, "rectangle", turned(box_corners(x, y, width, height), rotation, (x, y)))
    return make_shape(label, "point", [(x, y)])


def _image_name(task: dict) -> str:
    """Return the name of a task's image: the one value of its data that names a picture."""
    data: dict[str, Any] = task.get("data", task)
    known = ("image", "img", "photo", "picture", "url")
    named = {key: value for key, value in data.items() if isinstance(value, str)}
    value = next((named[key] for key in known if key in named), None)
    if value is None:
        pictures = [
            v for v in named.values() if re.search(r"\.(jpe?g|png|tiff?|bmp|webp|heic|heif)\b", v, re.IGNORECASE)
        ]
        if len(pictures) != 1:
            raise ValueError(f"no image in the data of task {task.get('id')}")
        value = pictures[0]
    if value.startswith("data:"):
        raise ValueError(f"an image within the data of task {task.get('id')}: export tasks that name files")
    if "/?d=" in value:  # a file of local storage
        return unquote(value.partition("/?d=")[2])
    scheme, _, rest = value.rpartition("://")
    if scheme in ("http", "https", "file") or value.startswith("/data/"):
        return unquote(urlsplit(value).path)
    return rest  # as it was written


def _brush(rle: list[int], size: tuple[int, int]) -> np.ndarray:
    """Return the mask of a brush, bool (h, w), of an image of `size` (width, height).

    The format is that of @thi.ng/rle-pack: 32 bits for the number of words, 5 for their length less one, 4 for each of
    four lengths of counts less one; then, until all words are there, one bit that says whether a word is repeated, two
    that choose the length of the count, the count less one, and the word or words. The words are RGBA; the last of the
    four is how strongly a pixel is drawn.
    """
    try:
        bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a brush whose run lengths are no bytes") from None
    if not isinstance(rle, list) or len(bits) != 8 * len(rle):
        raise ValueError("a brush whose run lengths are no bytes")
    text, at = bits.astype("U1"), 0
    text = "".join(text)

    def read(count: int) -> int:
        nonlocal at
        at += count
        if at > len(text):
            raise ValueError("a brush whose run lengths end too early")
        return int(text[at - count : at], 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or word != 8 or total > 4 * LARGEST:
        raise ValueError(f"a brush of {total} values of {word} bits, {4 * size[0] * size[1]} of 8 expected")
    values, done = np.zeros(total, dtype=np.uint8), 0
    while done < total:
        repeated, count = read(1), read(lengths[read(2)]) + 1
        if done + count > total:
            raise ValueError("a brush whose run lengths are too long")
        if repeated:
            values[done : done + count] = read(word)
        else:
            at += count * word
            if at > len(text):
                raise ValueError("a brush whose run lengths end too early")
            values[done : done + count] = np.packbits(bits[at - count * word : at])
        done += count
    return _drawn(values.reshape(size[1], size[0], 4)[..., 3])


def _drawn(strength: np.ndarray) -> np.ndarray:
    """Return where something is drawn, of how strongly: a soft edge belongs to the stroke from half its strength on.

    That is not always 255: Label Studio's contour2rle, for masks that a network proposes, draws with 100.
    """
    return strength > strength.max() // 2


def _bitmask(url: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask, bool (h, w), of a bitmask: a PNG of the `size` of the image, transparent where nothing is drawn.

    It comes in base64, as a data URL.
    """
    try:
        content = io.BytesIO(base64.b64decode(url.partition("base64,")[2], validate=True))
        verify(content)
        with open_image(content) as image:
            fits = image.size == size and image.has_transparency_data
            alpha = np.asarray(image.convert("RGBA"))[..., 3] if fits else None
    except (AttributeError, InputError, *READ_ERRORS):
        raise ValueError("a bitmask that is no PNG in base64") from None
    if alpha is None:
        raise ValueError(f"a bitmask without transparency, or of another size than {size[0]}x{size[1]},")
    return _drawn(alpha)


def brush_pictures(
    files: list[Path], photographs: Photographs, class_names: tuple[str, ...] | None
) -> list[Annotation]:
    """Read PNGs of brush strokes, one for each stroke, label and task."""
    drawn: dict[str, list[tuple[str, Path]]] = {}
    people: dict[str, set[str]] = {}
    for path in files:
        match = _PNG.fullmatch(path.stem)
        if not match:
            raise InputError(f"expected the PNG of a brush, task-7-annotation-3-by-1-tag-LABEL-0.png, found {path}")
        # Person, tag and label, each perhaps with hyphens of its own.
        parts = match["rest"].split("-")
        labels = ["-".join(parts[at:]) for at in range(2, len(parts))]
        labels = labels if len(labels) == 1 else [label for label in labels if label in (class_names or ())]
        if len(labels) != 1:
            raise InputError(f"expected one hyphen before the label in {path}: say what the labels are with --classes")
        drawn.setdefault(match["task"], []).append((labels[0], path))
        people.setdefault(match["task"], set()).add(match["annotation"])
    annotations = []
    for task, strokes in drawn.items():
        if len(people[task]) > 1:
            raise InputError(
                f"expected one annotation of each task, found {len(people[task])} of task {task}: keep one"
            )
        names = [name for name in (f"task-{task}", task) if photographs.has(name)]
        if not names:
            raise InputError(
                f"expected the photograph of {strokes[0][1]}, found no {task}.jpg or task-{task}.jpg: PNGs of Label "
                "Studio name the task alone; export JSON, which has the brush too, or rename the photographs"
            )
        shapes = [
            make_shape(label, "mask", [(0, 0)], mask=functools.partial(_picture, path)) for label, path in strokes
        ]
        annotations.append(Annotation(strokes[0][1], names[0], _picture(strokes[0][1]).shape[::-1], tuple(shapes)))
    return annotations


def _picture(path: Path) -> np.ndarray:
    try:
        verify(path)
        with open_image(path) as image:
            if image.mode != "L":
                raise ValueError(f"its mode is {image.mode}, not L")
            return _drawn(np.asarray(image))
    except READ_ERRORS as error:
        raise InputError(f"expected the PNG of a brush, cannot read {path}: {why(path, error)}") from None

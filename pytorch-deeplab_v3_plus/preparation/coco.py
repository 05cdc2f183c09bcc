"""The format coco: JSON of COCO (Lin et al., ECCV 2014), as CVAT, Label Studio, Roboflow and others export it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import InputError
from dataloaders.images import image_size
from preparation.formats import Collection, ImportOptions
from preparation.shapes import (
    Annotation,
    Shape,
    box_corners,
    collect_shapes,
    is_turned,
    make_shape,
    mask_from_runs,
    photograph_of,
    turned,
)
from preparation.sources import Photographs, json_or_none, read_json, reading, side, within

SUFFIXES = (".json",)


def recognises(path: Path) -> bool:
    """Whether a JSON file has COCO's lists of images and annotations."""
    content = json_or_none(path)
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("images", "annotations"))


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; raise InputError where one holds what is not read, or names a photograph that is not there."""
    annotations = []
    for path in files:
        found = read_coco(path)
        info = read_json(path).get("info")
        if isinstance(info, dict) and info.get("contributor") == "Label Studio":
            refuse_turned([one for one in found if one.shapes or options.truth], photographs)
        annotations += found
    return collect_shapes(annotations, photographs, options, options.class_names)


def refuse_turned(annotations: list[Annotation], photographs: Photographs) -> None:
    """Raise InputError where Label Studio takes the sides of a photograph from before its EXIF rotation.

    It scales polygons by them, which were drawn on the upright photograph, but not rectangles.
    """
    for annotation in annotations:
        image = photograph_of(annotation, photographs)
        if annotation.size != image_size(image) and is_turned(image):
            raise InputError(
                "expected COCO of photographs without an EXIF rotation, for which Label Studio stretches the polygons, "
                f"found one in {image}: export JSON instead of {annotation.source}"
            )


def read_coco(path: Path) -> list[Annotation]:
    """Read polygons, run lengths (also of crowds), and boxes where there is no outline, also turned as CVAT writes it.

    The shapes of an image are in the order of the file.
    """
    content = read_json(path)
    with reading("JSON of COCO with polygons or run lengths", path):
        names = _by_id(content.get("categories") or [], "category")
        images = _by_id(content["images"], "image")
        sizes = {key: _size(image) for key, image in images.items()}
        shapes: dict[str, list[Shape]] = {key: [] for key in images}
        for annotation in content["annotations"]:
            if "category_id" not in annotation:  # COCO comes as several files, and so do exports of datumaro
                raise ValueError("captions or panoptic segments (name the file of instances alone)")
            key, category = str(annotation["image_id"]), str(annotation["category_id"])
            if key not in images or category not in names:
                raise ValueError(f"an annotation of image {key} and category {category}, of which one is not listed")
            with within(images[key].get("file_name")):
                outline = annotation.get("segmentation")
                if isinstance(outline, dict):
                    height, width = map(side, outline["size"])
                    sizes[key] = sizes[key] or (width, height)
                    if (width, height) != sizes[key]:
                        raise ValueError(f"run lengths for {width}x{height} pixels on an image of {sizes[key]}")
                shapes[key] += _shapes(names[category]["name"], annotation)
        return [
            Annotation(path, str(image["file_name"]), sizes[key], tuple(shapes[key])) for key, image in images.items()
        ]


def _by_id(entries: list[dict], kind: str) -> dict[str, dict]:
    found: dict[str, dict] = {}  # VIA writes an id here as a number and there as text
    for entry in entries:
        if found.setdefault(str(entry["id"]), entry) is not entry:
            raise ValueError(f"the {kind} {entry['id']} twice")
    return found


def _size(image: dict) -> tuple[int, int] | None:
    """Return width and height of an image, None where a tool leaves them out."""
    size = int(image.get("width") or 0), int(image.get("height") or 0)
    return size if min(size) > 0 else None


def _shapes(label: str, annotation: dict) -> list[Shape]:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        height, width = map(side, outline["size"])
        return [make_shape(label, "mask", [(0, 0)], mask=_run_lengths(outline["counts"], (height, width)))]
    if outline:  # the parts of one object, each x, y, x, y, ...
        parts = outline if isinstance(outline[0], list) else [outline]  # VIA writes a single part as it is
        return [make_shape(label, "polygon", np.array(part, dtype=float).reshape(-1, 2)) for part in parts]
    if annotation.get("keypoints"):
        raise ValueError(f"keypoints of '{label}' without an outline")
    if not annotation.get("bbox"):
        raise ValueError(f"an annotation of '{label}' with neither an outline nor a box")
    x, y, width, height = map(float, annotation["bbox"])
    corners = box_corners(x, y, width, height)
    rotation = float((annotation.get("attributes") or {}).get("rotation", 0))
    return [make_shape(label, "rectangle", turned(corners, rotation, corners.mean(0)))]


def _run_lengths(counts: list[int] | str, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    def mask() -> np.ndarray:
        return mask_from_runs(_unpacked(counts) if isinstance(counts, str) else counts, size, order="F")

    return mask


def _unpacked(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed string.

    Six bits a character, from chr(48) on: five of the number, the lowest first, and one that says that more follow; the
    last five carry the sign. From the fourth on the number is the difference from the run before the last. Written
    here, checked against pycocotools, because that would be a compiled package for these lines, and makes a mask of
    uninitialised memory from a damaged string.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"damaged run lengths ({character!r})")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("run lengths that end too early")
    return runs

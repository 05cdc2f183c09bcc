"""The format coco: JSON of COCO (Lin et al., ECCV 2014), as CVAT, Label Studio, Roboflow and others export it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import InputError
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, Shape, box_corners, collect_shapes, make_shape, mask_from_runs, turned
from preparation.sources import Photographs, json_or_none, read_json

SUFFIXES = (".json",)


def recognises(path: Path) -> bool:
    """Whether a JSON file has COCO's lists of images and annotations."""
    content = json_or_none(path)
    return isinstance(content, dict) and all(isinstance(content.get(name), list) for name in ("images", "annotations"))


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; raise InputError where one holds what is not read, or names a photograph that is not there."""
    annotations = [annotation for path in files for annotation in read_coco(path)]
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_coco(path: Path) -> list[Annotation]:
    """Read polygons, run lengths (also of crowds), and boxes where there is no outline, also turned as CVAT writes it.

    The shapes of an image are in the order of the file.
    """
    content = read_json(path)
    try:
        names = _by_id(content.get("categories") or [], "category")
        images = _by_id(content["images"], "image")
        shapes: dict[object, list[Shape]] = {key: [] for key in images}
        for annotation in content["annotations"]:
            key, category = annotation["image_id"], annotation["category_id"]
            if key not in images or category not in names:
                raise ValueError(f"an annotation of image {key} and category {category}, of which one is not listed")
            size = images[key]["height"], images[key]["width"]
            shapes[key] += _shapes(names[category]["name"], annotation, size)
        return [
            Annotation(path, str(image["file_name"]), (image["width"], image["height"]), tuple(shapes[key]))
            for key, image in images.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"expected JSON of COCO with polygons or run lengths, found {reason} in {path}") from None


def _by_id(entries: list[dict], kind: str) -> dict[object, dict]:
    found: dict[object, dict] = {}
    for entry in entries:
        if found.setdefault(entry["id"], entry) is not entry:
            raise ValueError(f"the {kind} {entry['id']} twice")
    return found


def _shapes(label: str, annotation: dict, size: tuple[int, int]) -> list[Shape]:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        if list(outline["size"]) != list(size):
            raise ValueError(f"run lengths for {outline['size']} pixels (height, width) on an image of {list(size)}")
        return [make_shape(label, "mask", [(0, 0)], mask=_run_lengths(outline["counts"], size))]
    if outline:  # the parts of one object, each x, y, x, y, ...
        return [make_shape(label, "polygon", np.array(part, dtype=float).reshape(-1, 2)) for part in outline]
    if annotation.get("keypoints"):
        raise ValueError(f"keypoints of '{label}' without an outline")
    x, y, width, height = map(float, annotation.get("bbox") or [])
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
    here, checked against pycocotools, because that would be a compiled package for these lines, and reads a damaged
    string beyond its end.
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

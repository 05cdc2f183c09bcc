"""The format labelme: the JSON files of labelme and X-AnyLabeling, beside or apart from their photographs."""

import base64
import functools
import io
from pathlib import Path, PurePath

import numpy as np

from common.errors import InputError
from dataloaders.images import READ_ERRORS, image_size, open_image, verify
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, Shape, collect_shapes, make_shape
from preparation.sources import Photographs, json_or_none, read_json, reading, side

SUFFIXES = (".json",)

# Our kinds of shapes by the tools' names. Turned rectangles are four corners: labelme calls them oriented_rectangle,
# X-AnyLabeling rotation.
_KINDS = {name: name for name in ("point", "line", "polygon", "rectangle", "circle", "mask")} | {
    "points": "point",
    "linestrip": "line",
    "oriented_rectangle": "polygon",
    "rotation": "polygon",
    "quadrilateral": "polygon",
}


def recognises(path: Path) -> bool:
    """Whether a JSON file has labelme's list of shapes."""
    content = json_or_none(path)
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; photographs are those that they name or carry, with --images first those called as the files.

    Raises InputError where a file is no labelme file, has no photograph, or uses a label that is no class.
    """
    annotations = []
    for path in files:
        found = read_labelme(path)
        named = PurePath(found.image_name or path.stem).name
        if photographs.differ(named, path.stem):
            raise InputError(
                f"expected one photograph of {path}, found {named}, its imagePath, and one that is called as the file: "
                "correct the imagePath, or rename the file"
            )
        apart = options.images is not None and photographs.has(path.stem)
        annotations.append(found._replace(image_name=None) if apart else found)
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_labelme(path: Path) -> Annotation:
    """Read a JSON file of labelme (versions 3 to 6) or X-AnyLabeling: what it draws, and its image."""
    content = read_json(path)
    with reading("a JSON file of labelme", path, ": save it again in labelme, or remove it"):
        shapes = tuple(_labelme_shape(shape) for shape in content["shapes"])
        size = content.get("imageWidth"), content.get("imageHeight")
        size = tuple(map(side, size)) if all(size) else None
        name, carried = content.get("imagePath"), bool(content.get("imageData"))
    name = None if not name else str(name).replace("\\", "/")  # annotated under Windows
    image = functools.partial(_carried_image, path) if carried else None
    return Annotation(path, name, size, shapes, image, counts_pixels=True)


def _carried_image(path: Path) -> bytes:
    try:
        content = base64.b64decode(read_json(path)["imageData"])
        image_size(io.BytesIO(content))
    except (TypeError, ValueError, InputError):
        raise InputError(f"expected an image in base64, found imageData that cannot be read in {path}") from None
    return content


def _labelme_shape(shape: dict) -> Shape:
    label, name = shape["label"], shape.get("shape_type") or "polygon"
    if name not in _KINDS:
        raise ValueError(f"the shape '{name}' of '{label}' (known: {', '.join(_KINDS)})")
    points, mask = shape["points"], None
    if shape.get("rotation") and len(points) != 4:
        raise ValueError(f"a {name} of '{label}' with a rotation of {shape['rotation']} and without its four corners")
    if name == "mask":
        mask = functools.partial(_labelme_mask, shape["mask"], points)
    return make_shape(label, _KINDS[name], points, mask=mask)


def _labelme_mask(text: str, corners: list[list[float]]) -> np.ndarray:
    try:
        content = io.BytesIO(base64.b64decode(text))
        verify(content)
        with open_image(content) as image:
            mask = np.asarray(image.convert("L")) > 0
    except (InputError, *READ_ERRORS):
        raise ValueError("a mask that is no PNG") from None
    box = np.ptp(np.array(corners, dtype=float), axis=0) + 1
    if len(corners) > 1 and (abs(box - mask.shape[::-1]) > 1).any():
        raise ValueError(f"a mask of {mask.shape[1]}x{mask.shape[0]} pixels in a box of {box[0]:g}x{box[1]:g}")
    return mask

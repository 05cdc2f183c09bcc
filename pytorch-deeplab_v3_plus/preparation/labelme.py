"""The format labelme: its JSON files, beside or apart from their photographs."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, Shape, annotation_files, class_names_of, collect_shapes

_MIN_POINTS = {"point": 1, "line": 2, "polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}
# Our kinds of shapes by labelme's names: its `points` and `linestrip` have any number of points.
_KINDS = {name: name for name in _MIN_POINTS} | {"points": "point", "linestrip": "line"}


def collect(source: Path, options: ImportOptions) -> Collection:
    """Find the JSON files in a folder, and the photographs of `options.images` or those that the files name or carry.

    The classes are the labels in use where the options name none. Raises InputError where a file is no labelme file,
    has no photograph, or uses a label that is no class.
    """
    annotations = [read_labelme(path) for path in annotation_files(source, ".json")]
    return collect_shapes(annotations, options, options.class_names or class_names_of(annotations))


def read_labelme(path: Path) -> Annotation:
    """Read a JSON file of labelme (versions 3 to 5): what it draws and the image that it names or carries."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        shapes = tuple(_labelme_shape(shape) for shape in content["shapes"])
        size = content.get("imageWidth"), content.get("imageHeight")
        image_bytes = base64.b64decode(content.get("imageData") or "")
        image_name = content.get("imagePath")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"expected a JSON file of labelme, cannot read {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"expected a JSON file of labelme, found {reason} in {path}: save it again in labelme, or remove it"
        ) from None
    if image_name is not None:
        image_name = str(image_name).replace("\\", "/")  # annotated under Windows
    return Annotation(path, image_name, size if all(size) else None, shapes, image_bytes)


def _labelme_shape(shape: dict) -> Shape:
    label, name = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
    if name not in _KINDS:
        raise ValueError(f"the shape '{name}' of '{label}' (known: {', '.join(_KINDS)})")
    kind, points = _KINDS[name], np.array(shape["points"], dtype=np.float64).reshape(-1, 2)
    if len(points) < _MIN_POINTS[kind] or not np.isfinite(points).all():
        raise ValueError(f"a {name} of '{label}' with the points {points.tolist()}")
    mask = None
    if kind == "mask":
        try:
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
                mask = np.asarray(image.convert("L")) > 0
        except (OSError, TypeError):
            raise ValueError(f"a mask of '{label}' that is no PNG") from None
    return Shape(label, kind, points, mask)

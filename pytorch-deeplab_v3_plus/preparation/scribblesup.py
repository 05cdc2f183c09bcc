"""ScribbleSup's XML files."""

import logging
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from common.errors import InputError
from dataloaders.labels import UNLABELLED, VOC_CLASSES
from preparation.importing import Labelled
from preparation.shapes import Annotation, Shape, annotation_files, collected

logger = logging.getLogger(__name__)


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


def collect_scribblesup(
    folder: Path, images: Path, class_names: tuple[str, ...] | None, width: int
) -> tuple[list[Labelled], tuple[str, ...]]:
    """Find ScribbleSup's XML files in a folder; arguments, result and errors as collect_labelme's."""
    annotations = [read_scribblesup(path) for path in annotation_files(folder, ".xml")]
    names = class_names or VOC_CLASSES
    return collected(annotations, images, names, width, UNLABELLED), names

"""The format scribblesup: the XML files with scribbles for PASCAL VOC."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from common.errors import InputError
from dataloaders.labels import VOC_CLASSES
from preparation.formats import Collection, ImportOptions, need
from preparation.shapes import Annotation, Shape, annotation_files, collect_shapes


def collect(source: Path, options: ImportOptions) -> Collection:
    """Find the XML files in a folder; the classes are those of PASCAL VOC where the options name none.

    Raises InputError where a file is damaged, has no photograph in `options.images`, or uses a label that is no class.
    """
    need("scribblesup", options, images="the photographs")
    if options.truth:
        raise InputError("scribblesup holds scribbles, never the full truth")
    annotations = [read_scribblesup(path) for path in annotation_files(source, ".xml")]
    return collect_shapes(annotations, options, options.class_names or VOC_CLASSES)


def read_scribblesup(path: Path) -> Annotation:
    """Read an XML file of the PASCAL-scribble data set (Lin et al., ScribbleSup, CVPR 2016).

    Each element is a polyline: ``<polygon><tag>class</tag><point><X>12</X><Y>34</Y></point>...</polygon>``. Programs
    for the data set read that form; it was not compared with the published archive. The elements are therefore found at
    any depth, in upper or lower case, and anything else is an InputError that names the file.
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

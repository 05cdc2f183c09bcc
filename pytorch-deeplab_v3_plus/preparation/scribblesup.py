"""The format scribblesup: the XML files with scribbles for PASCAL VOC."""

from pathlib import Path
from xml.etree import ElementTree

from common.errors import InputError
from dataloaders.labels import VOC_CLASSES
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, collect_shapes, make_shape
from preparation.sources import Photographs, read_xml, xml_or_none

SUFFIXES = (".xml",)

# Boxes of PASCAL VOC and polygons of LabelMe, both also within <annotation>; CVAT's images.
_FOREIGN = ("object", "image", "track")


def recognises(path: Path) -> bool:
    """Whether an XML file has polygons with tags; one on which nothing is drawn may be of PASCAL VOC or LabelMe too."""
    root = xml_or_none(path)
    tags = {element.tag.lower() for element in root.iter()} if root is not None else set()
    return not tags & {*_FOREIGN} and {"polygon", "tag"} <= tags


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; the classes are those of PASCAL VOC where the options name none.

    Raises InputError where a file is damaged, has no photograph, or uses a label that is no class.
    """
    if options.truth:
        raise InputError("scribblesup holds scribbles, never the full truth")
    annotations = [read_scribblesup(path) for path in files]
    return collect_shapes(annotations, photographs, options, options.class_names or VOC_CLASSES)


def read_scribblesup(path: Path) -> Annotation:
    """Read an XML file of the PASCAL-scribble data set (Lin et al., ScribbleSup, CVPR 2016).

    Each element is a polyline: ``<polygon><tag>class</tag><point><X>12</X><Y>34</Y></point>...</polygon>``. Programs
    for the data set read that form; it was not compared with the published archive. The elements are therefore found at
    any depth, in upper or lower case, and anything else is an InputError that names the file.
    """
    root = read_xml(path)

    def inside(parent: ElementTree.Element, name: str) -> list[ElementTree.Element]:
        return [element for element in parent.iter() if element.tag.lower() == name and element is not parent]

    def text(parent: ElementTree.Element, name: str) -> str:
        found = inside(parent, name)
        if not found or not (found[0].text or "").strip():
            raise ValueError(f"no <{name}> in a <{parent.tag}>")
        return found[0].text.strip()

    try:
        for name in _FOREIGN:
            if inside(root, name):
                raise ValueError(f"a <{name}>")
        shapes = []
        for polyline in inside(root, "polygon"):
            points = [[float(text(point, axis)) for axis in "xy"] for point in inside(polyline, "point")]
            if not points:
                raise ValueError(f"a <{polyline.tag}> without points")
            shapes.append(make_shape(text(polyline, "tag"), "line" if len(points) > 1 else "point", points))
        if len(inside(root, "point")) > sum(len(inside(polyline, "point")) for polyline in inside(root, "polygon")):
            raise ValueError("a <point> outside a <polygon>")
        sizes = inside(root, "size")
        size = tuple(int(float(text(sizes[0], side))) for side in ("width", "height")) if sizes else None
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"expected <polygon><tag>CLASS</tag><point><X>..</X><Y>..</Y></point>...</polygon>, found {error} in {path}"
        ) from None
    return Annotation(path, None, size, tuple(shapes), counts_pixels=True)

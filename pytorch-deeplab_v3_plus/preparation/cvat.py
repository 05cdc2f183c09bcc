"""The format cvat: the XML of CVAT, exported as 'CVAT for images 1.1'."""

import functools
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from preparation.formats import Collection, ImportOptions
from preparation.shapes import (
    Annotation,
    Shape,
    box_corners,
    collect_shapes,
    ellipse_outline,
    make_shape,
    mask_from_runs,
    turned,
)
from preparation.sources import Photographs, read_xml, reading, side, within, xml_or_none

SUFFIXES = (".xml",)


def recognises(path: Path) -> bool:
    """Whether an XML file is one of CVAT, of images or of a video."""
    root = xml_or_none(path)
    return root is not None and root.tag == "annotations" and any(e.tag in ("image", "track", "meta") for e in root)


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; raise InputError where one holds what is not read, or names a photograph that is not there."""
    annotations = [annotation for path in files for annotation in read_cvat(path)]
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_cvat(path: Path) -> list[Annotation]:
    """Read what CVAT documents as its XML annotation format, version 1.1, of a task, job or project of images."""
    root = read_xml(path)
    annotations = []
    with reading("'CVAT for images 1.1'", path):
        if root.tag != "annotations":
            raise ValueError(f"a <{root.tag}>")
        if root.find("track") is not None:
            raise ValueError("a <track> of a video (export 'CVAT for images 1.1')")
        for element in root:
            if element.tag not in ("version", "meta", "image"):
                raise ValueError(f"a <{element.tag}>")
        for image in root.findall("image"):
            name = image.attrib["name"]
            with within(name):
                size = side(image.attrib["width"]), side(image.attrib["height"])
                # The order in which CVAT draws; shapes of one height stay in the order of the file.
                drawn = sorted((shape for shape in image if shape.tag != "tag"), key=lambda s: int(s.get("z_order", 0)))
                shapes = tuple(_shape(shape) for shape in drawn)
            annotations.append(Annotation(path, name, size, shapes))
    return annotations


def _shape(element: ElementTree.Element) -> Shape:
    label, kind = element.attrib["label"], element.tag

    def numbers(*names: str) -> list[float]:
        return [float(element.attrib[name]) for name in names]

    rotation = float(element.get("rotation", 0))
    if kind in ("polyline", "polygon", "points"):
        points = [[float(number) for number in pair.split(",")] for pair in element.attrib["points"].split(";")]
        return make_shape(label, {"polyline": "line", "polygon": "polygon", "points": "point"}[kind], points)
    if kind == "box":
        left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        corners = box_corners(left, top, right - left, bottom - top)
        return make_shape(label, "rectangle", turned(corners, rotation, corners.mean(0)))
    if kind == "ellipse":
        x, y, rx, ry = numbers("cx", "cy", "rx", "ry")
        return make_shape(label, "polygon", turned(ellipse_outline(x, y, rx, ry), rotation, (x, y)))
    if kind == "mask":
        left, top, width, height = (int(element.attrib[name]) for name in ("left", "top", "width", "height"))
        return make_shape(
            label, "mask", [(left, top)], mask=functools.partial(_mask, element.attrib["rle"], width, height)
        )
    raise ValueError(f"a {kind} of '{label}' (read are polyline, polygon, points, box, ellipse, mask)")


def _mask(rle: str, width: int, height: int) -> np.ndarray:
    return mask_from_runs([int(run) for run in rle.split(",")], (height, width))

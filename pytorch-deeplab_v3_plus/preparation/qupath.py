"""The format qupath: GeoJSON as QuPath exports it, a file for each photograph, called as it."""

from pathlib import Path

import numpy as np

from common.errors import InputError
from preparation.formats import Collection, ImportOptions
from preparation.shapes import (
    Annotation,
    Shape,
    collect_shapes,
    ellipse_outline,
    is_turned,
    make_shape,
    photograph_of,
)
from preparation.sources import Photographs, json_or_none, read_json, reading

SUFFIXES = (".geojson", ".json")


def recognises(path: Path) -> bool:
    """Whether a JSON file holds features of GeoJSON."""
    content = json_or_none(path)
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and first.get("type") in ("Feature", "FeatureCollection")


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; raise InputError where one holds what is not read, or has no photograph called as it.

    Also where that carries an EXIF rotation: QuPath shows it unturned, or turned as somebody chose, and says neither.
    """
    annotations = [read_qupath(path) for path in files]
    for annotation in annotations:
        if (annotation.shapes or options.truth) and is_turned(image := photograph_of(annotation, photographs)):
            raise InputError(
                f"expected photographs without an EXIF rotation, which QuPath does not follow, found one in {image}: "
                f"save it without that tag, as it looked in QuPath when {annotation.source} was drawn"
            )
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_qupath(path: Path) -> Annotation:
    """Read annotations and detections with a class, in the order of the file; 'Ignore*' is no class."""
    content = read_json(path)
    with reading("GeoJSON of QuPath", path):
        content = content.get("features", [content]) if isinstance(content, dict) else content
        shapes = tuple(shape for feature in content for shape in _shapes(feature))
    return Annotation(path, None, None, shapes)


def _shapes(feature: dict) -> list[Shape]:
    # GeoJSON has null where there are no properties.
    found, geometry = (feature["properties"] or {}).get("classification"), feature["geometry"]
    label = found.get("name") or ": ".join(found.get("names") or []) if found else None
    if not label:
        raise ValueError(f"a {geometry['type']} without a class: set its class in QuPath, or delete it")
    plane = geometry.get("plane") or {}
    if plane.get("z", 0) or plane.get("t", 0):
        raise ValueError(f"a {geometry['type']} of '{label}' on another plane than the first")
    return list(_drawn("ignore" if label == "Ignore*" else label, geometry))


def _drawn(label: str, geometry: dict) -> list[Shape]:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        return [shape for part in geometry["geometries"] for shape in _drawn(label, part)]
    points = geometry["coordinates"]
    if kind in ("Point", "MultiPoint"):
        return [make_shape(label, "point", points if kind == "MultiPoint" else [points])]
    if kind in ("LineString", "MultiLineString"):
        return [make_shape(label, "line", line) for line in (points if kind == "MultiLineString" else [points])]
    if geometry.get("isEllipse"):  # a coarse polygon, of whose box QuPath makes the ellipse again
        outline = make_shape(label, "polygon", points[0]).points
        (x, y), (rx, ry) = (outline.max(0) + outline.min(0)) / 2, np.ptp(outline, axis=0) / 2
        return [make_shape(label, "polygon", ellipse_outline(x, y, rx, ry))]
    if kind in ("Polygon", "MultiPolygon"):
        shapes = []
        for outline, *holes in points if kind == "MultiPolygon" else [points]:
            rings = tuple(make_shape(label, "polygon", ring).points for ring in holes)
            shapes.append(make_shape(label, "polygon", outline, holes=rings))
        return shapes
    raise ValueError(f"a {kind} of '{label}'")

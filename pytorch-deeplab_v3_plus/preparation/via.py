"""The format via: JSON and CSV of the VGG Image Annotator (VIA) 1 and 2, exported or saved as a project."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from common.files import read_text, why
from preparation.formats import Collection, ImportOptions
from preparation.shapes import Annotation, Shape, box_corners, collect_shapes, ellipse_outline, make_shape, turned
from preparation.sources import Photographs, json_or_none, read_json, reading, within

SUFFIXES = (".json", ".csv")
OPTIONS = ("attribute",)

_HEADER = {"filename", "region_shape_attributes", "region_attributes"}


def recognises(path: Path) -> bool:
    """Whether a file is a project or an export of VIA."""
    if path.suffix.lower() == ".csv":
        try:
            # The first name is '#filename' in VIA 1.0.
            return set(next(csv.reader(io.StringIO(read_text(path).removeprefix("#"), newline="")), [])) >= _HEADER
        except (OSError, ValueError, csv.Error):
            return False
    content = json_or_none(path)
    if not isinstance(content, dict) or not content:
        return False
    if "_via_img_metadata" in content or {"project", "metadata", "view"} <= content.keys():
        return True
    return all(isinstance(entry, dict) and {"filename", "regions"} <= entry.keys() for entry in content.values())


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Read the files; the class is the attribute `options.attribute` of the regions, or the only one that they have.

    Raises InputError where a file holds what is not read, or names a photograph that is not there.
    """
    annotations = [annotation for path in files for annotation in read_via(path, options.attribute)]
    return collect_shapes(annotations, photographs, options, options.class_names)


def read_via(path: Path, attribute: str | None = None) -> list[Annotation]:
    """Read the regions of each image in the order of the file."""
    with reading("regions of VIA 1 or 2", path):
        entries = _csv_entries(path) if path.suffix.lower() == ".csv" else _json_entries(path)
        for name, _ in entries:
            if not isinstance(name, str) or not name:
                raise ValueError(f"the file name {name!r}")
        regions = [region for found in entries.values() for region in found]
        names = sorted({name for region in regions for name, value in region["region_attributes"].items() if value})
        if attribute is None and len(names) != 1 and regions:
            raise ValueError(
                f"the attributes {', '.join(names) or 'of no region'}: say which holds the class with --attribute"
                if names
                else "regions without attributes: give them a class in VIA"
            )
        chosen = attribute or (names[0] if names else "")
        annotations = []
        for (name, _), found in entries.items():
            with within(name):
                annotations.append(Annotation(path, name, None, tuple(_shape(region, chosen) for region in found)))
        return annotations


def _json_entries(path: Path) -> dict[tuple[str, str], list[dict]]:
    """Return the regions of each image, by its name and the size of its file: names from two folders may agree."""
    content = read_json(path)
    if {"project", "metadata", "view"} <= content.keys():
        raise ValueError("a project of VIA 3 (draw in VIA 2, or export COCO)")
    entries: dict[tuple[str, str], list[dict]] = {}
    for entry in content.get("_via_img_metadata", content).values():
        regions = entry["regions"]
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 numbers them
        entries.setdefault((entry["filename"], str(entry.get("size"))), []).extend(regions)
    return entries


def _csv_entries(path: Path) -> dict[tuple[str, str], list[dict]]:
    entries: dict[tuple[str, str], list[dict]] = {}
    try:
        text = read_text(path)
    except OSError as error:
        raise ValueError(why(path, error)) from None
    csv.field_size_limit(2**31 - 1)  # a polygon may have any number of points
    try:
        rows = list(csv.DictReader(io.StringIO(text.removeprefix("#"), newline="")))
    except csv.Error as error:
        raise ValueError(f"a table that cannot be read ({error})") from None
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"a row of '{row['filename']}' with too few or too many columns")
        region: dict[str, Any] = {
            name: json.loads(row[name] or "{}") for name in ("region_shape_attributes", "region_attributes")
        }
        regions = entries.setdefault((row["filename"], str(row.get("file_size"))), [])
        if region["region_shape_attributes"]:
            regions.append({"shape_attributes": region.pop("region_shape_attributes"), **region})
    return entries


def _shape(region: dict, attribute: str) -> Shape:
    found, kind = region["shape_attributes"], region["shape_attributes"]["name"]
    label = region["region_attributes"].get(attribute)
    if isinstance(label, dict):  # check boxes
        ticked = [name for name, value in label.items() if value]
        if len(ticked) > 1:
            raise ValueError(f"a region with several classes, {', '.join(ticked)}")
        label = ticked[0] if ticked else None
    if not label:
        raise ValueError(f"a {kind} whose attribute '{attribute}' is empty")
    if kind in ("polygon", "polyline"):
        if len(found["all_points_x"]) != len(found["all_points_y"]):
            raise ValueError(f"a {kind} of '{label}' with more x than y, or the other way round")
        points = np.column_stack([found["all_points_x"], found["all_points_y"]])
        return make_shape(label, {"polygon": "polygon", "polyline": "line"}[kind], points)
    if kind == "rect":
        x, y, width, height = (float(found[name]) for name in ("x", "y", "width", "height"))
        return make_shape(label, "rectangle", box_corners(x, y, width, height))
    if kind == "point":
        return make_shape(label, "point", [(found["cx"], found["cy"])])
    if kind in ("circle", "ellipse"):
        x, y, rx, ry = (float(found[name]) for name in ("cx", "cy", *("rr" if kind == "circle" else ("rx", "ry"))))
        rim = ellipse_outline(x, y, rx, ry)
        return make_shape(label, "polygon", turned(rim, np.degrees(found.get("theta", 0)), (x, y)))
    raise ValueError(f"a region of the kind {kind}")

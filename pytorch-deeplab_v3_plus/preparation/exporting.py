"""Label maps back into the formats of annotation tools, so that predictions can be corrected there.

What import_scribbles.py --truth makes of each of them is the label map again, pixel for pixel.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import contourpy
import numpy as np

from common.errors import InputError
from common.files import new_folder
from dataloaders.class_names import is_background
from dataloaders.images import check_sizes, image_size, read_label, write_label
from dataloaders.labels import voc_palette
from dataloaders.layout import PREDICTION, REFINED
from preparation.sources import Photographs, files_in

logger = logging.getLogger(__name__)


class LabelMap(NamedTuple):
    """A label map and the photograph that it belongs to."""

    photograph: Path
    label: np.ndarray  # class numbers, uint8 (H, W)


def export_annotations(
    predictions: Path, images: Path, target: Path, name: str, class_names: tuple[str, ...], refined: bool = False
) -> int:
    """Write the predictions in a folder in the format `name`; return their number.

    They are ID_prediction.png or, if there is none, ID.png; the `refined` ones, by a DenseCRF, are ID_crf.png. Raises
    InputError where the format needs a background and there is none, where there is no prediction, where one is no
    label map of these classes or does not fit its photograph in `images`, where two are of the same photograph, or
    where `target` holds something already.
    """
    if name != "masks" and not is_background(class_names[0]):
        raise InputError(
            f"expected a background, which {name} has where nothing is drawn, found the classes "
            f"{', '.join(class_names)}: use --format masks"
        )
    there = files_in(predictions)
    by_ending = {end: [path for path in there if path.name.endswith(end)] for end in (REFINED, PREDICTION)}
    ending = REFINED if refined else PREDICTION
    files = by_ending[ending]
    if not refined:
        if by_ending[REFINED]:
            logger.warning("%s: there are refined predictions too (*%s): --crf exports these", predictions, REFINED)
        files = files or [path for path in there if path.suffix.lower() == ".png"]
    if not files:
        names = f"ID{ending}" if refined else f"ID{ending} or ID.png"
        raise InputError(f"expected label maps, called {names}, found none in {predictions}")
    photographs = Photographs(images, files_in(images))
    found: dict[Path, Path] = {}
    for path in files:
        photograph = photographs.find(path.name.removesuffix(ending).removesuffix(".png"), path)
        if other := found.get(photograph):
            raise InputError(f"expected one prediction of each photograph, found {other} and {path}: remove one")
        found[photograph] = path

    def label_maps() -> Iterator[LabelMap]:
        for photograph, path in found.items():
            label = read_label(path, len(class_names))
            check_sizes(photograph, image_size(photograph), path, label)
            if label.max() >= len(class_names):
                raise InputError(f"expected a class at every pixel, found {label.max()} in {path}")
            yield LabelMap(photograph, label)

    with new_folder(target) as made:
        WRITERS[name](label_maps(), made, target.resolve(), class_names)
    return len(files)


def write_labelme(maps: Iterator[LabelMap], folder: Path, final: Path, class_names: tuple[str, ...]) -> None:
    """Write a JSON file for each photograph, with polygons."""
    for photograph, label in maps:
        shapes = [
            {"label": class_names[value], "points": points.tolist(), "group_id": None, "description": ""}
            | {"shape_type": "polygon", "flags": {}, "mask": None}
            for value, points in polygons(label)
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        content["imagePath"] = Path(os.path.relpath(photograph.resolve(), final)).as_posix()
        content["imageHeight"], content["imageWidth"] = label.shape
        (folder / f"{photograph.stem}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def write_cvat(maps: Iterator[LabelMap], folder: Path, final: Path, class_names: tuple[str, ...]) -> None:
    """Write annotations.xml, 'CVAT for images 1.1', with a mask for each class."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = "predictions"
    labels = ElementTree.SubElement(task, "labels")
    for name in class_names[1:]:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (photograph, label) in enumerate(maps):
        size = {"width": str(label.shape[1]), "height": str(label.shape[0])}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": photograph.name, **size})
        for value in np.unique(label[label > 0]).tolist():
            rows, columns = (np.flatnonzero((label == value).any(axis)) for axis in (1, 0))
            part = label[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == value
            place = {"left": columns[0], "top": rows[0], "width": part.shape[1], "height": part.shape[0], "z_order": 0}
            attributes = {"label": class_names[value], "source": "auto", "occluded": "0"}
            attributes["rle"] = ", ".join(map(str, run_lengths(part.ravel())))
            ElementTree.SubElement(image, "mask", attributes | {key: str(at) for key, at in place.items()})
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)


def write_coco(maps: Iterator[LabelMap], folder: Path, final: Path, class_names: tuple[str, ...]) -> None:
    """Write annotations.json with the run lengths of each class; COCO calls such a region of many objects a crowd."""
    images, annotations = [], []
    for number, (photograph, label) in enumerate(maps, 1):
        height, width = label.shape
        images.append({"id": number, "file_name": photograph.name, "width": width, "height": height})
        for value in np.unique(label[label > 0]).tolist():
            mask = label == value
            rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            outline = {"counts": run_lengths(mask.ravel(order="F")), "size": [height, width]}
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": value, "iscrowd": 1}
            annotations.append({**annotation, "segmentation": outline, "area": int(mask.sum()), "bbox": box})
    categories = [{"id": value, "name": name, "supercategory": ""} for value, name in enumerate(class_names) if value]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def write_masks(maps: Iterator[LabelMap], folder: Path, final: Path, class_names: tuple[str, ...]) -> None:
    """Write SegmentationClass/ in VOC's colours with labelmap.txt, as CVAT's 'Segmentation mask 1.1'."""
    wrong = next((name for name in class_names if ":" in name or name.startswith("#")), None)
    if wrong:
        raise InputError(f"expected class names that labelmap.txt can hold, found '{wrong}': rename it, or use coco")
    names = []
    (folder / "SegmentationClass").mkdir()
    for photograph, label in maps:
        write_label(folder / "SegmentationClass" / f"{photograph.stem}.png", label)
        names.append(f"{photograph.stem}\n")
    lines = [f"{name}:{','.join(map(str, voc_palette()[value]))}::\n" for value, name in enumerate(class_names)]
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines), encoding="utf-8")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/default.txt").write_text("".join(names), encoding="utf-8")


WRITERS: dict[str, Callable[[Iterator[LabelMap], Path, Path, tuple[str, ...]], None]] = {
    "labelme": write_labelme,
    "cvat": write_cvat,
    "coco": write_coco,
    "masks": write_masks,
}


def run_lengths(pixels: np.ndarray) -> list[int]:
    """Return the lengths of the runs in a flat bool array, of which the first lies outside the mask."""
    changes = np.flatnonzero(np.diff(pixels)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(pixels)]])).tolist()
    return [0, *runs] if pixels[0] else runs


def polygons(label: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return polygons with class numbers that, filled one after the other on background, are the label map.

    A polygon is float (points, 2), x and y, along the pixels at the rim of a region. It has no holes: what lies within
    is filled later, with background too.
    """
    found = []
    for value in np.unique(label).tolist():
        # Close to level 1 the lines run through the centres of the pixels at the rim.
        padded = np.pad(label == value, 1).astype(float)
        for line in contourpy.contour_generator(z=padded, line_type="Separate").lines(0.999):
            x, y = line.T
            area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
            on_edge = line.min() < 1.5 or (line.max(0) > np.array(label.shape[::-1]) - 0.5).any()
            if area > 0 and not (value == 0 and on_edge):  # the others go round holes
                found.append((area, value, corners(np.round(line[:-1]) - 1)))
    return [(value, points) for _, value, points in sorted(found, key=lambda entry: -entry[0])]


def corners(points: np.ndarray) -> np.ndarray:
    """Return the points of a closed polygon without those on a straight line between others, at least three."""
    points = points[(points != np.roll(points, 1, axis=0)).any(1)] if len(np.unique(points, axis=0)) > 1 else points[:1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(1) > 0)
    points = points[~straight] if len(points) > 2 else points
    return np.concatenate([points, points[:1].repeat(max(0, 3 - len(points)), axis=0)])

"""Have annotation tools write the files beside this program; README.md says which versions wrote those that are here.

    python -m venv tools
    tools/bin/pip install labelme napari datumaro pycocotools label-studio-converter
    tools/bin/python write.py FOLDER

The scene is that of `drawn` below: on an image of 64x48 pixels a line of background along the top, a bolt, which is a
rectangle of 20x10 pixels, and a nut, which is a square of 8 with a hole of 4.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 64, 48
SIZE = {"width": WIDTH, "height": HEIGHT}
NAMES = ("p0", "p1", "p2")
COLOURS = {"background": (0, 0, 0), "bolt": (250, 50, 83), "nut": (61, 61, 245)}  # as CVAT gives them to labels
BOLT = [(10, 20), (30, 20), (30, 30), (10, 30)]  # as CVAT and COCO measure, from the corner of the image


def drawn() -> np.ndarray:
    """Return the scene's class numbers, uint8 (48, 64): 0 nothing, 1 background, 2 bolt, 3 nut."""
    label = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    label[3, 2:62] = 1
    label[20:30, 10:30] = 2
    label[20:28, 40:48] = 3
    label[22:26, 42:46] = 0
    return label


def labelme(folder: Path) -> None:
    from labelme import utils
    from labelme._label_file import LabelFile

    photograph = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    data = base64.b64decode(utils.img_arr_to_b64(photograph))
    mask = (drawn()[20:28, 40:48] == 3).astype(np.uint8)
    common = {"flags": {}, "group_id": None, "description": ""}
    turned = [(19.5, 14.5), (29.5, 24.5), (19.5, 34.5), (9.5, 24.5)]
    shapes = [
        {"label": "background", "shape_type": "linestrip", "points": [(2, 3), (30, 3), (61, 3)]},
        {"label": "bolt", "shape_type": "rectangle", "points": [(10, 20), (29, 29)]},  # counts pixels
        {"label": "nut", "shape_type": "mask", "points": [(40, 20), (47, 27)], "mask": utils.img_arr_to_b64(mask)},
        {"label": "bolt", "shape_type": "points", "points": [(5, 40), (8, 40)]},
    ]
    for name in NAMES:
        extra = [{"label": "bolt", "shape_type": "oriented_rectangle", "points": turned}] if name == "p1" else []
        LabelFile().save(
            filename=str(folder / f"{name}.json"),
            shapes=[{**common, **shape} for shape in shapes + extra],
            image_path=f"{name}.png",
            image_height=HEIGHT,
            image_width=WIDTH,
            image_data=data if name == "p2" else None,
        )


def napari(folder: Path) -> None:
    from napari.layers import Labels
    from napari.plugins import _initialize_plugins  # as the program does at its start

    _initialize_plugins()
    for name, kind in zip(NAMES, (np.uint8, np.int32, np.int64), strict=True):
        Labels(drawn().astype(kind)).save(str(folder / f"{name}.tif"))


def pycocotools(folder: Path) -> None:
    from pycocotools import mask

    scene = drawn()
    annotations = []
    for image in range(3):
        for category in (1, 2, 3):
            packed = mask.encode(np.asfortranarray(scene == category, dtype=np.uint8))
            box, area = mask.toBbox(packed).tolist(), int(mask.area(packed))
            packed = {"size": packed["size"], "counts": packed["counts"].decode()}
            more = {"iscrowd": int(category == 3), "bbox": box, "area": area, "segmentation": packed}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, **more})
    images = [{"id": number, "file_name": f"{name}.png", **SIZE} for number, name in enumerate(NAMES)]
    categories = [{"id": n, "name": name} for n, name in enumerate(("background", "bolt", "nut"), 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def datumaro(folder: Path) -> None:
    from datumaro.components.annotation import Bbox, Mask, Points, Polygon, PolyLine
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

    image = Image.from_numpy(np.zeros((HEIGHT, WIDTH, 3)))
    background = PolyLine([2, 3, 30, 3, 61, 3], label=0, id=1, attributes={"occluded": True}, z_order=1)
    bolt = Polygon(np.ravel(BOLT).tolist(), label=1, id=2)
    nut = Mask(drawn() == 3, label=2, id=3)
    dots = Points([5, 40, 8, 40], [2, 2], label=1, id=4)
    box = Bbox(10, 20, 20, 10, label=1, id=5, attributes={"rotation": 90})
    names = ["background", "bolt", "nut"]
    for name, kind, shapes in [
        ("cvat", "cvat", (background, bolt, nut, dots)),
        ("coco", "coco_instances", (bolt, nut)),
        ("voc", "voc_segmentation", (Mask(drawn() == 2, label=1, id=2), nut)),
    ]:
        target = folder / name
        last = shapes if name == "voc" else [box]
        contents = zip(NAMES, (shapes, shapes, last), strict=True)
        items = [DatasetItem(name, subset="train", media=image, annotations=list(shown)) for name, shown in contents]
        data = Dataset.from_iterable(items, categories=names)
        colours = {"label_map": {n: [c, [], []] for n, c in COLOURS.items()}} if name == "voc" else {}
        data.export(str(target), kind, **colours)
        for path in target.rglob("*"):
            if path.name.startswith("p") and path.suffix == ".jpg":
                path.unlink()


def label_studio(folder: Path) -> None:
    from label_studio_converter.brush import convert_task, mask2rle

    scene, tasks = drawn(), []
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    for number, name in enumerate(NAMES, 1):
        common = {"from_name": "tag", "to_name": "image", **size}
        results = [
            {
                "id": f"r{value}",
                "type": "brushlabels",
                "value": {
                    "format": "rle",
                    "rle": mask2rle(np.where(scene == value, 255, 0).astype(np.uint8)),
                    "brushlabels": [label],
                },
                **common,
            }
            for value, label in ((1, "background"), (2, "bolt"), (3, "nut"))
        ]
        image = f"/data/upload/1/3f2a9c{number:02d}-{name}.png"
        annotation = {"id": number + 10, "completed_by": 1, "result": results, "was_cancelled": False}
        task = {"id": number, "data": {"image": image}, "annotations": [annotation], "predictions": []}
        tasks.append(task)
        (folder / "brush").mkdir(exist_ok=True)
        brush = {"tag": [result["value"] | size | {"type": "brushlabels"} for result in results]}
        person = {"id": number, "annotation_id": number + 10, "completed_by": {"email": "ann@example.org"}}
        convert_task({**person, "output": brush}, str(folder / "brush"), "png")
    (folder / "tasks.json").write_text(json.dumps(tasks))


if __name__ == "__main__":
    for write in (labelme, napari, pycocotools, datumaro, label_studio):
        target = Path(sys.argv[1]) / write.__name__
        target.mkdir(parents=True, exist_ok=True)
        write(target)

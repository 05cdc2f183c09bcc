"""Feed damaged files to everything that reads what people bring; fail on a traceback, or on a result that cannot be.

    PYTHONPATH=pytorch-deeplab_v3_plus python tests/fuzz_readers.py --inputs 10000 --seed 1 [READER ...]

Each reader gets small valid files, of which one is changed in some bytes, words or lines. It may read them or raise
InputError; what it reads must keep its contract, which the reader's function checks: what has a check sum is read as it
was or not at all, what was imported from the other files is what it was, and an image that is left out is named.
"""

import argparse
import base64
import contextlib
import csv
import functools
import io
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import import_scribbles
from common.errors import InputError
from dataloaders.class_names import check_class_names, is_unlabelled
from dataloaders.images import image_size, read_image, read_label
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    SCRIBBLES,
    list_file,
    list_files,
    read_class_names,
    read_lines,
    read_list,
)
from preparation.checks import check_dataset
from preparation.label_maps import look_at_label
from preparation.masks import read_colours

WIDTH, HEIGHT = 12, 9
NAMES = ("background", "cat", "dog")
LABEL = np.where(np.indices((HEIGHT, WIDTH))[0] % 4 == 0, np.indices((HEIGHT, WIDTH))[1] % 3, 255).astype(np.uint8)
Files = dict[str, bytes]  # by path; the first is the one that is changed


def picture(pixels: np.ndarray, kind: str, **how) -> bytes:
    """Return an image file of a kind."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
JPEG = picture(PHOTOGRAPH, "JPEG")
SHAPES = [
    {"label": "background", "shape_type": "line", "points": [[1, 1], [9, 1]]},
    {"label": "cat", "shape_type": "polygon", "points": [[2, 4], [6, 4], [6, 7]]},
    {"label": "dog", "shape_type": "point", "points": [[9, 8]]},
    {"label": "dog", "shape_type": "circle", "points": [[5, 5], [6, 6]]},
]
LABELME = {"shapes": SHAPES, "imagePath": "p.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
LABELME["imageData"] = base64.b64encode(JPEG).decode()
XML = "<annotation><size><width>12</width><height>9</height></size><polygon><tag>cat</tag>"
XML += "<point><X>1</X><Y>2</Y></point><point><X>8</X><Y>5</Y></point></polygon></annotation>"
TABLE = b"0 0 0 background\n200 0 0 cat\n0 200 0 dog\n255 255 255 unlabelled\n"
MASK = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0), (255, 255, 255)], dtype=np.uint8)[np.minimum(LABEL, 3)]
CUT_OUT = [{"label": "dog", "shape_type": "mask", "points": [[2, 3], [6, 5]]}, SHAPES[0]]
CUT_OUT[0]["mask"] = base64.b64encode(picture(np.uint8(LABEL[:3, :5] < 2), "PNG")).decode()
LARGER = np.tile(PHOTOGRAPH, (6, 6, 1))[:48, :64]
TOOLS = Path(__file__).parent / "annotations"  # what the tools themselves wrote, for photographs of 64x48
BOLT = {"part": "bolt"}
VIA = [
    {
        "shape_attributes": {"name": "polyline", "all_points_x": [2, 9], "all_points_y": [3, 3]},
        "region_attributes": BOLT,
    },
    {"shape_attributes": {"name": "rect", "x": 3, "y": 5, "width": 4, "height": 2}, "region_attributes": BOLT},
    {"shape_attributes": {"name": "circle", "cx": 6, "cy": 4, "r": 2}, "region_attributes": {"part": "background"}},
]
VIA_JSON = {f"p{n}.jpg9": {"filename": f"p{n}.jpg", "size": 9, "regions": VIA} for n in range(3)}
RINGS = [[[1, 1], [9, 1], [9, 7], [1, 7], [1, 1]], [[3, 3], [5, 3], [5, 5], [3, 5], [3, 3]]]
QUPATH = [
    {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }
    for name, geometry in (
        ("cat", {"type": "Polygon", "coordinates": RINGS}),
        ("background", {"type": "LineString", "coordinates": [[1, 8], [9, 8]]}),
        ("Ignore*", {"type": "MultiPoint", "coordinates": [[10, 2], [10, 4]]}),
    )
]


def via_table() -> bytes:
    """Return what VIA_JSON says as VIA's CSV."""
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["filename", "region_shape_attributes", "region_attributes"])
    for entry in VIA_JSON.values():
        for region in entry["regions"]:
            table.writerow([entry["filename"], *map(json.dumps, region.values())])
    return file.getvalue().encode()


def packed(files: Files) -> bytes:
    """Return a ZIP of files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def image(folder: Path, name: str) -> None:
    """An image is RGB and has the size that its header says."""
    assert read_image(folder / name).mode == "RGB"
    assert read_image(folder / name).size == image_size(folder / name)
    assert not name.endswith(".png") or np.array_equal(read_image(folder / name), PHOTOGRAPH)


def label_map(folder: Path, name: str) -> None:
    """A label map has no other values than classes, 254 and 255."""
    looked, kind, _ = look_at_label(folder / name, len(NAMES))
    assert kind or looked is not None
    values = read_label(folder / name, len(NAMES))
    assert values.dtype == np.uint8 and values.ndim == 2 and set(np.unique(values)) <= {0, 1, 2, 254, 255}
    assert np.array_equal(values, looked)
    assert not name.endswith(".png") or np.array_equal(values, LABEL)


def classes(folder: Path, name: str) -> None:
    """Class names pass the gate."""
    check_class_names(read_class_names(folder / name), name)


def colours(folder: Path, name: str) -> None:
    """A colour table has classes that pass the gate, and each colour has one of them or none."""
    names, values = read_colours(folder / name, read_lines(folder / name, "a table"))
    check_class_names(names, name)
    assert not any(map(is_unlabelled, names)) and set(values.values()) <= {*range(len(names)), 255}


def lists(folder: Path, name: str) -> None:
    """A list holds one id a line."""
    assert all(image_id.strip() == image_id != "" for image_id in read_list(folder, "train", {"p0": 0, "p1": 1}))


def data_set(folder: Path, name: str) -> None:
    """The check of a data set names a label map that is not what it was."""
    report = check_dataset(folder, read_class_names(folder / CLASS_FILE))
    assert len(report.items) == 2 and report.as_text() and json.dumps(report.as_json())
    named = {problem.id for problem in report.problems if problem.file.startswith(SCRIBBLES)}
    counts = np.bincount(LABEL.ravel(), minlength=256)
    assert all(i in named or np.array_equal(item.scribbles, counts) for i, item in report.items.items())


def drawn_by_class(data: Path) -> dict[str, np.ndarray]:
    """Return what was imported: for each image the names of the classes, object (H, W), or None."""
    names = np.array([*read_class_names(data / CLASS_FILE), None], dtype=object)
    labels = {image_id: read_label(path, len(names) - 1) for image_id, path in list_files(data, SCRIBBLES).items()}
    return {image_id: names[np.minimum(label, len(names) - 1)] for image_id, label in labels.items()}


def imported(files: Files, *words: str) -> Callable[[Path, str], None]:
    """Return a reader of annotations: what import_scribbles.py makes of them are labels of the classes.

    Unless all images are in one file, two of the three images have a file that is not changed.
    """
    apart = sum(name.startswith("source/") for name in files) > 1

    def run(folder: Path) -> str:
        source = folder / next(iter(files)) if not apart else folder / "source"
        options = [word.replace("FOLDER", str(folder)) for word in words[1:]]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert import_scribbles.main([words[0], str(source), str(folder / "data"), *options]) == 0
        return said.getvalue()

    @functools.cache
    def unchanged() -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory(prefix="rloss-fuzz-") as temporary:
            write(Path(temporary), files)
            run(Path(temporary))
            return drawn_by_class(Path(temporary) / "data")

    def read(folder: Path, name: str) -> None:
        try:
            said = run(folder)
        except BaseException:
            assert not (folder / "data").exists(), "a failed import left something"
            raise
        found, expected = drawn_by_class(folder / "data"), unchanged()
        assert len(found) == len(expected) or "left out" in said or name.endswith(".csv"), "images are missing"
        others = expected.keys() - {Path(name).stem} if apart or name.endswith(".zip") else ()  # a ZIP has check sums
        assert all(np.array_equal(found[image_id], expected[image_id]) for image_id in others), "another image changed"

    return read


def annotations(
    name: str, content: bytes, *words: str, photograph: bytes = JPEG
) -> tuple[Files, Callable[[Path, str], None]]:
    """Return the files and the reader of an annotation format, with these words for import_scribbles.py.

    `name` has {} for the number of the image where each has a file.
    """
    numbers = range(3) if "{}" in name else [0]
    files = {f"source/{name.format(number)}": content for number in numbers}
    called = "{}.jpg" if name.startswith("task-") else "p{}.jpg" if photograph is JPEG else "p{}.png"
    files |= {f"photos/{called.format(number)}": photograph for number in range(3)}
    files |= {"c.txt": TABLE, "names.txt": b"background\ncat\ndog\n"}
    return files, imported(files, *words, "--images", "FOLDER/photos")


def tool(path: str, *words: str) -> tuple[Files, Callable[[Path, str], None]]:
    """Return the same for a file that an annotation tool wrote for three photographs."""
    return annotations(Path(path).name, (TOOLS / path).read_bytes(), *words, photograph=picture(LARGER, "PNG"))


READERS: dict[str, tuple[Files, Callable[[Path, str], None]]] = {
    "jpeg": ({"p.jpg": JPEG}, image),
    "png": ({"p.png": picture(PHOTOGRAPH, "PNG")}, image),
    "tiff": ({"p.tif": picture(PHOTOGRAPH, "TIFF")}, image),
    "bmp": ({"p.bmp": picture(PHOTOGRAPH, "BMP")}, image),
    "webp": ({"p.webp": picture(PHOTOGRAPH, "WEBP")}, image),
    "label map": ({"p.png": picture(LABEL, "PNG")}, label_map),
    "label map, tiff": ({"p.tif": picture(LABEL, "TIFF")}, label_map),
    "classes": ({CLASS_FILE: "background\ncat\nGröße\n背の高い 犬\n".encode()}, classes),
    "classes, numbered": ({CLASS_FILE: b"0 background\n1 cat\n2 dog\n"}, classes),
    "colours": ({"c.txt": TABLE}, colours),
    "labelmap": ({"c.txt": b"# label:color_rgb:parts:actions\ncat:0,1,2::\nbackground:0,0,0::\n"}, colours),
    "list": ({str(list_file(Path(), "train")): b"p0.jpg\n/JPEGImages/p1.jpg /SegmentationClassAug/p1.png\n"}, lists),
    "data set": (
        {f"{SCRIBBLES}/p{n}.png": picture(LABEL, "PNG") for n in range(2)}
        | {f"{IMAGES}/p{n}.jpg": JPEG for n in range(2)}
        | {CLASS_FILE: b"background\ncat\ndog\n"},
        data_set,
    ),
    "roboflow": ({"_classes.csv": b"Pixel Value, Class\n0, background\n1, cat\n2, dog\n"}, colours),
    "labelme": annotations("p{}.json", json.dumps(LABELME).encode(), "labelme"),
    "labelme, masks": annotations("p{}.json", json.dumps({**LABELME, "shapes": CUT_OUT}).encode(), "labelme"),
    "cvat": tool("datumaro/cvat/train.xml", "cvat"),
    "coco": tool("pycocotools/instances.json", "coco"),
    "coco, polygons": tool("datumaro/coco/annotations/instances_train.json", "coco"),
    "label_studio": tool("label_studio/tasks.json", "label_studio"),
    "label_studio, brush": annotations(
        "task-{}-annotation-1-by-1-tag-cat-0.png", picture(np.uint8(LABEL == 1) * 255, "PNG"), "label_studio"
    ),
    "via": annotations("via.json", json.dumps(VIA_JSON).encode(), "via"),
    "via, csv": annotations("via.csv", via_table(), "via"),
    "qupath": annotations("p{}.geojson", json.dumps(QUPATH).encode(), "qupath"),
    "scribblesup": annotations("p{}.xml", XML.encode(), "scribblesup"),
    "masks": annotations("p{}.png", picture(MASK, "PNG"), "masks", "--colours", "FOLDER/c.txt"),
    "masks of numbers": annotations(
        "p{}.png", picture(LABEL, "PNG"), "masks", "--classes", "FOLDER/names.txt", "--unlabelled=255"
    ),
    "masks of numbers, tiff": annotations(
        "p{}.tif", picture(LABEL, "TIFF"), "masks", "--classes", "FOLDER/names.txt", "--unlabelled=255"
    ),
    "masks of numbers, gif": annotations(
        "p{}.gif", picture(LABEL, "GIF"), "masks", "--classes", "FOLDER/names.txt", "--unlabelled=255"
    ),
    "zip": annotations("export.zip", packed({f"p{n}.json": json.dumps(LABELME).encode() for n in range(3)}), "labelme"),
}
WORDS = [
    b"",
    b"-1",
    b"0",
    b"1e309",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b"\n",
    b"\xff",
    b"\x00",
    b"\xe2\x80\xa8",
    b"254",
    b"255",
]
WORDS += [
    b"99999999999999999999",
    b"background",
    b"ignore",
    b" ",
    b"\\ud800",
    b"[" * 5000,
    b"<a>",
    b"&x;",
    b'"',
    b"../p",
]


def write(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one to three changes: bits, bytes, words, or a part that is cut out or repeated."""
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(0, len(content) + 1)), int(rng.integers(1, 9))
        before, part, after = content[:at], content[at : at + length], content[at + length :]
        kind = rng.integers(0, 6)
        if kind == 0 and part:
            part = bytes([part[0] ^ 1 << int(rng.integers(0, 8))]) + part[1:]
        elif kind == 1:
            part = rng.bytes(length)
        elif kind == 2:
            part = WORDS[rng.integers(0, len(WORDS))]
        elif kind == 3:
            part = b""
        elif kind == 4:
            part += part
        else:
            after = b"" if rng.random() < 0.3 else after
        content = before + part + after
    return content


def fuzz(name: str, inputs: int, seed: int) -> Counter:
    """Give a reader so many inputs; return how many were read and refused, and each traceback with its number."""
    files, read = READERS[name]
    target, results = next(iter(files)), Counter()
    for number in range(inputs):
        rng = np.random.default_rng([seed, number, *name.encode()])
        with tempfile.TemporaryDirectory(prefix="rloss-fuzz-") as temporary:
            write(Path(temporary), files | {target: changed(files[target], rng)})
            try:
                read(Path(temporary), target)
                results["read"] += 1
            except InputError as error:
                one_line = "\n" not in str(error).strip() and temporary in str(error) or "what was drawn" in str(error)
                results["refused" if one_line else f"no file, or no line, in: {str(error)[:200]!r}"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                results[f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno} (input {number})"] += 1
    return results


def main() -> int:
    """Fuzz as the command line says; return 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("readers", metavar="READER", nargs="*", help=f"out of {', '.join(READERS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=1000, metavar="N", help="for each reader (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="chooses the changes (default: 1)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    bad = 0
    for name in args.readers or READERS:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            results = fuzz(name, args.inputs, args.seed)
        logging.disable(logging.NOTSET)
        print(f"{name}: {results.pop('read', 0):,} read, {results.pop('refused', 0):,} refused", flush=True)
        for what, times in results.most_common():
            bad += times
            print(f"    {times:,} x {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

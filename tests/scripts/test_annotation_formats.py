"""Annotations of every tool become the label maps that were drawn, or are refused by name."""

import base64
import csv
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import check_dataset
import export_annotations
import import_scribbles
from dataloaders import images
from helpers import call, message, one_line, write_grey_png, write_label
from preparation.importing import alone_in
from preparation.masks import pixel_values

TOOLS = Path(__file__).parents[1] / "annotations"
WIDTH, HEIGHT, U = 64, 48, 255


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three photographs, p0.png to p2.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def run(tmp_path, photos, capsys):
    """Return a function that imports a source and returns its label maps by id, or the line of the error."""

    def imported(*words, kind="pascal_2012_scribble") -> dict[str, np.ndarray] | str:
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        if call(import_scribbles, *words[:1], data, *words[1:]):
            assert not (data / kind).exists()
            return one_line(capsys)
        return {path.stem: np.array(Image.open(path)) for path in (data / kind).iterdir()}

    return imported


def scene(background: bool = True) -> np.ndarray:
    """What the tools have drawn: see annotations/write.py; background, bolt and nut are 0, 1 and 2."""
    label = np.full((HEIGHT, WIDTH), U)
    if background:
        label[3, 2:62] = 0
    label[20:30, 10:30] = 1
    label[20:28, 40:48] = 2
    label[22:26, 42:46] = U
    return label


def dots(label: np.ndarray) -> np.ndarray:
    label[40, [5, 8]] = 1
    return label


def drawn(*parts) -> np.ndarray:
    """Return a label map with rectangles (value, top, bottom, left, right), the latter two and four exclusive."""
    label = np.full((HEIGHT, WIDTH), U)
    for value, top, bottom, left, right in parts:
        label[top:bottom, left:right] = value
    return label


# --- files that the tools wrote -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("labelme", dots(scene())),
        ("pycocotools", scene()),
        ("datumaro/coco", scene(background=False)),
        ("datumaro/cvat", dots(scene())),
        ("label_studio/tasks.json", scene()),
    ],
)
def test_what_the_tools_wrote(run, photos, tmp_path, source, expected):
    found = run(TOOLS / source, "--images", photos, "--width", 1)
    assert np.array_equal(found["p0"], expected), found
    assert len(found) == 3
    assert (tmp_path / "data/classes.txt").read_text() == "background\nbolt\nnut\n"


def test_turned_rectangles_of_the_tools(run, photos):
    labelme = run(TOOLS / "labelme", "--images", photos, "--width", 1)["p1"]
    rows, columns = np.nonzero(labelme == 1)
    assert rows.min() == 14 and labelme[24, 9] == 1 and labelme[16, 12] == U  # a square on its corner
    assert np.array_equal(run(TOOLS / "datumaro/coco", "--images", photos)["p2"], drawn((1, 15, 35, 15, 25)))


def test_labels_of_napari(run, photos, tmp_path):
    pytest.importorskip("tifffile")
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    words = [TOOLS / "napari", "--images", photos, "--classes", tmp_path / "names.txt"]
    assert "--map=3=CLASS or --unlabelled 3" in run(*words)
    found = run(*words, "--unlabelled", 0, "--map", "1=0,2=1", "--map", "3=2")
    assert len(found) == 3 and all(np.array_equal(label, scene()) for label in found.values())
    assert "expected one meaning of each value" in run(*words, "--unlabelled", 0, "--map", "0=1")
    assert "expected one meaning of each value" in run(*words, "--map", "1=3")


def test_masks_of_cvat_with_their_table(run, photos):
    found = run(TOOLS / "datumaro/voc", "--images", photos, "--unlabelled", 0)
    assert len(found) == 3 and all(np.array_equal(label, scene(background=False)) for label in found.values())
    truth = run(TOOLS / "datumaro/voc", "--images", photos, "--truth", kind="SegmentationClassAug")
    assert np.array_equal(truth["p0"], np.where(scene(background=False) == U, 0, scene(background=False)))


def test_pictures_of_the_brush(run, photos):
    assert "Studio name the task alone" in run(TOOLS / "label_studio/brush", "--images", photos)
    for number in range(3):
        (photos / f"p{number}.png").rename(photos / f"task-{number + 1}.png")
    assert np.array_equal(run(TOOLS / "label_studio/brush", "--images", photos)["task-2"][5:], scene()[5:])


def test_a_damaged_picture_of_the_brush(run, photos, tmp_path):
    """Regression: a traceback."""
    shutil.copytree(TOOLS / "label_studio/brush", tmp_path / "brush")
    path = next((tmp_path / "brush").glob("task-1-*nut*"))
    path.write_bytes(path.read_bytes().replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x0cIHDR"))
    for number in range(3):
        (photos / f"p{number}.png").rename(photos / f"task-{number + 1}.png")
    assert f"cannot read {path}" in run(tmp_path / "brush", "--images", photos)


@pytest.mark.parametrize("words", [[], ["--truth"]])
def test_nothing_is_drawn_yet(run, photos, tmp_path, words):
    """Regression: with a list of classes, which a data set has too, a traceback."""
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    labelme(photos)
    for source, where in ((photos, "p0.json"), (tmp_path / "a.json", "what was read")):
        line = run(source, "--images", photos, "--classes", tmp_path / "names.txt", *words)
        assert "expected something drawn, found nothing in" in line and where in line


def test_two_imports_into_one_data_set(run, photos, tmp_path, capsys):
    """Regression: the labels of the one were numbered by the classes of the other."""
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    (tmp_path / "other/.import-a1b2c3d_").mkdir(parents=True)
    with alone_in(tmp_path / "other"):
        assert call(import_scribbles, photos, tmp_path / "other") == 2
        assert "found one at work" in one_line(capsys)
    assert call(import_scribbles, photos, tmp_path / "other") == 0
    assert not list((tmp_path / "other").glob(".*"))


def test_pipes_loops_and_tables(run, photos, tmp_path):
    """Regression: a pipe hung, a link to itself was a traceback, and a table beside photographs was never named."""
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    os.mkfifo(photos / "pipe.json")
    assert "pipe.json, a pipe or a device: remove it" in run(photos)
    (photos / "pipe.json").unlink()
    (photos / "loop.png").symlink_to("loop.png")
    assert len(run(photos)) == 3
    (photos / "loop.png").unlink()
    for path in photos.glob("*.json"):
        path.unlink()
    (photos / "labels.csv").write_text("label_name,bbox_x,bbox_y\nbolt,1,1\n")
    assert "expected annotations, found" in (line := run(photos)) and "labels.csv" in line


def test_sizes_as_text_and_as_nothing(run, photos, tmp_path):
    """Regression: 48 was not 48, or a traceback."""
    for wrong, said in (("48", None), (48.0, None), (None, None), ("x", "whose side is 'x'")):
        labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
        path = photos / "p0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"imageHeight": wrong}))
        found = run(photos)
        assert len(found) == 3 if said is None else said in found
    for path in photos.glob("*.json"):
        path.unlink()
    for side, said in (
        (float(HEIGHT), None),
        (str(HEIGHT), None),
        (None, "whose side is None"),
        (9.5, "whose side is 9.5"),
    ):
        mask = {"counts": runs(scene() == 1), "size": [side, WIDTH]}
        (tmp_path / "a.json").write_text(json.dumps(coco({"image_id": 0, "segmentation": mask}, width=0)))
        found = run(tmp_path / "a.json", "--images", photos)
        assert np.array_equal(found["p0"] == 1, scene() == 1) if said is None else said in found
    for width, said in ((str(WIDTH), None), (None, "whose side is None")):
        tasks = [task(n, KEYPOINT, original_width=width) for n in range(3)]
        (tmp_path / "a.json").write_text(json.dumps(tasks))
        found = run(tmp_path / "a.json", "--images", photos)
        assert len(found) == 3 if said is None else said in found


@pytest.mark.parametrize(
    ("address", "name"),
    [("s3://bucket/leaf#0.png", "leaf#0"), ("a/leaf?0.png", "leaf?0"), ("/data/local-files/?d=a/l&b+1.png", "l&b+1")],
)
def test_signs_in_the_names_of_label_studio(run, photos, tmp_path, address, name):
    """Regression: the name was cut off there, and the labels went to another photograph."""
    (photos / "p1.png").rename(photos / f"{name}.png")
    (photos / "p2.png").rename(photos / "leaf.png")
    tasks = [task(number, KEYPOINT) for number in range(3)]
    tasks[1]["data"]["image"], tasks[2]["data"]["image"] = address, "leaf.png"
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert sorted(run(tmp_path / "a.json", "--images", photos)) == sorted(["p0", name, "leaf"])


def test_a_zip_with_folders_leads_to_a_green_report(run, photos, tmp_path, capsys):
    source = tmp_path / "export.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(TOOLS / "datumaro/cvat/train.xml", "annotations.xml")
        archive.writestr("__MACOSX/._annotations.xml", b"\0\5\26\7")
        for path in photos.iterdir():
            archive.write(path, f"images\\train\\{path.name}")  # packed under Windows
        archive.writestr("images/more.png", b"")
    capsys.readouterr()
    assert np.array_equal(run(source, "--width", 1)["p1"], dots(scene()))
    # Regression: a folder was named that is no longer there.
    assert f"no annotation names (first {source}/images/more.png)" in capsys.readouterr().out
    assert call(check_dataset, tmp_path / "data", "--output", tmp_path / "report") == 0
    source.write_bytes(source.read_bytes()[:300] + source.read_bytes()[400:])
    assert "cannot unpack" in run(source)


def silent_zip(source: Path, entries: dict[str, bytes], coding: str) -> Path:
    """Write a ZIP that does not say how its names are coded; those of other letters end in .png or .txt."""
    coded = {name.encode("utf-8"): name.encode(coding) for name in entries}
    with zipfile.ZipFile(source, "w") as archive:
        for number, (name, content) in enumerate(entries.items()):  # first names of the same length
            archive.writestr(f"{number}" + "x" * (len(coded[name.encode()]) - 1), content)
    content = source.read_bytes()
    for number, name in enumerate(coded.values()):
        content = content.replace(f"{number}".encode() + b"x" * (len(name) - 1), name)
    source.write_bytes(content)
    return source


def names_in(photos: Path, name: str) -> dict[str, bytes]:
    """Return CVAT's export of the photographs, of which p1 is called otherwise."""
    table = (TOOLS / "datumaro/cvat/train.xml").read_text().replace('"p1', f'"{name}')
    photographs = {path.name.replace("p1", name): path.read_bytes() for path in photos.glob("*.png")}
    return {"annotations.xml": table.encode(), **photographs}


def test_a_zip_that_does_not_say_that_its_names_are_utf_8(run, photos, tmp_path):
    """Regression: as macOS packs them, names of photographs were unreadable."""
    assert "\u00e9t\u00e9" in run(silent_zip(tmp_path / "a.zip", names_in(photos, "\u00e9t\u00e9"), "utf-8"))


@pytest.mark.parametrize(
    ("coding", "name"),
    [
        ("cp932", "\u8868\u30bd\u30d5\u30c8"),  # with a byte that is a backslash in the first letter
        ("gbk", "\u7167\u7247"),
        ("cp949", "\uc0ac\uc9c4"),
        ("cp850", "Gr\u00f6\u00dfe"),
    ],
)
def test_a_zip_that_says_nothing_of_its_names(run, photos, tmp_path, coding, name):
    """Regression: as Windows packs them, names were taken for Western ones, and no photograph was found."""
    source = silent_zip(tmp_path / "a.zip", names_in(photos, name), coding)
    line = run(source)
    assert f"'{name}.png' ({coding.replace('850', '437')})" in line and "with --zip-names ENCODING" in line
    assert sorted(run(source, "--zip-names", coding)) == sorted(["p0", name, "p2"])
    if coding != "cp850":
        assert "expected file names in ascii" in run(source, "--zip-names", "ascii")


def test_what_takes_no_coding_of_names(run, photos):
    assert "--zip-names is for the names in a ZIP" in run(photos, "--zip-names", "cp932")
    for wrong in ("shift", "base64", "undefined"):
        assert f"expected a text encoding, such as cp932, found '{wrong}'" in run(photos, "--zip-names", wrong)


def test_a_damaged_zip_of_each_compression(run, tmp_path):
    """Regression: a traceback where it was LZMA."""
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w", compression) as archive:
            archive.writestr("p0.json", json.dumps(list(range(999))))
        content = bytearray(source.read_bytes())
        content[60:90] = bytes(255 - byte for byte in content[60:90])
        source.write_bytes(content)
        assert f"cannot unpack {source}: " in run(source)


def test_what_is_wrong_with_a_zip_is_said_of_the_zip(run, tmp_path):
    """Regression: an empty file was said to hold itself, messages named the folder into which a ZIP was unpacked."""
    source = tmp_path / "export.zip"
    source.touch()
    assert f"cannot unpack {source}: " in run(source)
    with zipfile.ZipFile(source, "w"):
        pass
    assert f"expected annotations, found none in {source}: " in run(source)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("data/inner.zip", b"")
    assert f"name the ZIP in it, {source}/data/inner.zip: " in run(source)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("a/p0.json", "{}")
        archive.writestr("a\\p0.json", "{}")
    assert "it holds a/p0.json twice" in run(source)


# --- CVAT -----------------------------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>t</name></task></meta>
<image id="0" name="batch/p0.png" subset="train" task_id="1" width="64" height="48">{}</image>
<image id="1" name="batch\\p1.png" width="64" height="48"><tag label="blurred" source="manual"></tag></image>
<image id="2" name="batch/p2.png" width="64" height="48"><points label="bolt" points="3,3"></points></image>
<image id="3" name="batch/p3.png" width="64" height="48"><points label="bolt" points="3,3"></points></image>
</annotations>"""


@pytest.fixture
def cvat(run, photos, tmp_path):
    (photos / "batch").mkdir()
    for path in photos.glob("*.png"):
        path.rename(photos / "batch" / path.name)
    shutil.copy(photos / "batch/p0.png", photos / "batch/p3.png")

    def imported(shapes: str, *words):
        (tmp_path / "annotations.xml").write_text(CVAT.format(shapes))
        return run(tmp_path / "annotations.xml", "--images", photos, "--width", 1, *words)

    return imported


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (
            '<box label="bolt" xtl="10" ytl="20" xbr="30" ybr="30"><attribute name="x">y</attribute></box>',
            (20, 30, 10, 30),
        ),
        ('<box label="bolt" xtl="10" ytl="20" xbr="30" ybr="30" rotation="90.0"/>', (15, 35, 15, 25)),
        ('<mask label="bolt" rle="1, 2, 1" left="7" top="9" width="4" height="1"/>', (9, 10, 8, 10)),
        ('<polyline label="bolt" points="2.4,3.0;9.4,3.0" occluded="1" z_order="2"/>', (3, 4, 2, 10)),
    ],
)
def test_shapes_of_cvat_by_hand(cvat, shape, expected):
    found = cvat(shape)
    assert np.array_equal(found["p0"], drawn((1, *expected))), np.argwhere(found["p0"] == 1)
    assert sorted(found) == ["p0", "p2", "p3"]  # a tag is nothing drawn


def test_the_order_of_drawing_and_ellipses_of_cvat(cvat):
    box = '<box label="{}" xtl="10" ytl="20" xbr="30" ybr="30" z_order="{}"/>'
    assert np.array_equal(cvat(box.format("nut", 3) + box.format("bolt", 1))["p0"], drawn((2, 20, 30, 10, 30)))
    lying = cvat('<ellipse label="bolt" cx="30" cy="20" rx="20" ry="5" rotation="0"/>')["p0"] == 1
    standing = cvat('<ellipse label="bolt" cx="30" cy="20" rx="5" ry="20" rotation="90"/>')["p0"] == 1
    assert lying[20, 11] and lying[24, 30] and not lying[10:15].any()
    assert (lying != standing).sum() < 0.1 * lying.sum()
    assert lying.sum() == pytest.approx(np.pi * 20 * 5, rel=0.02)
    # Regression: a polygon of 72 corners lacked pixels at the rim.
    y, x = (np.indices((HEIGHT, WIDTH)) + 0.5) - np.array([24, 32])[:, None, None]
    along, across = (x * np.sqrt(3) + y) / 2, (y * np.sqrt(3) - x) / 2
    turned = cvat('<ellipse label="bolt" cx="32" cy="24" rx="25" ry="23" rotation="30"/>')["p0"] == 1
    assert np.array_equal(turned, (along / 25) ** 2 + (across / 23) ** 2 <= 1)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ('<skeleton label="bolt" z_order="0"><points label="1" points="3,3"/></skeleton>', "a skeleton of 'bolt'"),
        ('<cuboid label="bolt" xtl1="1"/>', "a cuboid of 'bolt'"),
        ('<polyline points="1,1;2,2"/>', "no 'label'"),
        ('<polyline label="bolt" points="1,1,1;2,2,2"/>', "a line of 'bolt' with the points"),
        ('<polyline label="bolt" points="1,1;2e9,2"/>', "a line at x 1 to 2e+09"),
        ('<points label="bolt" points="nan,1"/>', "a point of 'bolt'"),
        ('<points label="bolt" points="1e308,1"/>', "a point of 'bolt'"),  # Regression: lines of NumPy's came first
        ('<ellipse label="bolt" cx="3" cy="2" rx="inf" ry="5" rotation="3"/>', "a polygon of 'bolt'"),
        ('<mask label="bolt" rle="1, 9" left="7" top="9" width="4" height="1"/>', "run lengths for 10 pixels"),
        ('<mask label="bolt" rle="1" left="7" top="9" width="999999" height="999999"/>', "a mask of 999999x999999"),
        ('<mask label="bolt" rle="4" left="90" top="9" width="4" height="1"/>', "a mask at x 90"),
    ],
)
def test_what_cvat_writes_else_is_refused_by_name(cvat, shape, said):
    line = cvat(shape)
    assert said in line and "annotations.xml" in line


def test_elements_that_cvat_does_not_write_are_refused(run, photos, tmp_path):
    """Regression: they were left out without a word, and the images in them."""
    content = (TOOLS / "datumaro/cvat/train.xml").read_text()
    (tmp_path / "a.xml").write_text(content.replace("<image ", "<imago ", 1).replace("</image>", "</imago>", 1))
    assert "found a <imago> in" in run(tmp_path / "a.xml", "--images", photos)


def test_videos_other_xml_and_bombs(run, photos, tmp_path):
    file = tmp_path / "a.xml"
    file.write_text("<annotations><track id='0' label='bolt'><box frame='0'/></track></annotations>")
    assert "export 'CVAT for images 1.1'" in run(file, "--images", photos)
    file.write_text("<annotation><object><name>bolt</name><bndbox/></object></annotation>")  # boxes of PASCAL VOC
    assert "expected annotations, found" in run(file, "--images", photos)
    # Regression: where such a file is empty, its folder was taken for ScribbleSup's.
    (tmp_path / "b.xml").write_text("<annotation><filename>p1.png</filename><segmented>0</segmented></annotation>")
    assert "expected annotations, found" in run(tmp_path, "--images", photos, "--truth")
    (tmp_path / "b.xml").unlink()
    layers = "".join(f"<!ENTITY e{n + 1} '{f'&e{n};' * 10}'>" for n in range(9))
    file.write_text("<annotations>")
    assert "cannot read" in run(file, "--images", photos)
    file.write_text(f"<!DOCTYPE d [<!ENTITY e0 'ha'>{layers}]><annotations><meta>&e9;</meta></annotations>")
    assert "cannot read" in run(file, "--images", photos)


# --- COCO -----------------------------------------------------------------------------------------------------------


def coco(*annotations, **image) -> dict:
    images = [{"id": n, "file_name": f"p{n}.png", "width": WIDTH, "height": HEIGHT, **image} for n in range(3)]
    annotations = [{"id": n, "category_id": 1, "iscrowd": 0, **annotation} for n, annotation in enumerate(annotations)]
    others = [{"id": 90 + n, "category_id": 1, "image_id": n, "bbox": [0, 0, 5, 5]} for n in (1, 2)]
    categories = [
        {"id": 0, "name": "parts", "supercategory": "none"},
        {"id": 1, "name": "bolt", "supercategory": "parts"},
    ]
    return {"info": {}, "images": images, "annotations": annotations + others, "categories": categories}


def test_a_photograph_is_not_taken_from_another_folder(run, photos, tmp_path):
    """Regression: labels of a frame of one camera went to that of the other."""
    cameras = tmp_path / "cameras"
    for name in ("left", "right"):
        shutil.copytree(photos, cameras / name)
    (cameras / "left/p1.png").unlink()
    content = coco()
    for image in content["images"]:
        image["file_name"] = f"left/{image['file_name']}"
    (tmp_path / "a.json").write_text(json.dumps(content))
    said = run(tmp_path / "a.json", "--images", cameras)
    assert "'left/p1.png'" in said and "in another folder alone" in said and "right/p1.png" in said


def runs(mask: np.ndarray) -> list[int]:
    """Return COCO's run lengths, by walking down the columns."""
    counts, last = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != last:
            counts.append(0)
            last = pixel
        counts[-1] += 1
    return counts


def test_shapes_of_coco(run, photos, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[0, 0] = mask[5:9, 30:40] = True
    polygons = [[10, 20, 30, 20, 30, 30, 10, 30], [2, 40, 5, 40, 5, 43, 2, 43]]
    content = coco(
        {"image_id": 0, "segmentation": polygons, "bbox": [1, 1, 2, 2]},
        {"image_id": 0, "segmentation": {"counts": runs(mask), "size": [HEIGHT, WIDTH]}, "iscrowd": 1},
    )
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(content))
    found = run(tmp_path / "_annotations.coco.json", "--images", photos)["p0"]
    assert np.array_equal(found, np.where(mask, 1, drawn((1, 20, 30, 10, 30), (1, 40, 43, 2, 5))))


def test_coco_as_via_writes_it(run, photos, tmp_path):
    """Ids as text, a polygon that is no list of polygons, no sizes."""
    content = coco({"image_id": "0", "segmentation": [10, 20, 30, 20, 30, 30, 10, 30]}, width=0, height=0)
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert np.array_equal(run(tmp_path / "a.json", "--images", photos)["p0"], drawn((1, 20, 30, 10, 30)))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 'bolt' with the points"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "cannot reshape"),
        ({"segmentation": {"counts": [3], "size": [WIDTH, HEIGHT]}}, "run lengths for 48x64 pixels"),
        ({"segmentation": {"counts": "\x00", "size": [HEIGHT, WIDTH]}}, "damaged run lengths"),
        ({"segmentation": {"counts": "PPPP", "size": [HEIGHT, WIDTH]}}, "run lengths that end too early"),
        ({"segmentation": [], "keypoints": [1, 1, 2], "bbox": [1, 1, 2, 2]}, "keypoints of 'bolt'"),
        ({"segmentation": []}, "an annotation of 'bolt' with neither an outline nor a box"),
        ({"segmentation": [], "category_id": 7}, "an annotation of image 0 and category 7"),
        ({"segmentation": 7}, "a value of another kind"),
    ],
)
def test_what_is_wrong_with_coco_is_said(run, photos, tmp_path, annotation, said):
    (tmp_path / "a.json").write_text(json.dumps(coco({"image_id": 0, **annotation})))
    line = run(tmp_path / "a.json", "--images", photos)
    assert said in line and "a.json" in line


def test_turned_photographs_in_the_coco_of_label_studio(run, photos, tmp_path):
    """Regression: its polygons, which it scales by the sides from before the rotation, were turned."""
    source, shapes = tmp_path / "a.json", [{"image_id": n, "segmentation": [[9, 9, 20, 9, 20, 20]]} for n in range(3)]
    turn(photos / "p0.png")
    by = {"info": {"contributor": "Label Studio"}}
    source.write_text(json.dumps(coco(*shapes) | by))  # which has the right sides where it finds no photographs
    assert len(run(source, "--images", photos)) == 3
    source.write_text(json.dumps(coco(shapes[0], width=HEIGHT, height=WIDTH) | by))
    line = run(source, "--images", photos)
    assert f"found one in {photos / 'p0.png'}: export JSON instead of {source}" in line


def test_captions_and_panoptic_segments_of_coco(run, photos, tmp_path):
    """Regression: of COCO's several files nothing said which one to name."""
    content = coco({"image_id": 0, "segmentation": [[10, 20, 30, 20, 30, 30, 10, 30]]})
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/instances_train.json").write_text(json.dumps(content))
    for name, more in (("captions", {"caption": "a bolt"}), ("panoptic", {"file_name": "p0.png", "segments_info": []})):
        other = tmp_path / f"coco/{name}_train.json"
        other.write_text(json.dumps(content | {"annotations": [{"id": 1, "image_id": 0, **more}]}))
        line = run(tmp_path / "coco", "--images", photos)
        assert "name the file of instances alone" in line and str(other) in line
        other.unlink()
    assert len(run(tmp_path / "coco", "--images", photos)) == 3


# --- Label Studio ---------------------------------------------------------------------------------------------------


def task(number: int, *values, **more) -> dict:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "from_name": "l", "to_name": "i"}
    results = [{"id": f"r{n}", "type": kind, "value": value, **size, **more} for n, (kind, value) in enumerate(values)]
    data = {"image": f"/data/local-files/?d=lab%20two/p{number}.png"}
    return {"id": number, "data": data, "annotations": [{"id": 1, "was_cancelled": False, "result": results}]}


def brush(label: str, strength: np.ndarray) -> tuple[str, dict]:
    """Return what a brush has drawn in @thi.ng/rle-pack, in runs whose lengths take 16 bits."""
    words = np.repeat(strength.ravel().astype(int), 4)
    starts = np.flatnonzero(np.diff(words, prepend=-1))
    lengths = np.diff(np.append(starts, len(words)))
    runs = [f"100{length - 1:016b}{words[start]:08b}" for start, length in zip(starts, lengths, strict=True)]
    bits = f"{len(words):032b}{7:05b}{15:04b}{15:04b}{15:04b}{15:04b}{''.join(runs)}"
    packed = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    return "brushlabels", {"format": "rle", "rle": packed, "brushlabels": [label]}


def data_url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def bitmask(label: str, url: str | None) -> tuple[str, dict]:
    return "bitmasklabels", {"imageDataURL": url, "bitmasklabels": [label]}


def percent(*points) -> list[list[float]]:
    return [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]


KEYPOINT = ("keypointlabels", {"x": 50, "y": 50, "width": 0.5, "keypointlabels": ["bolt"]})


def label_studio(run, photos, tmp_path, *values, **more):
    tasks = [task(0, *values, **more), task(1, KEYPOINT), task(2, KEYPOINT), {**task(3), "annotations": []}]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    return run(tmp_path / "project.json", "--images", photos, "--width", 1)


def test_shapes_of_label_studio(run, photos, tmp_path):
    corner = dict(zip(("x", "y"), percent((20, 10))[0], strict=True))
    turned = {**corner, "width": 1000 / WIDTH, "height": 400 / HEIGHT, "rotation": 90, "rectanglelabels": ["bolt"]}
    vertices = [dict(zip(("x", "y"), point, strict=True)) for point in percent((50, 40), (59, 40))]
    found = label_studio(
        run,
        photos,
        tmp_path,
        ("polygonlabels", {"points": percent((30, 20), (40, 20), (40, 30), (30, 30)), "polygonlabels": ["nut"]}),
        KEYPOINT,
        ("rectanglelabels", turned),
        ("choices", {"choices": ["sharp"]}),
        ("choices", {**corner, "width": 3, "height": 3, "choices": ["bent"]}),  # of a region, with its place
        ("vectorlabels", {"vertices": vertices, "closed": False, "vectorlabels": ["nut"]}),
    )
    # A rectangle is turned about its first corner: it now reaches down and to the left.
    expected = drawn((2, 20, 30, 30, 40), (1, 24, 25, 32, 33), (1, 10, 20, 16, 20), (2, 40, 41, 50, 60))
    assert np.array_equal(found["p0"], expected) and sorted(found) == ["p0", "p1", "p2"]


def vector(*links: tuple[str, str | None], **more) -> tuple[str, dict]:
    """Return a vector of vertices, each named with the one before it, which are at these places."""
    places = {"a": (10, 10), "b": (20, 10), "c": (20, 20), "d": (10, 20), "e": (40, 40)}
    vertices = [
        {"id": name, "prevPointId": before, **dict(zip("xy", percent(places[name])[0], strict=True))}
        for name, before in links
    ]
    return "vectorlabels", {"vertices": vertices, "closed": False, "vectorlabels": ["bolt"], **more}


@pytest.mark.parametrize(
    ("links", "lines"),
    [
        ([("a", None), ("b", "a"), ("c", "b")], ["ab", "bc"]),
        ([("a", None), ("b", "a"), ("c", "b"), ("d", "a")], ["ab", "bc", "ad"]),  # a branch, or continued at its start
        ([("a", "d"), ("b", "a"), ("c", None), ("d", "c")], ["cd", "da", "ab"]),  # closed, and opened elsewhere
        ([("a", None), ("b", "a"), ("c", None), ("d", "c"), ("e", None)], ["ab", "cd", "ee"]),
    ],
)
def test_vectors_of_label_studio_follow_their_links(run, photos, tmp_path, links, lines):
    """Regression: they followed the order of the vertices, and strokes ran where nobody had drawn."""
    apart = [vector((line[0], None), (line[1], line[0])) for line in lines if line != "ee"]
    apart += [vector(("e", None), ("e", None))] * ("ee" in lines)
    expected = label_studio(run, photos, tmp_path, *apart)["p0"]
    assert np.array_equal(label_studio(run, photos, tmp_path, vector(*links))["p0"], expected)


def test_closed_vectors_of_label_studio(run, photos, tmp_path):
    ring = [("a", "d"), ("b", "a"), ("c", "b"), ("d", "c")]
    found = label_studio(run, photos, tmp_path, vector(*ring, closed=True))["p0"]
    assert np.array_equal(found, drawn((1, 10, 20, 10, 20)))
    for other in (  # the order of the vertices is not that of the ring
        [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")],
        [("b", "a"), ("d", "c"), ("a", "d"), ("c", "b")],
        [("c", "b"), ("a", None), ("b", "a"), ("d", "c")],
    ):
        found = label_studio(run, photos, tmp_path, vector(*other, closed=True))["p0"]
        assert np.array_equal(found, drawn((1, 10, 20, 10, 20)))
    branched = vector(*ring, ("e", "a"), closed=True)
    assert "found a closed vector with branches" in label_studio(run, photos, tmp_path, branched)


@pytest.mark.parametrize("strength", [255, 100, 1])
def test_brushes_of_any_strength(run, photos, tmp_path, strength):
    """Regression: what Label Studio's contour2rle had drawn, with 100 of 255, was lost."""
    values = [brush(label, (scene() == value) * strength) for value, label in ((1, "bolt"), (2, "nut"))]
    found = label_studio(run, photos, tmp_path, *values, brush("bolt", np.zeros((HEIGHT, WIDTH))))
    assert np.array_equal(found["p0"], scene(background=False))


def test_bitmasks_of_label_studio(run, photos, tmp_path):
    """The editor saves black on transparent; what is softer than half is not drawn, as of a brush."""
    bolt, nut = (np.where(scene() == value, 255, 0) for value in (1, 2))
    bolt[40, 5:9] = 128, 127, 0, 255
    values = [
        bitmask(label, data_url(np.dstack([np.zeros((HEIGHT, WIDTH, 3)), alpha])))
        for label, alpha in (("bolt", bolt), ("nut", nut))
    ]
    assert np.array_equal(label_studio(run, photos, tmp_path, *values)["p0"], dots(scene(background=False)))


def test_labels_apart_from_shapes_and_json_min(run, photos, tmp_path):
    where = {"x": 50, "y": 50, "width": 0.5}
    content = [task(n, ("keypoint", where), ("labels", {**where, "labels": ["bolt"]})) for n in range(3)]
    for entry in content:
        for result in entry["annotations"][0]["result"]:
            result["id"] = "same"
    (tmp_path / "a.json").write_text(json.dumps(content))
    expected = drawn((1, 24, 25, 32, 33))
    assert np.array_equal(run(tmp_path / "a.json", "--images", photos, "--width", 1)["p1"], expected)
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    short = [{"image": f"p{n}.png", "id": n, "annotation_id": n, "kp": [{**KEYPOINT[1], **size}]} for n in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(short))
    assert np.array_equal(run(tmp_path / "a.json", "--images", photos, "--width", 1)["p1"], expected)


@pytest.mark.parametrize(
    ("value", "more", "said"),
    [
        (("keypointlabels", {"x": 5, "y": 5, "keypointlabels": ["bolt", "nut"]}), {}, "the labels ['bolt', 'nut']"),
        (("keypoint", {"x": 5, "y": 5}), {}, "the labels []"),
        (("keypointlabels", {"x": 5, "y": 5, "keypointlabels": ["bolt"], "labels": ["nut"]}), {}, "['bolt', 'nut']"),
        (KEYPOINT, {"image_rotation": 90}, "an image turned by 90 degrees"),
        (("brushlabels", {"format": "rle", "rle": [0, 0, 1], "brushlabels": ["bolt"]}), {}, "end too early"),
        (("brushlabels", {"format": "rle", "rle": [0, 300], "brushlabels": ["bolt"]}), {}, "are no bytes"),
        (("polygonlabels", {"corners": [[1, 1]], "polygonlabels": ["bolt"]}), {}, "of the kind polygonlabels"),
        (bitmask("bolt", "data:"), {}, "a bitmask that is no PNG in base64"),
        (bitmask("bolt", None), {}, "a bitmask that is no PNG in base64"),
        (bitmask("bolt", data_url(np.zeros((HEIGHT, WIDTH)))), {}, "a bitmask without transparency, or of"),
        (bitmask("bolt", data_url(np.zeros((9, 9, 4)))), {}, "of another size than 64x48"),
    ],
)
def test_what_label_studio_writes_else_is_refused_by_name(run, photos, tmp_path, value, more, said):
    assert said in label_studio(run, photos, tmp_path, value, **more)


def test_one_person_a_task(run, photos, tmp_path):
    tasks = [task(n, KEYPOINT) for n in range(3)]
    tasks[0]["annotations"] += task(0, ("keypointlabels", {**KEYPOINT[1], "keypointlabels": ["nut"]}))["annotations"]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert "2 annotations of task 0" in run(tmp_path / "a.json", "--images", photos)
    tasks[0]["annotations"][0]["was_cancelled"] = True
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert run(tmp_path / "a.json", "--images", photos)["p0"][24, 32] == 2


# --- VIA ------------------------------------------------------------------------------------------------------------

VIA = [
    ({"name": "polyline", "all_points_x": [2, 9], "all_points_y": [3, 3]}, (3, 4, 2, 10)),
    ({"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [20, 20, 30, 30]}, (20, 30, 10, 30)),
    ({"name": "rect", "x": 30, "y": 5, "width": 4, "height": 2}, (5, 7, 30, 34)),
    ({"name": "point", "cx": 60, "cy": 40}, (40, 41, 60, 61)),
]


def via(form: str, folder: Path, attributes: dict) -> Path:
    entries = {}
    for number in range(3):
        shapes = [{"shape_attributes": shape, "region_attributes": attributes} for shape, _ in VIA]
        regions = dict(enumerate(shapes)) if form == "via1" else shapes
        entries[f"p{number}.png123"] = {
            "filename": f"p{number}.png",
            "size": 123,
            "regions": regions,
            "file_attributes": {},
        }
    file = folder / ("via.csv" if form == "csv" else "via.json")
    if form == "csv":
        names = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        with file.open("w", newline="") as lines:
            table = csv.writer(lines)
            table.writerow(names.split(","))
            for entry in entries.values():
                for n, region in enumerate(entry["regions"]):
                    texts = [json.dumps(region["shape_attributes"]), json.dumps(region["region_attributes"])]
                    table.writerow([entry["filename"], 123, "{}", 4, n, *texts])
    else:
        file.write_text(
            json.dumps({"_via_settings": {}, "_via_img_metadata": entries} if form == "project" else entries)
        )
    return file


@pytest.mark.parametrize("form", ["via1", "via2", "project", "csv"])
def test_every_form_of_via(run, photos, tmp_path, form):
    file = via(form, tmp_path, {"part": {"bolt": True} if form == "via2" else "bolt"})
    found = run(file, "--images", photos, "--width", 1)
    assert len(found) == 3 and np.array_equal(found["p2"], drawn(*((1, *where) for _, where in VIA)))


def test_turned_photographs_in_via(run, photos, tmp_path, capsys):
    """VIA does not say on which size was drawn: browsers show a photograph upright, and this is said."""
    turn(photos / "p1.png")
    found = run(via("via2", tmp_path, {"part": "bolt"}), "--images", photos, "--width", 1)
    assert np.array_equal(found["p1"], drawn(*((1, *where) for _, where in VIA)))
    assert "1 photographs carry an EXIF rotation" in capsys.readouterr().out


def test_deeply_nested_json_in_a_table(run, photos, tmp_path):
    """Regression: a traceback."""
    file = via("csv", tmp_path, {"part": "bolt"})
    file.write_text(file.read_text().replace('{""part"": ""bolt""}', "[" * 100_000, 1))
    assert "nested too deeply" in run(file, "--images", photos)


def test_a_region_of_via_with_many_points(run, photos, tmp_path):
    """Regression: a field of more than 131,072 characters was a traceback."""
    file = via("csv", tmp_path, {"part": "bolt"})
    text = file.read_text()
    points = ", ".join(["10"] * 40_000)
    file.write_text(text.replace('""all_points_x"": [2, 9]', f'""all_points_x"": [{points}]', 1))
    assert "with more x than y" in run(file, "--images", photos)


def test_the_attribute_that_holds_the_class(run, photos, tmp_path):
    file = via("via2", tmp_path, {"part": "bolt", "quality": "good"})
    assert "the attributes part, quality: say which holds the class with --attribute" in run(file, "--images", photos)
    assert run(file, "--images", photos, "--attribute", "part")["p0"][25, 15] == 1
    assert "whose attribute 'colour' is empty" in run(file, "--images", photos, "--attribute", "colour")
    file.write_text(file.read_text().replace("p1.png123", "p0.png123"))
    assert "'p0.png123' twice in one object" in run(file, "--images", photos, "--attribute", "part")
    file.write_text(json.dumps({"project": {}, "config": {}, "metadata": {}, "view": {}}))
    assert "a project of VIA 3" in run(file, "--images", photos)


# --- QuPath ---------------------------------------------------------------------------------------------------------


def feature(kind: str, points, name: str | None = "bolt", **plane) -> dict:
    found = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    geometry = {"type": kind, "coordinates": points, **({"plane": plane} if plane else {})}
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": {"objectType": "annotation", **found}}


def ring(left, top, right, bottom) -> list:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def qupath(run, photos, *features, form=lambda features: {"type": "FeatureCollection", "features": features}):
    for number in range(3):
        (photos / f"p{number}.geojson").write_text(json.dumps(form(list(features))))
    return run(photos, "--width", 1)


def test_shapes_of_qupath(run, photos):
    features = (
        feature("Polygon", [ring(10, 20, 30, 30), ring(14, 23, 18, 27)]),
        feature("MultiPolygon", [[ring(2, 40, 5, 43)], [ring(50, 40, 53, 43)]], "nut"),
        feature("LineString", [[2, 3], [9, 3]], "nut"),
        feature("MultiPoint", [[60, 10], [62, 10]]),
        feature("Polygon", [ring(40, 20, 44, 24)]),
        feature("Polygon", [ring(40, 20, 44, 24)], "Ignore*"),
    )
    expected = drawn((1, 20, 30, 10, 30), (U, 23, 27, 14, 18), (2, 40, 43, 2, 5), (2, 40, 43, 50, 53), (2, 3, 4, 2, 10))
    expected[10, [60, 62]] = 1
    for form in (lambda f: f, lambda f: {"type": "FeatureCollection", "features": f}):
        assert np.array_equal(qupath(run, photos, *features, form=form)["p1"], expected)


def test_an_ellipse_of_qupath(run, photos):
    """Regression: it was the coarse polygon that QuPath writes beside the sign of an ellipse."""
    outline = [[9, 24], [15, 10], [32, 4], [49, 10], [55, 24], [49, 38], [32, 44], [15, 38], [9, 24]]
    ellipse = feature("Polygon", [outline])
    ellipse["geometry"]["isEllipse"] = True
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    found = qupath(run, photos, ellipse)["p0"] == 1
    assert np.array_equal(found, ((x - 32) / 23) ** 2 + ((y - 24) / 20) ** 2 <= 1)


def turn(path: Path) -> None:
    """Store a photograph turned by a quarter, and say so by its EXIF tag."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_a_photograph_that_qupath_shows_unturned(run, photos):
    """Regression: what was drawn on it was drawn on the turned one, without a word."""
    turn(photos / "p1.png")
    line = qupath(run, photos, feature("LineString", [[2, 3], [9, 3]]))
    assert f"found one in {photos / 'p1.png'}: save it without that tag" in line


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (feature("Polygon", [ring(1, 1, 9, 9)], None), "a Polygon without a class"),
        (feature("Polygon", [ring(1, 1, 9, 9)]) | {"properties": None}, "a Polygon without a class"),
        (feature("Point", [1, 1, 1]), "a point of 'bolt'"),
        (feature("Point", [1, 1], z=2, t=0, c=-1), "on another plane"),
        (feature("Polygon", [ring(9000, 1, 9009, 9)]), "a polygon at x 9000"),
        (feature("Triangle", [1, 1]), "a Triangle of 'bolt'"),
    ],
)
def test_what_qupath_writes_else_is_refused_by_name(run, photos, found, said):
    assert said in qupath(run, photos, found)


def test_scribbles_as_truth_are_said(run, photos, capsys):
    """Regression: all beside the strokes became background without a word."""
    labelme(photos, {"label": "bolt", "shape_type": "line", "points": [[2, 3], [9, 3]]})
    assert len(run(photos, "--truth", kind="SegmentationClassAug")) == 3
    assert "WARNING: 3 images have lines or dots (first" in capsys.readouterr().out
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    assert len(run(photos, "--truth", kind="SegmentationClassAug")) == 3
    assert "WARNING" not in capsys.readouterr().out


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_large_photographs(run, photos, tmp_path, monkeypatch):
    """Regression: what Pillow takes for an attack was a traceback, and what is too large to train on was imported."""
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        for name in ("labelme", "pycocotools"):
            assert call(import_scribbles, TOOLS / name, tmp_path / name, "--images", photos) == 0
    monkeypatch.setattr(images, "LARGEST", 3000)
    line = run(TOOLS / "pycocotools", "--images", photos)
    assert f"expected an image of at most 3,000 pixels, found 64x48 in {photos / 'p0.png'}: cut it" in line


# --- labelme and X-AnyLabeling --------------------------------------------------------------------------------------


def labelme(folder: Path, *shapes) -> Path:
    for number in range(3):
        content = {"version": "4.0.0", "flags": {}, "shapes": shapes, "imagePath": f"p{number}.png", "imageData": None}
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / f"p{number}.json").write_text(json.dumps(content))
    return folder


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("L", (width, height), 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CORNERS = [[10, 20], [29, 20], [29, 29], [10, 29]]


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle", "quadrilateral", "polygon"])
def test_rectangles_of_four_corners(run, photos, kind):
    """Regression: a rectangle of four corners became a line along its upper side."""
    shape = {"label": "bolt", "shape_type": kind, "points": CORNERS, "direction": 0.0, "attributes": {}, "mask": None}
    assert np.array_equal(run(labelme(photos, shape))["p0"], drawn((1, 20, 30, 10, 30)))


@pytest.mark.parametrize(
    "shape",
    [
        {"shape_type": "rectangle", "points": CORNERS[:3]},
        {"shape_type": "rectangle", "points": CORNERS[:2], "rotation": 30},
        {"shape_type": "rotation", "points": CORNERS[:2]},
        {"shape_type": "linestrip", "points": [[1, 2, 0.9], [3, 4, 0.9]]},  # not three points of two numbers
        {"shape_type": "circle", "points": CORNERS},
        {"shape_type": "point", "points": [[1e300, 5]]},
        {"shape_type": "point", "points": [[float("inf"), 5]]},
        {"shape_type": "line", "points": [[-900, 5], [3, 5]]},
        {"shape_type": "point", "points": [[80, 5]]},
        {"shape_type": "cuboid", "points": CORNERS},
        {"shape_type": "line", "points": [["a", "b"], ["c", "d"]]},
        {"shape_type": "line", "points": 5},
        {"shape_type": "line", "points": CORNERS, "label": None},
        {"shape_type": "mask", "points": CORNERS[:3:2], "mask": "AAAA"},
        {"shape_type": "mask", "points": CORNERS[:3:2], "mask": png(4, 4)},
        {"shape_type": "mask", "points": [[50, 20], [69, 29]], "mask": png(20, 10)},
    ],
)
def test_shapes_that_are_not_what_they_say_are_refused(run, photos, shape):
    line = run(labelme(photos, {"label": "bolt", **shape}))
    assert isinstance(line, str) and "p0.json" in line


# --- sources --------------------------------------------------------------------------------------------------------


def test_two_formats_in_one_folder(run, photos, tmp_path, capsys):
    shape = {"label": "bolt", "shape_type": "rectangle", "points": CORNERS}
    labelme(photos, shape)
    (photos / "all.json").write_text(json.dumps(coco({"image_id": 0, "bbox": [1, 1, 3, 3]})))
    assert "expected annotations of one format, found" in run(photos)
    assert call(import_scribbles, "coco", photos, tmp_path / "named") == 0
    assert "left out: 3 files of labelme" in capsys.readouterr().out
    (photos / "all.json").write_text('{"a": 1}')
    assert "no 'shapes'" in run(photos)
    assert "found nothing at" in run(photos / "none")


def test_files_that_no_format_reads_are_said(run, photos, tmp_path, capsys):
    """Regression: labels of another kind, and a ZIP within the export, were left out without a word."""
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    for name in ("notes.txt", "README.md", "labels.zip", "p3.npy", "p4.xml"):
        (photos / name).write_text("<a/>")
    assert len(run(photos)) == 3
    said = f"left out: 3 files of kinds that are not read (first {photos / 'labels.zip'})"
    assert said in capsys.readouterr().out


def test_photographs_of_one_name_in_two_folders(run, photos, tmp_path):
    for folder in ("a", "b"):
        shutil.copytree(photos, tmp_path / "both" / folder)
    (tmp_path / "both/annotations.json").write_text(json.dumps(coco({"image_id": 0, "bbox": [1, 1, 3, 3]})))
    assert "expected one photograph 'p0.png'" in run(tmp_path / "both")
    content = coco({"image_id": 0, "bbox": [1, 1, 3, 3]})
    for image in content["images"]:
        image["file_name"] = f"C:\\data\\b\\{image['file_name']}"
    (tmp_path / "both/annotations.json").write_text(json.dumps(content))
    assert len(run(tmp_path / "both")) == 3


def test_photographs_of_kinds_that_are_not_read(run, photos):
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    (photos / "p1.png").rename(photos / "p1.psd")
    assert "p1.psd, whose kind is not read" in run(photos)


def test_embedded_photographs_are_called_by_their_content(run, photos, tmp_path):
    for name in ("p0", "p1", "p2"):
        content = json.loads((labelme(photos) / f"{name}.json").read_text())
        content["shapes"] = [{"label": "bolt", "shape_type": "rectangle", "points": CORNERS}]
        content |= {"imagePath": f"{name}.HEIC", "imageData": png(WIDTH, HEIGHT)}
        (photos / f"{name}.png").unlink()
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for path in tmp_path.glob("*.json"):
        path.replace(photos / path.name)
    assert len(run(photos)) == 3
    assert sorted(path.name for path in (tmp_path / "data/JPEGImages").iterdir()) == ["p0.png", "p1.png", "p2.png"]


def test_photographs_in_heic(run, photos, tmp_path):
    heif = pytest.importorskip("pillow_heif")
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    picture = Image.open(photos / "p1.png")
    heif.from_pillow(picture).save(photos / "p1.HEIC", quality=90)
    (photos / "p1.png").unlink()
    assert len(run(photos)) == 3
    assert Image.open(tmp_path / "data/JPEGImages/p1.jpg").size == picture.size


# --- masks ----------------------------------------------------------------------------------------------------------

NUMBERS = np.where(scene() == U, 0, scene()).astype(np.uint8)  # 0, 1 and 2


@pytest.fixture
def masks(run, photos, tmp_path):
    """Return a function that imports pictures which `save` writes, by their numbers or with a table of colours."""
    folder = tmp_path / "masks"
    folder.mkdir()
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")

    def imported(save, *words, suffix="png"):
        for number in range(3):
            save(folder / f"p{number}.{suffix}")
        return run(folder, "--images", photos, *(words or ["--classes", tmp_path / "names.txt"]))

    return imported


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        (np.uint8, "png"),
        (np.uint8, "gif"),
        (np.uint16, "png"),
        (np.uint16, "tif"),
        (np.int32, "tif"),
        (np.float32, "tif"),
    ],
)
def test_numbers_of_every_kind(masks, kind, suffix):
    found = masks(lambda path: Image.fromarray(NUMBERS.astype(kind)).save(path), suffix=suffix)
    assert len(found) == 3 and np.array_equal(found["p0"], NUMBERS)


def test_the_size_of_a_mask_is_seen_before_its_pixels(masks):
    """Regression: a few bytes that say they are so many pixels took a minute and gigabytes."""

    def save(path: Path) -> None:
        Image.fromarray(NUMBERS.astype(np.uint8)).save(path)
        content = path.read_bytes()
        path.write_bytes(content[:6] + 2 * (9000).to_bytes(2, "little") + content[10:])

    assert "found 9000x9000 in" in masks(save, suffix="gif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_with_an_exif_rotation(masks, suffix):
    """Regression: it was obeyed in a TIFF, and ignored in other files."""
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.fromarray(NUMBERS.astype(np.uint8))
    line = masks(lambda path: picture.save(path, exif=exif), suffix=suffix)
    assert "expected a mask without an EXIF rotation, found one in" in line and f"p0.{suffix}" in line


@pytest.mark.parametrize(
    "text",
    ["# mine\nbackground\nbolt\nnut", "[\n'background',\n'bolt']", "0: background\n1: bolt", "- background\n- bolt"],
)
def test_class_lists_of_another_form(run, photos, tmp_path, text):
    """Regression: a comment became a class, by which all numbers were shifted."""
    (tmp_path / "list.txt").write_text(text)
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    line = run(photos, "--classes", tmp_path / "list.txt")
    assert "expected one class name a line, found '" in line and "list.txt: leave out comments" in line


def test_numbers_in_a_gif(masks):
    """Regression: writers leave out the numbers that do not occur, so that the number 2 was read as 1."""
    values = np.where(NUMBERS == 1, 2, NUMBERS).astype(np.uint8)
    assert np.array_equal(masks(lambda path: Image.fromarray(values).save(path), suffix="gif")["p0"], values)
    assert "found a GIF with colours" in masks(lambda path: write_label(path, values), suffix="gif")


def test_a_gif_that_pillow_fails_on(tmp_path):
    """Regression: an IndexError."""
    content = bytes.fromhex(
        "4749463837610c000900810000000000010101020202ffffff2c000000000c000900000900000820000104102090e0c08203122a5cc8"
        "b0a1c38705231e1cf8b0a2c58a120d6a0c2ce2023c7e086a0c2ce2023c7e08520d"
    )
    (tmp_path / "a.gif").write_bytes(content)
    assert "a.gif: index out of range" in message(pixel_values, tmp_path / "a.gif", numbers=True, size=(12, 9))


def test_numbers_in_a_palette_count_where_it_is_transparent(masks):
    """Regression: a background that is transparent, so that the photograph can be seen, was unlabelled."""

    def save(path: Path) -> None:
        picture = Image.fromarray(NUMBERS.astype(np.uint8))
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        picture.save(path, transparency=0)

    assert np.array_equal(masks(save)["p0"], NUMBERS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits(masks, bits):
    """Regression: Pillow stretches it to 0-255, so that the number 1 of 4 bits became 17."""
    values = NUMBERS % 2**bits
    assert np.array_equal(masks(lambda path: write_grey_png(path, values, bits))["p1"], values)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.where(NUMBERS == 0, -1, NUMBERS.astype(np.int32)), "mostly -1"),
        (np.where(NUMBERS == 1, 300, NUMBERS.astype(np.uint16)), "mostly 300 (200 pixels)"),
        (np.where(NUMBERS == 1, 1.5, NUMBERS.astype(np.float32)), "found fractions"),
        (np.where(NUMBERS == 1, 255, NUMBERS).astype(np.uint8), "--map=255=CLASS or --unlabelled 255"),
        (np.dstack([NUMBERS, 0 * NUMBERS, NUMBERS]), "mostly (1, 0, 1)"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(masks, picture, said):
    """Regression: -1 became 0, and 300 and 65535 both 255."""
    line = masks(lambda path: Image.fromarray(picture).save(path), suffix="tif")
    assert said in line and "p0.tif" in line


def test_signed_numbers(masks, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    signed = np.where(NUMBERS == 0, -1, NUMBERS.astype(np.int8))
    for kind in (np.int8, np.int16, np.int64):

        def save(path: Path, kind=kind) -> None:
            tifffile.imwrite(path, signed.astype(kind))

        assert "mostly -1" in masks(save, suffix="tif")
        words = ["--classes", tmp_path / "names.txt", "--unlabelled", -1]
        assert np.array_equal(masks(save, *words, suffix="tif")["p0"], np.where(NUMBERS == 0, U, NUMBERS))


def test_pages_beyond_the_first_are_refused(masks):
    def save(path: Path) -> None:
        Image.fromarray(NUMBERS).save(path, save_all=True, append_images=[Image.fromarray(2 - NUMBERS)])

    assert "found 2 pages" in masks(save, suffix="tif")


def test_values_of_masks_by_option(masks, tmp_path):
    (tmp_path / "two.txt").write_text("background\nbolt\n")
    words = ["--classes", tmp_path / "two.txt", "--map", "255=1"]
    stored = np.where(NUMBERS == 1, 255, NUMBERS).astype(np.uint8)

    def save(path: Path) -> None:
        Image.fromarray(stored).save(path)

    assert np.array_equal(masks(save, *words, "--map", "2=0")["p0"], np.where(NUMBERS == 1, 1, 0))
    assert np.array_equal(masks(save, *words, "--unlabelled", 2)["p0"], np.where(NUMBERS == 2, U, NUMBERS))
    for wrong in ("1", "1=300", "a=b", "1=0,1=1"):
        assert "argument --map: expected" in masks(save, "--map", wrong)


def test_masks_beside_their_photographs(run, photos, capsys):
    """Regression: no route but to rename every file. Roboflow: x.jpg and x_mask.png in one folder, _classes.csv."""
    for part in ("train", "valid"):
        (photos / part).mkdir()
        (photos / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, bolt\n2, nut\n")
    for number, part in enumerate(("train", "train", "valid")):
        stem = f"p{number}_jpg.rf.0a1b{number}"
        (photos / f"p{number}.png").rename(photos / part / f"{stem}.png")
        Image.fromarray(NUMBERS).save(photos / part / f"{stem}_mask.png")
    shutil.copy(photos / "train/p0_jpg.rf.0a1b0.png", photos / "train/unlabelled.png")
    found = run(photos)
    assert sorted(found) == [f"p{n}_jpg.rf.0a1b{n}" for n in range(3)]
    assert all(np.array_equal(label, NUMBERS) for label in found.values())
    (photos / "valid/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, nut\n2, bolt\n")
    assert "expected one table of classes" in run(photos)


@pytest.mark.parametrize("folder", ["masks", "Labels", "SegmentationClass"])
def test_folders_of_photographs_and_masks_side_by_side(run, photos, tmp_path, folder):
    photos.rename(tmp_path / "images")
    for kind in (folder, "SegmentationObject"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(NUMBERS).save(tmp_path / "set" / kind / f"p{number}.png")
    (tmp_path / "images").rename(tmp_path / "set/images")
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    found = run(tmp_path / "set", "--classes", tmp_path / "names.txt")
    assert len(found) == 3 and np.array_equal(found["p1"], NUMBERS)


@pytest.mark.parametrize("ending", ["_mask", "_Labels", "-labelled", " Simple Segmentation", ""])
def test_masks_with_a_suffix_in_a_folder_of_their_own(run, photos, tmp_path, ending):
    folder = tmp_path / "masks"
    folder.mkdir()
    shutil.copy(photos / "p0.png", photos / "p.png")  # whose name begins those of the others
    for number in range(3):
        Image.fromarray(NUMBERS).save(folder / f"p{number}{ending}.png")
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    found = run(folder, "--images", photos, "--classes", tmp_path / "names.txt")
    assert sorted(found) == ["p0", "p1", "p2"] and np.array_equal(found["p2"], NUMBERS)


def test_what_masks_need_is_said(run, photos):
    line = run(photos)
    assert "expected annotations, or photographs and masks, called x.jpg and x_mask.png, found p0.png to p2.png" in line
    assert line.endswith("put the masks into a folder of their own, and name that of the photographs with --images")
    for number in range(3):
        Image.fromarray(NUMBERS).save(photos / f"p{number}_mask.png")
    assert "masks needs --colours FILE, the class of each colour" in run(photos)


def test_masks_beside_boxes_of_voc(run, photos, tmp_path):
    """Regression: where one file of boxes was empty, the format was taken for ScribbleSup's."""
    (tmp_path / "set/Annotations").mkdir(parents=True)
    shutil.copytree(TOOLS / "datumaro/voc", tmp_path / "set", dirs_exist_ok=True)
    photos.rename(tmp_path / "set/JPEGImages")
    for number, boxes in enumerate(("<object><name>bolt</name><bndbox/></object>", "", "")):
        (tmp_path / f"set/Annotations/p{number}.xml").write_text(f"<annotation><segmented/>{boxes}</annotation>")
    assert "put 'masks' before SOURCE" in run(tmp_path / "set")
    assert call(import_scribbles, "masks", tmp_path / "set", tmp_path / "data", "--truth") == 0


# --- the way back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labelme", "cvat", "coco", "masks"])
def test_predictions_come_back_as_they_were(run, photos, tmp_path, name):
    """Noise has regions of every shape: holes, single pixels, lines, corners that touch."""
    rng = np.random.default_rng(3)
    rings = np.hypot(*(np.indices((HEIGHT, WIDTH)) - 20)) // 5 % 3
    labels = [rng.integers(0, 3, (HEIGHT, WIDTH)), rings, np.kron(rng.integers(0, 3, (6, 8)), np.ones((8, 8)))]
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    (tmp_path / "classes.txt").write_text("background\nbolt\nnut\n")
    for number, label in enumerate(labels):
        write_label(predictions / f"p{number}_prediction.png", label)
        Image.new("RGB", (WIDTH, HEIGHT)).save(predictions / f"p{number}_overlay.png")
    assert call(export_annotations, predictions, "--format", name, "--images", photos) == 0
    images = [] if name == "labelme" else ["--images", photos]  # labelme's files say where the photographs are
    found = run(predictions / name, *images, "--truth", kind="SegmentationClassAug")
    assert all(np.array_equal(found[f"p{number}"], label) for number, label in enumerate(labels))
    assert (tmp_path / "data/classes.txt").read_text() == "background\nbolt\nnut\n"


def test_what_cannot_be_exported_is_said(photos, tmp_path, capsys):
    words = [tmp_path / "predictions", "--format", "coco", "--images", photos]
    (tmp_path / "predictions").mkdir()
    assert call(export_annotations, *words) == 2
    assert "expected the class names in" in one_line(capsys)
    (tmp_path / "classes.txt").write_text("bolt\nnut\n")
    assert call(export_annotations, *words) == 2
    assert "expected a background" in one_line(capsys)
    (tmp_path / "classes.txt").write_text("background\nbolt\n")
    assert call(export_annotations, *words) == 2
    assert "found none in" in one_line(capsys)
    for name, value, said in (("p0", 2, "found 2"), ("p0", U, "expected a class at every pixel"), ("p7", 1, "'p7'")):
        write_label(tmp_path / f"predictions/{name}_prediction.png", np.full((HEIGHT, WIDTH), value))
        assert call(export_annotations, *words) == 2
        assert said in one_line(capsys)
        (tmp_path / f"predictions/{name}_prediction.png").unlink()
    assert not (tmp_path / "predictions/coco").exists()
    (tmp_path / "classes.txt").write_text("background\nbolt: M8\n")
    write_label(tmp_path / "predictions/p0_prediction.png", np.ones((HEIGHT, WIDTH)))
    assert call(export_annotations, *words[:2], "masks", *words[3:]) == 2
    assert "found 'bolt: M8'" in one_line(capsys)


def test_refined_predictions_are_exported_on_demand(photos, tmp_path, capsys):
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    (tmp_path / "classes.txt").write_text("background\nbolt\n")
    write_label(predictions / "p0_prediction.png", np.zeros((HEIGHT, WIDTH)))
    write_label(predictions / "p0_crf.png", np.ones((HEIGHT, WIDTH)))
    words = [predictions, "--format", "masks", "--images", photos, "--output"]
    assert call(export_annotations, *words, tmp_path / "plain") == 0
    assert "refined predictions too (*_crf.png): --crf exports these" in capsys.readouterr().out
    assert call(export_annotations, *words, tmp_path / "refined", "--crf") == 0
    masks = [np.array(Image.open(tmp_path / f"{name}/SegmentationClass/p0.png")) for name in ("plain", "refined")]
    assert len(np.unique(masks[0])) == len(np.unique(masks[1])) == 1 and not np.array_equal(*masks)


def test_predictions_that_do_not_fit_are_not_exported(photos, tmp_path, capsys):
    """Regression: an older one in a sub-folder won, and the size was not looked at."""
    predictions = tmp_path / "predictions"
    (predictions / "old").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("background\nbolt\n")
    words = [predictions, "--format", "labelme", "--images", photos]
    for folder in (predictions, predictions / "old"):
        write_label(folder / "p0_prediction.png", np.ones((HEIGHT, WIDTH)))
    assert call(export_annotations, *words) == 2
    assert "expected one prediction of each photograph" in one_line(capsys)
    shutil.rmtree(predictions / "old")
    write_label(predictions / "p0_prediction.png", np.ones((HEIGHT, HEIGHT)))
    assert call(export_annotations, *words) == 2
    assert f"{WIDTH}x{HEIGHT}" in one_line(capsys)


@pytest.mark.parametrize("form", ["via2", "csv"])
def test_two_photographs_of_one_name_in_via(run, photos, tmp_path, form):
    """Regression: what was drawn on both landed on one. VIA knows no folders, only names and sizes of files."""
    file = via(form, tmp_path, {"part": "bolt"})
    text, json_entry = file.read_text(), '"p1.png123": {"filename": "p1.png", "size": 123'
    text = text.replace(json_entry, '"p0.png124": {"filename": "p0.png", "size": 124').replace(
        "p1.png,123", "p0.png,124"
    )
    file.write_text(text)
    assert "found those of 'p0.png'" in run(file, "--images", photos)


def test_a_row_of_via_that_was_cut_off(run, photos, tmp_path):
    """Regression: its image was taken for one on which nothing is drawn, in full truth for background throughout."""
    file = via("csv", tmp_path, {"part": "bolt"})
    file.write_text(file.read_text() + "p0.png,123\n")
    assert "a row of 'p0.png' with too few or too many columns" in run(file, "--images", photos)


def test_the_csv_of_via_1_0(run, photos, tmp_path):
    file = via("csv", tmp_path, {"part": "bolt"})
    file.write_text("#" + file.read_text())
    assert len(run(file, "--images", photos)) == 3


def test_numbers_by_the_labels_of_labelme(masks, tmp_path):
    """Regression: labelme numbers __ignore__ as -1, so that every class was taken for the one before it."""
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nbolt\nnut\n")
    found = masks(lambda path: Image.fromarray(NUMBERS).save(path), "--classes", tmp_path / "labels.txt")
    assert np.array_equal(found["p0"], NUMBERS)


@pytest.mark.parametrize(
    ("suffix", "how"),
    [("jpg", {}), ("webp", {}), ("webp", {"icc_profile": b"x"}), ("tif", {"compression": "jpeg"})],
)
def test_numbers_that_the_compression_changes_are_refused(masks, suffix, how):
    """Regression: along every edge, the compression made other classes; of WebP, and of JPEG in a TIFF, still."""
    line = masks(lambda path: Image.fromarray(NUMBERS).save(path, **how), suffix=suffix)
    assert "whose compression changes them" in line


@pytest.mark.parametrize("how", [{}, {"icc_profile": b"x"}])
def test_numbers_in_a_webp_without_loss(masks, how):
    found = masks(lambda path: Image.fromarray(NUMBERS).save(path, lossless=True, **how), suffix="webp")
    assert np.array_equal(found["p0"], NUMBERS)


@pytest.mark.parametrize("name", ["all.ndjson", "p0.txt", "export.zip", "p0.npy"])
@pytest.mark.parametrize("named", [False, True])
def test_photographs_beside_annotations_that_are_not_read(run, photos, name, named):
    """Regression: the photographs were taken for masks, and their folder asked for."""
    (photos / name).write_text("x")
    line = run(photos, *(["--images", photos] if named else []))
    assert f"found {photos / name}" in line and ("export one of these" in line or "unpack it" in line)
    assert "put 'masks'" not in line  # Regression: with that it failed too, as no picture is called as a mask


def test_labels_that_are_not_read_are_named(run, photos, tmp_path):
    """Regression: none were said to be there. ilastik exports HDF5 unless told otherwise."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/p0_Labels.h5").write_bytes(b"x")
    line = run(tmp_path / "labels", "--images", photos)
    assert f"found {tmp_path / 'labels/p0_Labels.h5'}: export one of these" in line


@pytest.mark.parametrize("wrong", [{"segmentation": [[1, 2, 3, 4]]}, {"bbox": [900, 2, 5, 5]}])
def test_the_photograph_is_named_where_one_file_has_all(run, photos, tmp_path, wrong):
    (tmp_path / "a.json").write_text(json.dumps(coco({"image_id": 1, **wrong})))
    assert "image 'p1.png'" in run(tmp_path / "a.json", "--images", photos)


@pytest.mark.parametrize(
    "name", ["20240101-p0", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "Shot_20240101-12", "Foto 1 (2)"]
)
def test_names_of_uploads_to_label_studio(run, photos, tmp_path, name):
    """Regression: whatever looked like its prefix was cut out anywhere, and another photograph found."""
    shutil.copy(photos / "p0.png", photos / f"{name}.png")
    content = [task(number, KEYPOINT) for number in range(3)]
    uploaded = name.translate({ord(" "): "_", ord("("): "", ord(")"): ""})
    content[0]["data"]["image"] = f"/data/upload/3/0a1b2c3d-{uploaded}.png"
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert sorted(run(tmp_path / "a.json", "--images", photos)) == sorted([name, "p1", "p2"])


def test_regions_on_two_images_of_a_task(run, photos, tmp_path):
    """Regression: those on the second image were drawn on the first."""
    content = [task(number, KEYPOINT, KEYPOINT) for number in range(3)]
    content[0]["annotations"][0]["result"][1]["to_name"] = "other"
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert "regions on several images" in run(tmp_path / "a.json", "--images", photos)


@pytest.fixture
def one_class_each(run, photos, tmp_path):
    """Return a function that imports a mask for each class and photograph, each saved by a function of its own."""
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")

    def imported(pattern: str, *words, named=True, kind="pascal_2012_scribble", **savers):
        shutil.rmtree(tmp_path / "masks", ignore_errors=True)
        for label, save in savers.items():
            for number in range(3):
                path = tmp_path / "masks" / pattern.format(number=number, label=label)
                path.parent.mkdir(parents=True, exist_ok=True)
                save(path)
        names = ["--classes", tmp_path / "names.txt"] if named else []
        return run(tmp_path / "masks", "--images", photos, *names, *words, kind=kind)

    return imported


def grey(drawn: np.ndarray, value: int = 255):
    return lambda path: Image.fromarray(np.where(drawn, value, 0).astype(np.uint8)).save(path)


def on_transparent(drawn: np.ndarray, *colour: int):
    pixels = np.dstack([np.full((HEIGHT, WIDTH, 3), colour), np.where(drawn, 255, 0)]).astype(np.uint8)
    return lambda path: Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("pattern", ["p{number}_{label}.png", "p{number} - {label}.tif", "{label}/p{number}.png"])
def test_masks_of_one_class_each(one_class_each, pattern):
    """Regression: no photograph was found, or one for several masks; masks in folders of classes all were class 1."""
    black = on_transparent(scene() == 2, 0, 0, 0)
    found = one_class_each(pattern, background=grey(scene() == 0, 7), BOLT=grey(scene() == 1, 1), nut=black)
    assert len(found) == 3 and all(np.array_equal(label, scene()) for label in found.values())


def test_masks_of_one_class_each_as_truth(one_class_each):
    parts = {"bolt": grey(scene() == 1), "void": grey(scene() == 2)}
    found = one_class_each("p{number}_{label}.png", "--truth", kind="SegmentationClassAug", **parts)
    assert np.array_equal(found["p1"], np.where(scene() == 1, 1, np.where(scene() == 2, U, 0)))


def test_what_masks_of_one_class_each_must_not_be(one_class_each):
    bolt, nut, pattern = scene() == 1, scene() == 2, "p{number}_{label}.png"
    line = one_class_each(pattern, bolt=grey(bolt), nut=grey(bolt | nut))
    assert "found 200 that are drawn in" in line and "p0_bolt.png" in line and "p0_nut.png" in line
    assert "do not take --map" in one_class_each(pattern, "--map", "255=1", bolt=grey(bolt), nut=grey(nut))
    assert "found 2 colours in" in one_class_each(pattern, bolt=grey(bolt), nut=Image.fromarray(NUMBERS).save)
    line = one_class_each(pattern, bolt=grey(bolt), screw=grey(nut))
    assert "all with one ending, found" in line and "name the classes with --classes FILE" in line
    assert "all with one ending, found" in one_class_each(pattern, named=False, bolt=grey(bolt), nut=grey(nut))
    line = one_class_each("{label}/p{number}.png", bolt=grey(bolt), screw=grey(nut))
    assert "of masks of one class each: call them, or their folders, after the classes" in line


@pytest.mark.parametrize("pattern", ["{label}/p{number}.png", "p{number}_{label}.png"])
def test_classes_called_as_folders_of_masks(one_class_each, tmp_path, pattern):
    """Regression: only the pictures in such a folder were masks, and the other classes were lost without a word."""
    (tmp_path / "names.txt").write_text("background\nmask\nlabel\n")
    parts = {"background": grey(scene() == 0), "mask": grey(scene() == 1, 1), "label": grey(scene() == 2, 1)}
    found = one_class_each(pattern, **parts)
    assert len(found) == 3 and all(np.array_equal(label, scene()) for label in found.values())


def test_masks_outside_the_folders_of_masks_are_said(run, photos, tmp_path, capsys):
    """Regression: they were left out without a word."""
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    for number in range(3):
        Image.open(photos / f"p{number}.png").save(photos / f"q{number}.png")
        for path in (tmp_path / f"export/masks/p{number}.png", tmp_path / f"export/more/q{number}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(NUMBERS).save(path)
    shutil.copytree(photos, tmp_path / "export/JPEGImages")  # copies of the photographs are no masks
    words = ["--images", photos, "--classes", tmp_path / "names.txt"]
    assert call(import_scribbles, tmp_path / "export", tmp_path / "data", *words) == 0
    assert "WARNING: left out: 3 pictures outside the folders of masks (first" in capsys.readouterr().out
    for path in (tmp_path / "export/masks").iterdir():
        path.replace(photos / path.name.replace(".png", "_mask.png"))
    (photos / "q0.png").replace(photos / "p0_labeled.png")
    assert call(import_scribbles, photos, tmp_path / "data2", "--classes", tmp_path / "names.txt") == 0
    assert "1 of these are called as another photograph and an ending (first" in capsys.readouterr().out


def test_a_mask_whose_name_can_be_read_in_two_ways(run, photos, tmp_path):
    """Regression: it went to the wrong photograph."""
    (photos / "p1.png").rename(photos / "p0_dead.png")
    (tmp_path / "names.txt").write_text("background\nspot\ndead_spot\n")
    folder = tmp_path / "masks"
    folder.mkdir()
    for photograph in ("p0", "p0_dead", "p2"):
        for label, value in (("spot", 1), ("dead_spot", 2)):
            grey(scene() == value)(folder / f"{photograph}_{label}.png")
    line = run(folder, "--images", photos, "--classes", tmp_path / "names.txt")
    assert "'p0_dead' with 'spot' and 'p0' with 'dead_spot' in" in line and "p0_dead_spot.png" in line


def test_a_mask_of_one_class_without_its_photograph(one_class_each, photos):
    """Regression: the photograph of another mask was said to be missing."""
    (photos / "p2.png").rename(photos / "q.png")
    parts = {"bolt": grey(scene() == 1), "nut": grey(scene() == 2)}
    line = one_class_each("p{number}_{label}.png", **parts)
    assert "expected a photograph of each mask" in line and "p2_bolt.png and 1 more" in line


def test_black_strokes_on_white(run, photos, tmp_path):
    """Regression: where a photograph has a single picture, all but its strokes became the class."""
    (tmp_path / "names.txt").write_text("background\nbolt\nnut\n")
    (tmp_path / "masks").mkdir()
    for number, label in enumerate(("bolt", "nut", "bolt")):
        grey(scene() != 1)(tmp_path / "masks" / f"p{number}_{label}.png")
    line = run(tmp_path / "masks", "--images", photos, "--classes", tmp_path / "names.txt")
    assert "expected strokes on black or on transparent, found 9" in line and "p0_bolt.png" in line


def test_images_that_are_no_folder(run, photos, tmp_path):
    """Regression: annotations were asked for there, or a photograph called as one in the ZIP."""
    (tmp_path / "photos.zip").write_bytes(b"x")
    for wrong in (tmp_path / "photos.zip", tmp_path / "absent"):
        line = run(TOOLS / "pycocotools", "--images", wrong)
        assert f"--images: expected a folder of photographs, found none at {wrong}" in line


def test_a_folder_without_photographs(run, photos, tmp_path):
    """Regression: the masks were said to lie in the folder of the photographs."""
    (tmp_path / "masks").mkdir()
    grey(scene() == 1)(tmp_path / "masks/p0.png")
    (tmp_path / "empty").mkdir()
    assert f"expected photographs in {tmp_path / 'empty'}, found none" in run(
        tmp_path / "masks", "--images", tmp_path / "empty"
    )


def test_a_background_that_is_no_class_is_not_dropped(one_class_each, tmp_path):
    (tmp_path / "two.txt").write_text("bolt\nnut\n")
    parts = {"background": grey(scene() == 0), "bolt": grey(scene() == 1), "nut": grey(scene() == 2)}
    words = ["--classes", tmp_path / "two.txt"]
    assert "all with one ending, found" in one_class_each("p{number}_{label}.png", *words, named=False, **parts)


def test_a_labelme_file_that_names_another_photograph(run, photos):
    """Regression: with --images it was drawn on the photograph called as the file, without on the one it names."""
    labelme(photos, {"label": "bolt", "shape_type": "rectangle", "points": CORNERS})
    (photos / "p0.json").rename(photos / "x.json")
    assert len(run(photos, "--images", photos)) == 3
    (photos / "x.json").rename(photos / "p0.json")
    (photos / "p0.json").write_text((photos / "p0.json").read_text().replace("p0.png", "p1.png"))
    (photos / "p1.json").unlink()
    for words in ([], ["--images", photos]):
        assert "expected one photograph of" in run(photos, *words)

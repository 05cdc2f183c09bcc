"""Scribbles from labelme, ScribbleSup's XML and coloured masks; lists; simulated scribbles."""

import base64
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import import_scribbles
import simulate_scribbles as simulate_script
from common.errors import InputError
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.images import image_size, read_image, stored_size
from dataloaders.labels import UNLABELLED, VOC_CLASSES
from dataloaders.layout import read_class_names, write_class_names
from dataloaders.options import DataOptions
from dataloaders.strokes import brush_stroke
from dataloaders.synthetic.scribbles import StrokeOptions, components, simulate_scribbles
from helpers import ENVIRONMENT, call, one_line
from preparation.importing import move_into_place, stratified_split

WIDTH, HEIGHT = 12, 10
U = UNLABELLED


def label(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "P"
    return np.array(image)


def shape(label: str, kind: str, *points, **more) -> dict:
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **more}


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


STROKES = (shape("background", "line", (1, 1), (9, 1)), shape("cat", "linestrip", (2, 4), (6, 4), (6, 7)))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five photographs with the JSON files of labelme beside them; a dog in two of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 90, 10)).save(folder / f"p{number}.jpg")
        dog = (shape("dog", "point", (9, 8)),) if number < 2 else ()
        annotate(folder, number, *STROKES, *dog)
    return folder


def annotate(folder: Path, number: int, *shapes, **more) -> None:
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"p{number}.jpg", "imageData": None}
    content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, **more}
    (folder / f"p{number}.json").write_text(json.dumps(content))


def imported(photos: Path, *words) -> Path:
    data = photos.parent / "data"
    assert call(import_scribbles, "labelme", photos, data, *words) == 0
    return data


def covered(data: Path, name: str = "p0") -> np.ndarray:
    return label(data / "pascal_2012_scribble" / f"{name}.png")


# --- the brush ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1, ["......", ".####.", "......", "......"]),
        (2, ["#####.", "#####.", "......", "......"]),  # half a pixel up and left
        (3, ["######", "######", "######", "......"]),
    ],
)
def test_a_stroke_has_the_width_that_was_asked_for(width, expected):
    drawn = brush_stroke(np.array([[1.0, 1.0], [4.0, 1.0]]), width, (4, 6))
    assert ["".join(row) for row in np.where(drawn, "#", ".")] == expected


def test_strokes_have_no_gaps_and_brushes_are_round():
    for angle in np.linspace(0, np.pi, 13):
        path = np.array([[50, 50], [50 + 30 * np.cos(angle), 50 + 30 * np.sin(angle)]])
        for width in (1, 3):
            canvas = brush_stroke(path, width, (100, 100))
            grown = np.lib.stride_tricks.sliding_window_view(np.pad(canvas, 1), (3, 3)).any((2, 3))
            assert len(components(grown)) == 1  # each pixel touches the next, at least by a corner
    dot = np.argwhere(brush_stroke(np.array([[50.0, 50.0]]), 9, (100, 100)))
    assert np.hypot(*(dot - 50).T).max() <= 4.5 and len(dot) == 69


def test_wide_and_long_strokes_are_those_of_a_brush_at_each_step():
    rng = np.random.default_rng(0)
    for width in (1, 2, 5, 8):
        path = np.round(rng.uniform(-20, 60, (4, 2)))
        brush = np.argwhere(np.hypot(*(np.indices((width, width)) - (width - 1) / 2)) <= width / 2) - width // 2
        expected = np.zeros((30, 40), dtype=bool)
        for start, end in zip(path[:-1], path[1:], strict=True):
            count = int(np.abs(end - start).max())
            for step in range(count + 1):
                for column, row in np.floor(start + (end - start) * step / count + 0.5).astype(int) + brush:
                    if 0 <= row < 30 and 0 <= column < 40:
                        expected[row, column] = True
        assert np.array_equal(brush_stroke(path, width, (30, 40)), expected)
    across = brush_stroke(np.array([[-1e9, 5.0], [1e9, 5.0]]), 3, (30, 40))
    assert across[4:7].all() and across.sum() == 3 * 40


def test_strokes_on_large_photographs_are_wider_unless_a_width_is_given(photos, capsys):
    for number in range(5):
        Image.new("RGB", (1200, 900)).save(photos / f"p{number}.jpg")
        line = shape("cat", "line", (100, 300), (1000, 300))
        annotate(photos, number, line, shape("dog", "point", (50, 50)), imageWidth=1200, imageHeight=900)
    drawn = covered(imported(photos))
    assert (drawn[:, 500] == 1).sum() == 6 and (drawn[50] == 2).sum() == 6  # 900 / 150
    assert "--width" in capsys.readouterr().out
    assert (covered(imported(photos, "--overwrite", "--width", 3))[:, 500] == 1).sum() == 3


# --- labelme --------------------------------------------------------------------------------------------------------


def test_strokes_of_labelme_by_hand(photos):
    data = imported(photos, "--width", 1)
    expected = np.full((HEIGHT, WIDTH), U)
    expected[1, 1:10] = 0
    expected[4, 2:7] = expected[4:8, 6] = 1
    expected[8, 9] = 2
    assert np.array_equal(covered(data), expected)
    assert (data / "classes.txt").read_text() == "background\ncat\ndog\n"
    assert (data / "JPEGImages/p0.jpg").read_bytes() == (photos / "p0.jpg").read_bytes()
    thick = imported(photos, "--overwrite")
    assert (covered(thick)[0:3, 0:11] == 0).all() and (covered(thick)[7:10, 8:11] == 2).all()


def test_filled_shapes_of_labelme_by_hand(photos):
    mask = np.array([[255, 0, 255], [0, 255, 0]], dtype=np.uint8)
    annotate(
        photos,
        0,
        shape("cat", "polygon", (0, 0), (4, 0), (4, 3), (0, 3)),
        shape("dog", "rectangle", (8, 3), (6, 1)),  # from any corner
        shape("cat", "circle", (3, 7), (3, 9)),
        shape("dog", "mask", (8, 7), (10, 8), mask=png(mask)),
        shape("background", "point", (0, 0)),
        shape("__ignore__", "rectangle", (0, 2), (1, 3)),
    )
    expected = np.full((HEIGHT, WIDTH), U)
    expected[0:4, 0:5] = 1
    expected[1:4, 6:9] = 2
    expected[[5, 9], 2:5] = expected[6:9, 1:6] = 1
    expected[7, [8, 10]] = expected[8, 9] = 2
    expected[0, 0] = 0
    expected[2:4, 0:2] = U
    found = covered(imported(photos, "--width", 1))
    assert np.array_equal(found, expected), found


def test_a_list_of_classes_gives_the_order(photos):
    classes = photos.parent / "names.txt"
    classes.write_text("0 background\n1 Dog\n2 Cat\n3 cow\n")
    data = imported(photos, "--classes", classes, "--width", 1)
    assert covered(data)[8, 9] == 1 and covered(data)[4, 3] == 2
    assert (data / "classes.txt").read_text().split() == ["background", "Dog", "Cat", "cow"]


@pytest.mark.parametrize("lines", ["__ignore__\n_background_\ncat\ndog\n", "cat\nBack Ground\nvoid\ndog\n"])
@pytest.mark.parametrize("truth", [(), ("--truth",)])
def test_the_background_becomes_class_0_and_ignored_labels_none(photos, capsys, lines, truth):
    annotate(photos, 0, *STROKES, shape("__ignore__", "point", (9, 8)), shape("DOG ", "point", (0, 9)))
    for number in range(1, 5):
        annotate(photos, number, *STROKES)
    (photos.parent / "list.txt").write_text(lines)
    data = imported(photos, "--classes", photos.parent / "list.txt", "--width", 1, *truth)
    assert (data / "classes.txt").read_text().split("\n")[1:] == ["cat", "dog", ""]
    drawn = label(data / ("SegmentationClassAug" if truth else "pascal_2012_scribble") / "p0.png")
    assert [drawn[1, 1], drawn[4, 2], drawn[9, 0], drawn[8, 9], drawn[9, 9]] == [0, 1, 2, U, 0 if truth else U]
    said = capsys.readouterr().out
    assert "no class, but unlabelled pixels" in said and "becomes class 0" in said or lines.startswith("__ignore__")


def test_a_list_without_background_makes_no_class_the_background(photos, capsys):
    """Regression: strokes called background became the first class of the list."""
    (photos.parent / "list.txt").write_text("cat\ndog\n")
    words = [photos, photos.parent / "data", "--classes", photos.parent / "list.txt"]
    assert call(import_scribbles, "labelme", *words) == 2
    said = one_line(capsys)
    assert "found 'background'" in said and "of which the background is the first line" in said
    for number in range(5):
        annotate(photos, number, shape("cat", "polygon", (1, 1), (5, 1), (5, 5)), shape("dog", "point", (9, 8)))
    assert call(import_scribbles, "labelme", *words, "--truth") == 2
    assert "expected a background" in one_line(capsys)
    assert call(import_scribbles, "labelme", *words, "--width", 1) == 0
    assert "WARNING: " in (said := capsys.readouterr().out) and "class 0, 'cat', is a class like any other" in said
    assert covered(photos.parent / "data")[8, 9] == 1


def test_one_label_in_two_unicode_forms_is_one_class(photos):
    for number, name in enumerate(("Gr\u00f6\u00dfe", "Gro\u0308\u00dfe", "Gro\u0308\u00dfe ")):
        annotate(photos, number, *STROKES, shape(name, "point", (9, 8)), shape("BG", "point", (0, 9)))
    assert (imported(photos) / "classes.txt").read_text() == "background\ncat\nGr\u00f6\u00dfe\n"


def test_an_image_within_the_json_is_enough(photos):
    content = (photos / "p3.jpg").read_bytes()
    annotate(photos, 3, *STROKES, imageData=base64.b64encode(content).decode(), imagePath="..\\elsewhere\\p3.jpg")
    (photos / "p3.jpg").unlink()
    assert (imported(photos) / "JPEGImages/p3.jpg").read_bytes() == content


def test_photographs_elsewhere(photos, capsys):
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    for path in photos.glob("*.jpg"):
        path.rename(elsewhere / path.name)
    assert call(import_scribbles, "labelme", photos, photos.parent / "data") == 2
    assert "name the folder of the photographs with --images" in one_line(capsys)
    assert (imported(photos, "--images", elsewhere) / "JPEGImages/p4.jpg").is_file()


@pytest.mark.parametrize("kind", ["link", "folder"])
@pytest.mark.parametrize("name", ["classes.txt", "ImageSets", "pascal_2012_scribble", "JPEGImages"])
def test_what_a_data_set_has_but_nobody_can_read_is_not_absent(photos, capsys, name, kind):
    """Regression: a broken link for the list of classes was no list, so that the classes were numbered anew."""
    data = imported(photos)
    capsys.readouterr()
    (data / name).rename(data.parent / "away")
    if kind == "link":
        (data / name).symlink_to(data.parent / "annex")
    elif name == "classes.txt":
        (data / name).mkdir()
    else:
        (data / name).write_text("")
    before = sorted(data.rglob("*"))
    assert call(import_scribbles, "labelme", photos, data, "--overwrite") == 2
    assert str(data / name) in one_line(capsys)
    assert sorted(data.rglob("*")) == before


def test_lists_and_json_in_utf16(photos, capsys):
    """Windows writes them so, with a mark at their beginning."""
    for path in photos.glob("*.json"):
        path.write_text(path.read_text(), encoding="utf-16")
    names = photos.parent / "names.txt"
    names.write_text("background\ndog\ncat\n", encoding="utf-16")
    assert read_class_names(imported(photos, "--classes", names) / "classes.txt") == ("background", "dog", "cat")
    names.write_bytes("background\nGr\u00f6\u00dfe\n".encode("latin-1"))
    capsys.readouterr()
    assert call(import_scribbles, "labelme", photos, photos.parent / "data", "--classes", names) == 2
    assert "names.txt: it is not in UTF-8, first at byte 13; save it in UTF-8" in one_line(capsys)


def test_names_that_no_list_can_hold_are_found_where_they_are(photos, capsys):
    """Regression: the message named the folder that an import works in."""
    (photos / "p0.jpg").rename(photos / "p\n0.jpg")
    annotate(photos, 0, *STROKES, imagePath="p\n0.jpg")
    assert call(import_scribbles, "labelme", photos, photos.parent / "data") == 2
    assert rf"'p\n0.jpg' in {photos / 'p0.json'}" in one_line(capsys)


def test_linked_folders_of_a_source_are_part_of_it(photos, capsys):
    """Regression: they were left out without a word."""
    source = photos.parent / "source"
    source.mkdir()
    (source / "more").symlink_to(photos)
    (photos / "round").symlink_to(source)
    assert call(import_scribbles, source, photos.parent / "data") == 0
    assert len(list((photos.parent / "data/JPEGImages").iterdir())) == 5
    (source / "again").symlink_to(photos.parent / "annex")
    assert call(import_scribbles, source, photos.parent / "other") == 2
    assert f"{source / 'again'}, a link that leads nowhere" in one_line(capsys)


PREPARE = """
import sys
import check_dataset, export_annotations, import_scribbles, simulate_scribbles
photos, work = sys.argv[1:]
words = ["labelme", photos, work + "/data", "--classes", work + "/names.txt"]
assert import_scribbles.main(words) == import_scribbles.main([*words, "--truth"]) == 0
assert check_dataset.main([work + "/data", "--output", work + "/check"]) == 0
assert simulate_scribbles.main([work + "/data", work + "/simulated"]) == 0
assert export_annotations.main([work + "/data/SegmentationClassAug", "--format", "labelme", "--images",
    work + "/data/JPEGImages", "--output", work + "/labelme"]) == 0
assert "torch" not in sys.modules
"""


def test_preparing_data_needs_no_pytorch(photos, tmp_path):
    """Importing PyTorch takes longer, and ten times the memory, than everything else that an import does."""
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    command = [sys.executable, "-c", PREPARE, photos, tmp_path]
    subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_photographs_without_strokes_are_left_out(photos, capsys):
    annotate(photos, 4)
    data = imported(photos)
    assert "left out: 1 images on which nothing is drawn" in capsys.readouterr().out
    assert not (data / "JPEGImages/p4.jpg").exists()


def test_photographs_without_a_file_of_labels_are_said_to_be_left_out(photos, capsys):
    """Regression: not a word of them."""
    annotate(photos, 4)  # nothing is drawn: said above
    for name in ("x1", "x2"):
        shutil.copy(photos / "p1.jpg", photos / f"{name}.jpg")
    imported(photos)
    said = capsys.readouterr().out
    assert f"left out: 2 pictures that no annotation names (first {photos / 'x1.jpg'})" in said


def test_photographs_in_another_folder_than_their_labels_are_all_named(photos, capsys):
    labels = photos / "labels"
    labels.mkdir()
    for file in photos.glob("*.json"):
        content = json.loads(file.read_text()) | {"imagePath": f"../{file.stem}.jpg"}
        (labels / file.name).write_text(json.dumps(content))
        file.unlink()
    imported(photos)
    assert "no annotation names" not in capsys.readouterr().out


def test_shapes_that_cover_no_pixel_are_said(photos, capsys):
    """Regression: they were left out without a word."""
    annotate(photos, 4, *STROKES, shape("dog", "circle", (5, 5), (5, 5)))
    imported(photos)
    said = f"WARNING: {photos / 'p4.json'}: 1 shapes cover no pixel, first a circle of 'dog'"
    assert said in capsys.readouterr().out


def test_a_data_set_within_a_source_is_said_to_be_left_out(photos, capsys):
    imported(photos).rename(photos / "data")
    assert call(import_scribbles, photos, photos.parent / "data") == 0
    assert capsys.readouterr().out.count(f"left out: the data set in {photos / 'data'}") == 1


def test_labels_are_drawn_on_the_upright_photograph(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(photos / "p0.jpg", exif=exif)  # upright: 12 x 10
    assert covered(imported(photos)).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_size_of_a_turned_photograph_is_that_which_is_read(tmp_path, suffix, orientation):
    """Regression: a turned TIFF's sides were swapped twice."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    upright = (HEIGHT, WIDTH) if 5 <= orientation <= 8 else (WIDTH, HEIGHT)
    assert image_size(path) == read_image(path).size == upright
    assert stored_size(path)[0] == (WIDTH, HEIGHT)


def with_exif(photos: Path, number: int, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(photos / f"p{number}.jpg", exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_that_fit_only_before_the_exif_rotation_are_turned(photos, capsys, orientation):
    for number in range(5):
        with_exif(photos, number, orientation)
    data = imported(photos, "--width", 1)
    assert "EXIF rotation that their labels lack" in capsys.readouterr().out
    unturned = np.full((HEIGHT, WIDTH), U)
    unturned[1, 1:10], unturned[4, 2:7], unturned[4:8, 6], unturned[8, 9] = 0, 1, 1, 2
    quarter = {5: unturned.T, 6: np.rot90(unturned, -1), 7: np.rot90(unturned, 2).T, 8: np.rot90(unturned)}
    assert np.array_equal(covered(data), quarter[orientation])


def test_rotations_that_sizes_do_not_show_are_refused_beside_unturned_ones(photos, capsys):
    with_exif(photos, 0, 3)
    imported(photos)
    with_exif(photos, 1, 6)
    assert call(import_scribbles, "labelme", photos, photos.parent / "data", "--overwrite") == 2
    assert "p0.json, where both fit" in one_line(capsys)


@pytest.mark.parametrize("few", [False, True])
def test_a_failed_import_leaves_nothing(photos, capsys, few):
    if few:
        for number in (2, 3, 4):
            (photos / f"p{number}.json").unlink()
    else:
        Image.new("RGB", (7, 7)).save(photos / "p4.jpg")
    assert call(import_scribbles, "labelme", photos, photos.parent / "new/data") == 2
    assert ("label more" if few else "7x7") in one_line(capsys)
    assert not (photos.parent / "new").exists()


def test_names_as_other_systems_write_them(photos):
    """Hidden files of macOS, decomposed Unicode in file names, spaces at their ends."""
    for path in list(photos.iterdir()):
        (photos / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    (photos / "p0.jpg").rename(photos / "Gro\u0308\u00dfe.jpg")
    (photos / "p0.json").rename(photos / "Gr\u00f6\u00dfe.json")
    (photos / "p1.jpg").rename(photos / "p1 .jpg")
    data = imported(photos, "--images", photos)
    lists = [(data / f"ImageSets/SegmentationAug/{name}.txt").read_text().split() for name in ("train", "val")]
    assert sorted(sum(lists, [])) == ["Gr\u00f6\u00dfe", "p1", "p2", "p3", "p4"]
    names = tuple((data / "classes.txt").read_text().split())
    sets = [VOCSegmentation(DataOptions(), data, split, names) for split in ("train", "val")]
    assert sum(len(images) for images in sets) == 5 and all(images[0] for images in sets)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: annotate(p, 1, *STROKES, imageWidth=99), ["found 99x10", "p1.json", "12x10"]),
        (lambda p: annotate(p, 1, shape("Cat", "point", (1, 1))), ["'cat' and 'Cat'", "p1.json"]),
        (lambda p: annotate(p, 1, shape("cat", "scrawl", (1, 1))), ["the shape 'scrawl' of 'cat'", "p1.json"]),
        (lambda p: annotate(p, 1, shape("cat", "linestrip", (1, 1))), ["a line of 'cat'", "p1.json"]),
        (
            lambda p: annotate(p, 1, shape("cat", "mask", (1, 1), mask="AAAA")),
            ["a mask that is no PNG of 'cat'", "p1.json"],
        ),
        (lambda p: (p / "p1.json").write_text("{"), ["cannot read", "p1.json"]),
        (lambda p: (p / "p1.json").write_text('{"a": 1}'), ["no 'shapes'", "p1.json"]),
        (lambda p: (p / "p1.json").write_text("[]"), ["p1.json", "labelme"]),
        (lambda p: (p / "p1.jpg").write_text("no image"), ["cannot read", "p1.jpg"]),
        (lambda p: (p / "p1.jpg").unlink(), ["p1.jpg", "found none"]),
        (lambda p: ((p / "p1.jpg").unlink(), annotate(p, 1, *STROKES, imageData="!!!")), ["imageData", "p1.json"]),
        (lambda p: [path.unlink() for path in p.glob("*.json")], ["*.json", "found none"]),
        (lambda p: [annotate(p, n) for n in range(5)], ["found nothing in", "p0.json and 4 more"]),
    ],
)
def test_what_is_wrong_with_labelme_files_is_said(photos, capsys, spoil, said):
    spoil(photos)
    data = photos.parent / "data"
    assert call(import_scribbles, "labelme", photos, data) == 2
    line = one_line(capsys)
    assert all(words in line for words in said), line
    assert not (data / "pascal_2012_scribble").exists() and not (data / "JPEGImages").exists()


def test_all_unknown_labels_are_named_at_once(photos, capsys):
    classes = photos.parent / "names.txt"
    classes.write_text("background\ncow\n")
    assert call(import_scribbles, "labelme", photos, photos.parent / "data", "--classes", classes) == 2
    line = one_line(capsys)
    assert "found 'cat' (and dog)" in line and "4 other shapes" in line


def test_truth_beside_scribbles(photos, capsys):
    data = imported(photos)
    lists = [(data / f"ImageSets/SegmentationAug/{name}.txt").read_text() for name in ("train", "val")]
    assert len(lists[0].split()) == 4 and len(lists[1].split()) == 1
    assert call(import_scribbles, "labelme", photos, data) == 2
    assert "exists already: --overwrite replaces" in one_line(capsys)

    for number in range(3):
        annotate(photos, number, shape("cat", "rectangle", (2, 2), (6, 6)))
    for number in (3, 4):
        (photos / f"p{number}.json").unlink()
    assert call(import_scribbles, "labelme", photos, data, "--truth") == 0  # the classes are those of DATA
    truth = label(data / "SegmentationClassAug/p0.png")
    assert set(np.unique(truth)) == {0, 1} and truth.sum() == 25
    assert lists == [(data / f"ImageSets/SegmentationAug/{name}.txt").read_text() for name in ("train", "val")]
    assert covered(data).max() == U  # the scribbles stay
    classes = photos.parent / "names.txt"
    classes.write_text("background\ncow\ncat\n")
    assert call(import_scribbles, "labelme", photos, data, "--truth", "--classes", classes) == 2
    capsys.readouterr()
    # New lists let those validate that have truth.
    assert call(import_scribbles, "labelme", photos, data, "--truth", "--overwrite", "--new-lists") == 0
    val = (data / "ImageSets/SegmentationAug/val.txt").read_text().split()
    assert len(val) == 1 and val[0] in {"p0", "p1", "p2"}


@pytest.mark.parametrize(("share", "expected"), [(0.2, 1), (0.4, 2)])
def test_images_that_cannot_be_trained_on_validate_first(photos, capsys, share, expected):
    """Regression: those with truth and without scribbles were in no list."""
    (photos / "p4.json").unlink()
    data = imported(photos)
    for number in range(5):
        annotate(photos, number, shape("cat", "rectangle", (2, 2), (6, 6)), shape("dog", "point", (9, 8)))
    words = ["--truth", "--new-lists", "--val", share]
    assert call(import_scribbles, "labelme", photos, data, *words) == 0
    assert "1 images have ground truth and no scribbles" in capsys.readouterr().out
    lists = [(data / f"ImageSets/SegmentationAug/{name}.txt").read_text().split() for name in ("train", "val")]
    assert sorted(lists[0] + lists[1]) == [f"p{number}" for number in range(5)]
    assert len(lists[1]) == expected and "p4" in lists[1]


def test_labels_have_to_fit_the_photographs_that_a_data_set_has(photos, capsys):
    """Regression: the truth of another size was taken without a word."""
    data = imported(photos)
    for number in range(5):
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(photos / f"p{number}.jpg")
        annotate(photos, number, *STROKES, imageWidth=2 * WIDTH, imageHeight=2 * HEIGHT)
    assert call(import_scribbles, "labelme", photos, data, "--truth") == 2
    assert f"{data / 'JPEGImages/p'}" in one_line(capsys) and not (data / "SegmentationClassAug").exists()


@pytest.mark.parametrize("order", ["{truth} labelme {photos} {data}", "labelme {photos} {val} {data} {truth}"])
def test_options_may_stand_anywhere(photos, order):
    """Regression: a switch took the next word for its value, and an option between the folders was an error."""
    data, words = photos.parent / "data", {"truth": "--truth", "val": "--val 0.2"}
    assert call(import_scribbles, *order.format(photos=photos, data=data, **words).split()) == 0
    assert (data / "SegmentationClassAug/p0.png").is_file()


def test_overwriting_leaves_the_labels_of_other_images(photos, capsys):
    """Regression: the whole folder of labels was replaced, those drawn by hand with it."""
    data = imported(photos)
    more = photos.parent / "more"
    more.mkdir()
    (photos / "p0.json").rename(more / "p0.json")
    (photos / "p0.jpg").rename(more / "p0.jpg")
    annotate(more, 0, shape("dog", "point", (3, 3)))
    Image.new("RGB", (WIDTH, HEIGHT)).save(more / "p9.jpg")
    annotate(more, 9, shape("background", "point", (3, 3)))
    before = {name: covered(data, name) for name in ("p1", "p4")}
    assert call(import_scribbles, "labelme", more, data) == 2
    assert call(import_scribbles, "labelme", more, data, "--overwrite", "--width", 1) == 0
    assert "1 of these images are in none" in capsys.readouterr().out
    assert all(np.array_equal(covered(data, name), scribbles) for name, scribbles in before.items())
    assert covered(data, "p0")[3, 3] == 2 and (covered(data, "p0") < U).sum() == 1
    assert covered(data, "p9")[3, 3] == 0

    # Those that stay keep their numbers.
    classes = photos.parent / "names.txt"
    classes.write_text("background\ndog\ncat\n")
    assert call(import_scribbles, "labelme", more, data, "--overwrite", "--classes", classes) == 2
    assert (data / "classes.txt").read_text() == "background\ncat\ndog\n"


def test_a_disk_that_fills_up_leaves_each_image_with_its_own_labels(tmp_path, monkeypatch):
    """Regression: the old image was deleted first, and labels were moved after all images."""
    new, data, moved = tmp_path / "new", tmp_path / "data", []
    for folder, suffix in ((new, "png"), (data, "jpg")):
        for kind, ending in (("images", suffix), ("labels", "png")):
            (folder / kind).mkdir(parents=True)
            for name in "ab":
                (folder / kind / f"{name}.{ending}").write_text(folder.name)

    def move(path, target):
        if len(moved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        moved.append(target)
        os.replace(path, target)

    monkeypatch.setattr(Path, "rename", move)
    monkeypatch.setattr(Path, "replace", move)
    present = {name: data / f"images/{name}.jpg" for name in "ab"}
    with pytest.raises(OSError, match="No space"):
        move_into_place(new / "images", new / "labels", data, present)
    there = [(image, data / f"labels/{image.stem}.png") for image in (data / "images").iterdir()]
    pairs = [tuple(file.read_text() for file in pair) for pair in there]
    assert sorted(pairs) == [("data", "data"), ("new", "new")]


@pytest.mark.parametrize("other", ["png", "JPG"])
def test_two_images_of_one_name_are_refused(photos, capsys, other):
    """Regression: the later one was taken, a mask beside its photograph as the photograph."""
    data = imported(photos)
    Image.new("L", (WIDTH, HEIGHT)).save(data / f"JPEGImages/p0.{other}")
    with pytest.raises(InputError, match="expected one file of each name, found p0"):
        VOCSegmentation(DataOptions(), data, "train", ("background", "cat", "dog"))


def test_class_names_may_begin_with_a_number(photos):
    """Regression: what the import wrote could not be read, since a number was taken for an index."""
    annotate(photos, 0, shape("background", "point", (3, 3)), shape("10 mm bolt", "point", (8, 3)))
    data = imported(photos)
    assert read_class_names(data / "classes.txt") == ("background", "10 mm bolt", "cat", "dog")
    names = ("12 mm bolt", "10 mm bolt")
    write_class_names(data, names)
    assert read_class_names(data / "classes.txt") == names


# --- ScribbleSup ----------------------------------------------------------------------------------------------------

XML = """<annotation><filename>{name}.jpg</filename><size><width>12</width><height>10</height><depth>3</depth></size>
<polygon><tag>cat</tag><point><X>2</X><Y>5</Y></point><point><X>8</X><Y>5</Y></point></polygon>
<polygon><point><x>5</x><y>1</y></point><tag>background</tag></polygon></annotation>"""


@pytest.fixture
def xml(photos) -> Path:
    folder = photos.parent / "xml"
    folder.mkdir()
    for number in range(5):
        (folder / f"p{number}.xml").write_text(XML.format(name=f"p{number}"))
    return folder


def test_scribblesup_by_hand(photos, xml):
    data = photos.parent / "data"
    assert call(import_scribbles, "scribblesup", xml, data, "--images", photos) == 0
    expected = np.full((HEIGHT, WIDTH), U)
    expected[4:7, 1:10] = VOC_CLASSES.index("cat")
    expected[0:3, 4:7] = 0
    assert np.array_equal(covered(data), expected)
    assert (data / "classes.txt").read_text().split() == list(VOC_CLASSES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation><polygon>", ["cannot read", "p1.xml"]),
        (XML.replace("<tag>cat</tag>", ""), ["no <tag> in a <polygon>", "p1.xml"]),
        (XML.replace("<X>2</X>", "<X>two</X>"), ["'two'", "p1.xml"]),
        (XML.replace("cat", "unicorn"), ["found 'unicorn'", "p1.xml"]),
        (XML.replace("<width>12", "<width>500"), ["found 500x10", "p1.xml"]),
        (
            "<annotation><size/><scribble><point><X>1</X><Y>1</Y></point></scribble></annotation>",
            ["outside a <polygon>"],
        ),
    ],
)
def test_what_is_wrong_with_xml_files_is_said(photos, xml, capsys, text, said):
    (xml / "p1.xml").write_text(text)
    assert call(import_scribbles, "scribblesup", xml, photos.parent / "data", "--images", photos) == 2
    line = one_line(capsys)
    assert all(words in line for words in said), line


# --- coloured masks -------------------------------------------------------------------------------------------------

TABLE = "# R G B name\n10 20 30 sky\n#C80000 red house\n255 255 255 unlabelled\n"
COLOURS = np.array([(10, 20, 30), (200, 0, 0), (255, 255, 255)], dtype=np.uint8)
NUMBERS = np.arange(120).reshape(10, 12) % 3
MEANT = np.array([0, 1, U])[NUMBERS]


@pytest.fixture
def masks(photos) -> Path:
    folder = photos.parent / "masks"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(COLOURS[NUMBERS]).save(folder / f"p{number}.png")
    (photos.parent / "colours.txt").write_text(TABLE)
    return folder


def import_masks(masks: Path, *words) -> int:
    where = masks.parent
    return call(
        import_scribbles,
        "masks",
        masks,
        where / "data",
        "--images",
        where / "photos",
        "--colours",
        where / "colours.txt",
        *words,
    )


def test_other_photographs_of_the_same_names_are_said(masks, capsys):
    """Regression: a second camera's IMG_0.jpg took the place, or the labels, of the first one's without a word."""
    photographs = sorted(path for path in (masks.parent / "photos").iterdir() if path.suffix != ".json")
    assert import_masks(masks, "--truth") == 0
    with Image.open(photographs[0]) as image:
        size, suffix = image.size, photographs[0].suffix
    Image.new("RGB", size, "red").save(photographs[0])
    capsys.readouterr()
    assert import_masks(masks) == 0
    assert f"WARNING: 1 images are other files than those of the same names in the source (first {masks.parent}" in (
        said := capsys.readouterr().out
    )
    assert f"p0{suffix}): they are kept" in said
    assert import_masks(masks, "--overwrite") == 0
    assert f"p0{suffix}): they are replaced" in capsys.readouterr().out
    for path in photographs:
        Image.new("RGB", (2 * size[0], 2 * size[1])).save(path)
    for path in masks.iterdir():
        Image.fromarray(COLOURS[NUMBERS]).resize((2 * size[0], 2 * size[1]), 0).save(path)
    assert import_masks(masks, "--overwrite") == 2
    line = one_line(capsys)
    assert f"found {size[0]}x{size[1]} in" in line and "SegmentationClassAug" in line


def test_labels_that_are_all_unlabelled_are_refused(masks, capsys):
    """Regression: "background nan%", and a data set on which nothing can be learned."""
    for path in masks.iterdir():
        Image.fromarray(np.full((*NUMBERS.shape, 3), 255, np.uint8)).save(path)
    assert import_masks(masks) == 2
    assert "expected labelled pixels, found none in any label map" in one_line(capsys)
    assert not (masks.parent / "data").exists()


def test_colours_become_class_numbers(masks):
    palette = Image.fromarray((2 - NUMBERS).astype(np.uint8))  # numbers say nothing, colours count
    palette.putpalette(COLOURS[::-1].tobytes())
    palette.save(masks / "p1.png")
    layer = np.dstack([COLOURS[NUMBERS], np.where(NUMBERS == 2, 0, 255).astype(np.uint8)])
    layer[NUMBERS == 2, :3] = 77  # strokes on a transparent layer: what is not seen does not count
    Image.fromarray(layer).save(masks / "p2.png")
    assert import_masks(masks) == 0
    for name in ("p0", "p1", "p2"):
        assert np.array_equal(covered(masks.parent / "data", name), MEANT)
    assert (masks.parent / "data/classes.txt").read_text() == "sky\nred house\n"


def test_masks_beside_their_photographs_are_refused(masks, capsys):
    """Regression: the masks became the photographs."""
    where = masks.parent
    words = ["masks", masks, where / "data", "--images", masks, "--colours", where / "colours.txt"]
    assert call(import_scribbles, *words) == 2
    assert "put the masks into a folder of their own" in one_line(capsys)
    Image.new("RGB", (WIDTH, HEIGHT)).save(masks / "p0.jpg")
    assert call(import_scribbles, *words) == 2
    assert "found p0.jpg to p4.png" in one_line(capsys)


def test_labelmaps_of_cvat(masks):
    text = "# label:color_rgb:parts:actions\nsky: blue:10,20,30::\nred house:200,0,0:a,b:\nvoid:255,255,255::\n"
    (masks.parent / "colours.txt").write_text(text)
    assert import_masks(masks, "--truth") == 0
    assert "sky: blue" in (masks.parent / "data/classes.txt").read_text()
    assert np.array_equal(label(masks.parent / "data/SegmentationClassAug/p0.png"), MEANT)


@pytest.mark.parametrize("name", ["#1", "1, 2, 3 x", "#102030 x"])
def test_labels_of_cvat_that_look_like_another_line(masks, name):
    """Regression: the first was taken for a comment, the others for a colour and a name."""
    text = f"# label:color_rgb:parts:actions\nsky:10,20,30::\n{name}:200,0,0::\nvoid:255,255,255::\n"
    (masks.parent / "colours.txt").write_text(text)
    assert import_masks(masks) == 0
    assert read_class_names(masks.parent / "data/classes.txt") == ("sky", name)
    assert np.array_equal(covered(masks.parent / "data"), MEANT)


def test_a_table_and_a_list_of_classes_may_come_through_pipes(masks):
    """Regression: each was read twice, and was empty the second time: --colours <(...)."""
    ends = []
    for text in (TABLE, "sky\nred house\n"):
        end, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)
        ends.append(end)
    try:
        assert import_masks(masks, "--colours", f"/dev/fd/{ends[0]}", "--classes", f"/dev/fd/{ends[1]}") == 0
    finally:
        for end in ends:
            os.close(end)
    assert np.array_equal(covered(masks.parent / "data"), MEANT)


def test_a_list_of_classes_numbers_those_of_a_colour_table(masks, capsys):
    """Regression: it was ignored, or its data set refused."""
    names = masks.parent / "names.txt"
    names.write_text("red house\ntree\nSky\n")
    assert import_masks(masks, "--classes", names) == 0
    assert np.array_equal(covered(masks.parent / "data"), np.choose(np.minimum(MEANT, 2), [2, 0, U]))
    assert import_masks(masks, "--truth") == 0  # the classes are those of DATA
    assert read_class_names(masks.parent / "data/classes.txt") == ("red house", "tree", "Sky")
    names.write_text("tree\nsky\n")
    assert import_masks(masks, "--classes", names, "--overwrite") == 2
    assert "found 'red house'" in one_line(capsys)


@pytest.mark.parametrize("separator", [" ", ",", ", "])
def test_a_colour_table_may_be_a_csv_file(masks, separator):
    """Regression: the numbers of a palette were taken for levels of grey."""
    table = masks.parent / "colours.csv"
    lines = (separator.join([*line.split()[:3], " ".join(line.split()[3:])]) for line in TABLE.strip().split("\n"))
    table.write_text("\n".join(lines))
    palette = Image.fromarray((2 - NUMBERS).astype(np.uint8))
    palette.putpalette(COLOURS[::-1].tobytes())
    palette.save(masks / "p1.png")
    assert import_masks(masks, "--colours", table) == 0
    for name in ("p0", "p1"):
        assert np.array_equal(covered(masks.parent / "data", name), MEANT)


def test_the_background_of_a_colour_table_becomes_class_0(masks, capsys):
    table = TABLE.replace("sky", "Background").split("\n")
    (masks.parent / "colours.txt").write_text("\n".join(reversed(table)))
    assert import_masks(masks) == 0
    assert "'Background' becomes class 0" in capsys.readouterr().out
    assert np.array_equal(covered(masks.parent / "data"), MEANT)
    assert (masks.parent / "data/classes.txt").read_text() == "Background\nred house\n"


def test_colours_out_of_the_table(masks, capsys):
    soft = COLOURS[NUMBERS].copy()
    soft[0, :2] = (105, 10, 15)
    Image.fromarray(soft).save(masks / "p3.png")
    assert import_masks(masks) == 2
    line = one_line(capsys)
    assert "p3.png" in line and "(105, 10, 15) (2 pixels)" in line and "--ignore-unknown" in line
    assert import_masks(masks, "--ignore-unknown") == 0
    found = covered(masks.parent / "data", "p3")
    assert (found[0, :2] == U).all() and np.array_equal(found[1:], MEANT[1:])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("0 0 0 a\n1 1 300 b\n", "found '1 1 300 b'"),
        ("0 0 0 a\nb\n", "found 'b'"),
        ("# label:color_rgb:parts:actions\na:::\nb:::\n", "found 'a:::' in"),  # datumaro's, without colours
        ("0 0 0 a\nb\n", "or name another table with --colours"),
        ("0 0 0 a\n0 0 0 b\n", "found '0 0 0 b' again"),
        ("0 0 0 a\n1 0 0 a\n", "found 'a' and 'a'"),
        ("0 0 0 a\n", "found 1"),
    ],
)
def test_bad_colour_tables_are_refused(masks, capsys, table, said):
    (masks.parent / "colours.txt").write_text(table)
    assert import_masks(masks) == 2
    assert said in one_line(capsys)


def test_masks_without_photographs(masks, capsys):
    Image.fromarray(COLOURS[NUMBERS]).save(masks / "other.png")
    assert import_masks(masks) == 2
    assert "expected the photograph of" in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["masks"], "and name that of the photographs with --images"),
        (["scribblesup"], "name labelme, or no format"),
        (["labelme", "--map", "255=1"], "labelme does not take --map, which is for masks"),
        (["--attribute", "class"], "labelme does not take --attribute, which is for via"),
    ],
)
def test_what_a_format_needs_is_said(photos, capsys, words, said):
    names = [word for word in words[:1] if not word.startswith("-")]
    assert call(import_scribbles, *names, photos, photos.parent / "data", *words[len(names) :]) == 2
    assert one_line(capsys).endswith(said)


def test_scribbles_are_no_truth(photos, xml, capsys):
    assert call(import_scribbles, xml, photos.parent / "data", "--images", photos, "--truth") == 2
    assert one_line(capsys) == "error: scribblesup holds scribbles, never the full truth"


# --- lists ----------------------------------------------------------------------------------------------------------


def test_lists_are_seeded_and_stratified():
    rng = np.random.default_rng(0)
    shares = {1: 0.5, 2: 0.2, 3: 0.1}
    classes = {f"i{n}": {0} | {value for value, share in shares.items() if rng.random() < share} for n in range(200)}
    train, val = stratified_split(classes, 0.25, seed=1)
    assert len(val) == 50 and sorted(train + val) == sorted(classes)
    for value in (0, 1, 2, 3):
        members = {image_id for image_id in classes if value in classes[image_id]}
        assert abs(len(members & set(val)) - 0.25 * len(members)) <= 2
    assert stratified_split(dict(reversed(classes.items())), 0.25, seed=1) == (train, val)
    assert stratified_split(classes, 0.25, seed=2) != (train, val)


def test_small_lists_are_never_empty_and_a_rare_class_trains():
    for count in (2, 3, 4):
        classes = {f"i{n}": {0} for n in range(count)} | {"i0": {0, 5}}
        for share in (0.01, 0.2, 0.5, 0.9):
            train, val = stratified_split(classes, share, seed=3)
            assert train and val and len(train) + len(val) == count
    assert "i0" in stratified_split({f"i{n}": {0} for n in range(9)} | {"i0": {0, 5}}, 0.3, seed=3)[0]


# --- images of every kind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_images_of_every_kind_train(photos, suffix, mode):
    if (mode, suffix) in {("RGBA", "jpg"), ("I;16", "jpg"), ("I;16", "bmp"), ("I;16", "webp")}:
        pytest.skip("there are no such files")
    for number in range(5):
        (photos / f"p{number}.jpg").unlink()
        Image.new(mode, (WIDTH, HEIGHT)).save(photos / f"p{number}.{suffix}")
        annotate(photos, number, *STROKES, imagePath=f"p{number}.{suffix}")
    data_set = VOCSegmentation(DataOptions(crop_size=10), imported(photos), "train", ("background", "cat"))
    assert len(data_set) == 4 and data_set[0]["image"].shape == (3, 10, 10)
    assert data_set.survey().counts[1] > 0


def test_grey_of_8_12_and_16_bits(tmp_path):
    ramp = np.arange(0, 256, 16, dtype=np.uint16).reshape(4, 4)
    for bits in (8, 12, 16):
        Image.fromarray(ramp << (bits - 8)).save(tmp_path / "image.png")
        assert np.array_equal(np.asarray(read_image(tmp_path / "image.png"))[..., 0], ramp)
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(InputError, match="found floating-point numbers in .*image.tif"):
        read_image(tmp_path / "image.tif")
    for value in (-1, 2**16):
        Image.fromarray(np.full((4, 4), value, dtype=np.int32)).save(tmp_path / "image.tif")
        with pytest.raises(InputError, match="expected an image of 8 or 16 bits, found values from"):
            read_image(tmp_path / "image.tif")


# --- simulated scribbles --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    y, x = np.mgrid[:80, :100]
    label = np.zeros((80, 100), dtype=np.uint8)
    label[np.hypot(x - 30, y - 40) < 22] = 1
    label[10:70, 65:90] = 2
    label[np.abs(np.hypot(x - 30, y - 40) - 22) < 1] = U
    return label


def simulate(truth: np.ndarray, **how) -> np.ndarray:
    return simulate_scribbles(truth, np.random.default_rng(7), StrokeOptions(**how))


def test_shorter_and_sparser_sets_are_parts_of_the_fuller(truth):
    full = simulate(truth)
    drawn = full != U
    assert (full[drawn] == truth[drawn]).all() and 0.02 < drawn.mean() < 0.04
    last = drawn
    for length in (0.8, 0.5, 0.3, 0.1):
        shorter = simulate(truth, length=length) != U
        assert (shorter <= last).all()
        assert shorter.sum() == pytest.approx(length * drawn.sum(), rel=0.3, abs=12 * 5)
        last = shorter
    counts = [(simulate(truth, drop=drop) != U).sum() for drop in (0, 0.3, 0.6, 1)]
    assert counts == sorted(counts, reverse=True) and counts[0] == drawn.sum() and counts[-1] == 0
    assert ((simulate(truth, drop=0.5) != U) <= drawn).all()


def test_strokes_on_large_photographs_have_the_usual_width(truth):
    """Regression: they were 3 pixels wide on every image, which leaves none of them when it is scaled down."""
    for times in (15, 30):
        large = np.kron(truth, np.ones((times, times), dtype=np.uint8))
        drawn = simulate(large) != U
        assert drawn.mean() > 0.02
        runs = [len(run) for line in drawn for run in "".join(map(str, line.astype(int))).split("0") if run]
        width = min(large.shape) / 150
        assert width in (8, 16) and width - 1 <= np.median(runs) <= 1.5 * width


def test_points_are_one_dot_an_object(truth):
    dots = simulate(truth, points=True)
    assert (dots[dots != U] == truth[dots != U]).all()
    for value in (0, 1, 2):
        assert len(components(dots == value)) == 1 and 1 <= (dots == value).sum() <= 9


def test_points_have_no_length(tmp_path, capsys):
    """Regression: it was passed over without a word."""
    for option in ("--length", "--share"):
        assert call(simulate_script, tmp_path, tmp_path / "out", "--points", option, 0.5) == 2
        assert "leave them out, or --points" in one_line(capsys)


def test_jitter_strays_over_borders(truth):
    full, shifted = simulate(truth), simulate(truth, jitter=4)
    labelled = (shifted != U) & (truth != U)
    assert (shifted[labelled] != truth[labelled]).any()
    assert (shifted != U).sum() == pytest.approx((full != U).sum(), rel=0.4)


def test_small_objects_get_a_stroke_on_demand():
    label = np.zeros((100, 100), dtype=np.uint8)
    label[50:54, 50:54] = 1
    assert 1 not in simulate(label) and 1 in simulate(label, smallest=0)


def test_the_simulation_of_a_folder(voc, capsys):
    out, again = voc.parent / "out", voc.parent / "again"
    words = ["--classes", voc.parent / "classes.txt"]
    assert call(simulate_script, voc, out, *words) == 0
    assert call(simulate_script, voc, again, *words, "--length", 0.5) == 0
    for number in range(7):
        full, half, truth = (
            np.array(Image.open(folder / f"i{number}.png"))
            for folder in (out / "pascal_2012_scribble", again / "pascal_2012_scribble", out / "SegmentationClassAug")
        )
        assert (full != U).any() and ((half != U) <= (full != U)).all() and (full == truth)[full != U].all()
    assert (again / "ImageSets/SegmentationAug/val.txt").read_text() == "i5\ni6\n"
    assert (out / "JPEGImages/i0.jpg").samefile(voc / "JPEGImages/i0.jpg")
    assert read_class_names(out / "classes.txt") == ("background", "cat", "dog")
    assert call(simulate_script, "--points", voc, voc.parent / "points", *words) == 0
    capsys.readouterr()
    assert call(simulate_script, voc, out, *words) == 2
    assert "found other files in" in one_line(capsys)
    assert call(simulate_script, voc / "JPEGImages", voc.parent / "new", *words) == 2
    assert "expected ground truth" in one_line(capsys)
    assert not (voc.parent / "new").exists()


def test_a_simulation_that_leaves_nothing_is_refused(voc, capsys):
    out = voc.parent / "out"
    assert call(simulate_script, voc, out, "--classes", voc.parent / "classes.txt", "--drop", 1) == 2
    assert "expected scribbles, found none left" in one_line(capsys) and not out.exists()


def test_the_simulation_says_what_has_no_truth(voc, capsys):
    (voc / "SegmentationClassAug/i1.png").unlink()
    out = voc.parent / "out"
    assert call(simulate_script, voc, out, "--classes", voc.parent / "classes.txt") == 0
    assert "1 of 7 images have no ground truth (first 'i1')" in capsys.readouterr().out
    assert (out / "ImageSets/SegmentationAug/train.txt").read_text() == "i0\ni2\ni3\ni4\n"


def test_the_simulation_finds_the_class_names(voc, capsys):
    assert call(simulate_script, voc, voc.parent / "as_in_voc") == 0
    (voc / "classes.txt").write_text("background\ncat\n")
    assert call(simulate_script, voc, voc.parent / "out") == 2
    assert "expected label values 0..1 (2 classes)" in one_line(capsys)

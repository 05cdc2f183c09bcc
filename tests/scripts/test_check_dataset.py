"""Checking a data set: every kind of problem, the report, the corrected copy, and what training says by itself."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import check_dataset as script
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.images import read_label
from dataloaders.inspection import quick_check
from dataloaders.labels import UNLABELLED, voc_palette
from dataloaders.layout import IMAGES, LISTS, SCRIBBLES, TRUTH, list_files
from dataloaders.options import DataOptions
from helpers import HEIGHT, WIDTH, message, train, write_label
from helpers import call as call_script
from preparation.checks import check_dataset
from preparation.problems import ERROR, KINDS

NAMES = ("background", "cat", "dog")
TRAIN_LIST, VAL_LIST = (f"{LISTS}/SegmentationAug/{name}.txt" for name in ("train", "val"))


def label(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def save_turned(root: Path, name: str, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / IMAGES / name, exif=exif)


def relabel(path: Path, change) -> None:
    write_label(path, change(label(path)))


def every(root: Path, folder: str, change) -> None:
    for path in (root / folder).glob("*.png"):
        relabel(path, change)


def in_colours(path: Path) -> None:
    Image.fromarray(voc_palette()[label(path)]).save(path)


def reordered_palette(path: Path) -> None:
    palette = voc_palette()
    palette[[1, 2]] = palette[[2, 1]]
    picture = Image.fromarray(label(path))
    picture.putpalette(palette.tobytes())
    picture.save(path)


def thin_strokes_on_zero(root: Path) -> None:
    every(root, SCRIBBLES, lambda values: np.where(values == UNLABELLED, 0, values))


def unlabel(root: Path, folder: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        relabel(root / f"{folder}/i{number}.png", lambda v: v * 0 + UNLABELLED)


def nearly_the_same(root: Path) -> None:
    pixels = np.asarray(Image.open(root / IMAGES / "i5.jpg"))
    Image.fromarray(pixels ^ 1).save(root / IMAGES / "i1.jpg", format="PNG")  # the lowest bit only


def save_as(path: Path, suffix: str) -> None:
    Image.fromarray(label(path)).save(path.with_suffix(f".{suffix}"))
    path.unlink()


def save_array(path: Path) -> None:
    np.save(path.with_suffix(".npy"), label(path))
    path.unlink()


def save_pages(path: Path) -> None:
    picture = Image.open(path)
    path.unlink()
    picture.save(path.with_suffix(".tif"), save_all=True, append_images=[picture.copy()])


def thin_strokes_on_large_photographs(root: Path) -> None:
    for folder, suffix in ((IMAGES, "jpg"), (SCRIBBLES, "png"), (TRUTH, "png")):
        for path in (root / folder).glob(f"*.{suffix}"):
            picture = Image.open(path).resize((30 * WIDTH, 30 * HEIGHT), Image.Resampling.NEAREST)
            picture.save(path)
    row, column = np.indices((30 * HEIGHT, 30 * WIDTH)) % 20
    every(root, SCRIBBLES, lambda v: np.where((row == 7) & (column == 7), v, UNLABELLED))


def images_of_two_depths(root: Path) -> None:
    for name, value in (("i0", 900), ("i1", 9000)):
        Image.new("I;16", (WIDTH, HEIGHT), value).save(root / f"{IMAGES}/{name}.jpg", format="PNG")


# What is done to a sound data set, the kind of problem that must be found, and in which file.
SPOILS = [
    (lambda r: (r / TRAIN_LIST).unlink(), "list", TRAIN_LIST),
    (lambda r: (r / TRAIN_LIST).write_text("i0\ni1\ni1\ni2\n"), "listed twice", TRAIN_LIST),
    (lambda r: (r / TRAIN_LIST).write_text("i0\ni1\ni6\n"), "train and val", f"{IMAGES}/i6"),
    (lambda r: (r / f"{IMAGES}/i1.jpg").write_bytes((r / f"{IMAGES}/i5.jpg").read_bytes()), "train and val", "i1"),
    (lambda r: (r / f"{IMAGES}/i3.jpg").unlink(), "missing", f"{IMAGES}/i3"),
    (lambda r: (r / f"{SCRIBBLES}/i3.png").unlink(), "missing", f"{SCRIBBLES}/i3"),
    (lambda r: (r / f"{TRUTH}/i5.png").unlink(), "missing", f"{TRUTH}/i5"),
    (lambda r: (r / f"{IMAGES}/i2.jpg").write_text("no image"), "unreadable", "i2.jpg"),
    (lambda r: (r / f"{SCRIBBLES}/i2.png").write_bytes(b"\x89PNG"), "unreadable", f"{SCRIBBLES}/i2.png"),
    (lambda r: in_colours(r / f"{SCRIBBLES}/i0.png"), "label mode, plain", f"{SCRIBBLES}/i0.png"),
    (lambda r: Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(r / f"{TRUTH}/i5.png"), "label mode", "i5.png"),
    (lambda r: relabel(r / f"{SCRIBBLES}/i4.png", lambda v: np.where(v == 1, 9, v)), "label values", "i4.png"),
    (lambda r: write_label(r / f"{SCRIBBLES}/i4.png", np.zeros((9, 9))), "label size", "i4.png"),
    (lambda r: save_turned(r, "i4.jpg", 6, (WIDTH, HEIGHT)), "EXIF rotation, labels not turned", "i4.jpg"),
    (lambda r: save_turned(r, "i6.jpg", 8, (WIDTH, HEIGHT)), "EXIF rotation, labels not turned", "i6.jpg"),
    (lambda r: save_turned(r, "i4.jpg", 6, (HEIGHT, WIDTH)), "EXIF rotation", "i4.jpg"),
    (lambda r: save_turned(r, "i4.jpg", 3, (WIDTH, HEIGHT)), "EXIF rotation", "i4.jpg"),
    (thin_strokes_on_zero, "0 for unlabelled", f"{SCRIBBLES}/i0.png"),
    (lambda r: relabel(r / f"{SCRIBBLES}/i0.png", lambda v: v * 0 + UNLABELLED), "no labels", "i0.png"),
    (lambda r: every(r, SCRIBBLES, lambda v: np.where(v == 0, UNLABELLED, v)), "no background", ""),
    (lambda r: every(r, SCRIBBLES, lambda v: np.where(v == 2, UNLABELLED, v)), "class never", ""),
    (lambda r: every(r, TRUTH, lambda v: np.where(v > 0, UNLABELLED, v)), "255 for the object", TRUTH),
    (lambda r: relabel(r / f"{SCRIBBLES}/i0.png", lambda v: np.where(v == 0, 254, v)), "value 254", "i0.png"),
    (lambda r: relabel(r / f"{SCRIBBLES}/i0.png", lambda v: np.where(v == 1, 2, v)), "contradiction", "i0.png"),
    (lambda r: every(r, SCRIBBLES, lambda v: np.where(v == 0, 1, v)), "contradiction everywhere", SCRIBBLES),
    (lambda r: reordered_palette(r / f"{SCRIBBLES}/i1.png"), "palette", "i1.png"),
    (lambda r: write_label(r / f"{SCRIBBLES}/i0.png", label(r / f"{TRUTH}/i0.png")), "full masks", "i0.png"),
    (nearly_the_same, "look-alikes", f"{IMAGES}/i5"),
    (lambda r: (r / TRAIN_LIST).write_text("i0\n"), "few images", ""),
    (lambda r: (r / VAL_LIST).write_text(""), "no validation", VAL_LIST),
    (lambda r: (r / VAL_LIST).unlink(), "no validation", VAL_LIST),
    (lambda r: (r / TRAIN_LIST).write_text("i0\ni1\ni2\n"), "not listed", f"{IMAGES}/i3"),
    (lambda r: write_label(r / f"{SCRIBBLES}/x.png", np.zeros((9, 9))), "no image", "x.png"),
    (lambda r: (r / f"{IMAGES}/more").mkdir(), "sub-folder", "more"),
    (
        lambda r: Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 0)).save(r / f"{IMAGES}/i0.jpg", format="PNG"),
        "transparency",
        "i0.jpg",
    ),
    (
        lambda r: Image.new("I;16", (WIDTH, HEIGHT), 900).save(r / f"{IMAGES}/i0.jpg", format="PNG"),
        "16 bits",
        "i0.jpg",
    ),
    (images_of_two_depths, "grey levels", IMAGES),
    (lambda r: save_as(r / f"{SCRIBBLES}/i0.png", "bmp"), "label file", f"{SCRIBBLES}/i0.bmp"),
    (lambda r: save_as(r / f"{TRUTH}/i5.png", "tif"), "label file", f"{TRUTH}/i5.tif"),
    (lambda r: save_as(r / f"{SCRIBBLES}/i0.png", "gif"), "label file", f"{SCRIBBLES}/i0.gif"),
    (lambda r: save_as(r / f"{SCRIBBLES}/i0.png", "jpg"), "label file, lossy", f"{SCRIBBLES}/i0.jpg"),
    (lambda r: save_as(r / f"{SCRIBBLES}/i0.png", "webp"), "label file, lossy", f"{SCRIBBLES}/i0.webp"),
    (lambda r: save_array(r / f"{SCRIBBLES}/i0.png"), "label file, array", f"{SCRIBBLES}/i0.npy"),
    (lambda r: save_pages(r / f"{IMAGES}/i0.jpg"), "pages", f"{IMAGES}/i0.tif"),
    (lambda r: save_pages(r / f"{SCRIBBLES}/i0.png"), "pages", f"{SCRIBBLES}/i0.tif"),
    (lambda r: every(r, SCRIBBLES, lambda v: np.where(v > 0, UNLABELLED, v)), "255 for the object", SCRIBBLES),
    (lambda r: shutil.rmtree(r / SCRIBBLES), "no scribbles", ""),
    (lambda r: unlabel(r, TRUTH, (5, 6)), "nothing to score", TRUTH),
    (lambda r: (shutil.rmtree(r / TRUTH), unlabel(r, SCRIBBLES, (5, 6))), "nothing to score", SCRIBBLES),
    (lambda r: unlabel(r, TRUTH, range(5)), "no fill-in score", TRUTH),
    (thin_strokes_on_large_photographs, "too thin", ""),
]


def test_a_sound_data_set_has_no_errors(voc):
    report = check_dataset(voc, NAMES)
    assert {p.kind for p in report.problems} == {"class rarely"}  # the dog is in two training images
    content = report.as_json()
    assert content["images"] == {"train": 5, "val": 2}
    assert content["sizes"] == {"smallest": "30x20", "largest": "30x20", "different": 1}
    assert content["labelled_share"] == pytest.approx(26 / 600, abs=1e-6)
    dog = content["classes"][2]
    assert (dog["scribbled_pixels"], dog["scribbled_images"], dog["truth_pixels"]) == (12, 2, 3 * 96)


@pytest.mark.parametrize(("spoil", "kind", "file"), SPOILS, ids=[kind for _, kind, _ in SPOILS])
def test_what_is_wrong_is_found(voc, spoil, kind, file):
    spoil(voc)
    problems = check_dataset(voc, NAMES).problems
    assert any(p.file.endswith(file) for p in problems if p.kind == kind), problems
    assert kind == "label size" or not [p for p in problems if p.kind == "label size"]


def test_every_kind_of_problem_is_tried():
    others = {"class rarely", "no truth", "background in few", "class 0"}  # in other tests
    assert {kind for _, kind, _ in SPOILS} | others == set(KINDS)


def test_a_list_without_background_is_said(voc, capsys):
    report = check_dataset(voc, ("cat", "dog", "cow"))
    assert {p.detail for p in report.problems if p.kind == "class 0"} == {"'cat'"}
    (voc.parent / "classes.txt").write_text("cat\ndog\ncow\n")
    assert train(voc, "--epochs", 1, "--no-val") == 0
    assert "WARNING: no class is called background" in capsys.readouterr().out


def test_few_background_scribbles_and_no_truth(voc):
    for number in (0, 1, 2):
        relabel(voc / f"{SCRIBBLES}/i{number}.png", lambda v: np.where(v == 0, UNLABELLED, v))
    for path in (voc / TRUTH).iterdir():
        path.unlink()
    report = check_dataset(voc, NAMES)
    problems = {p.kind: p.detail for p in report.problems}
    assert problems["background in few"] == "3 of 5 images"
    assert "NOTE: there is no ground truth\n    -> " in report.as_text()


def test_a_folder_without_lists_is_split_as_training_splits_it(voc):
    for path in (voc / LISTS / "SegmentationAug").iterdir():
        path.unlink()
    for folder in (voc / LISTS / "SegmentationAug", voc / LISTS):
        folder.rmdir()
    lists = check_dataset(voc, NAMES).lists
    for split in ("train", "val"):
        assert lists[split] == VOCSegmentation(DataOptions(), voc, split, NAMES).ids


def test_full_masks_are_no_thin_strokes(voc):
    """Blobs on background, without 255: full masks, which are fine, and not strokes on unlabelled pixels."""
    for path in (voc / TRUTH).iterdir():
        write_label(voc / SCRIBBLES / path.name, label(path))
    kinds = {p.kind for p in check_dataset(voc, NAMES).problems}
    assert "0 for unlabelled" not in kinds and "full masks" in kinds


def call(*words) -> int:
    return call_script(script, *words)


def test_the_script_reports_and_draws(voc, capsys):
    (voc / "classes.txt").write_text("background\ncat\ndog\n")
    out = voc.parent / "report"
    assert call(voc, "--output", out) == 0
    printed = capsys.readouterr().out
    assert "5 training and 2 validation images, 30x20 pixels, scribbles on 4.33%" in printed
    assert "WARNING: a class is labelled in one or two images only (1x)" in printed and "'dog' in 2" in printed
    assert "0 errors, 1 warning, 0 notes" in printed
    assert (out / "report.txt").read_text() in printed
    assert json.loads((out / "report.json").read_text())["problems"][0]["kind"] == "class rarely"
    assert np.asarray(Image.open(out / "sheet.png").convert("RGB")).std() > 30

    relabel(voc / SCRIBBLES / "i4.png", lambda v: np.where(v == 1, 9, v))
    (voc / IMAGES / "i0.jpg").unlink()
    write_label(voc / SCRIBBLES / "i2.png", np.zeros((9, 9)))
    assert call(voc, "--output", out) == 1
    printed = capsys.readouterr().out
    assert "found 9 (6 pixels, the first at x=2, y=4)" in printed and "JPEGImages/i0: of the train list" in printed
    assert "which is replaced" not in printed
    other = shutil.copytree(voc, voc.parent / "other" / voc.name)
    assert call(other, "--output", out) == 1
    assert f"WARNING: {out}: held the report of {voc}, which is replaced" in capsys.readouterr().out


def test_classes_are_those_of_voc_where_nothing_says_otherwise(voc, capsys):
    assert call(voc, "--output", voc.parent / "report") == 0
    assert "tvmonitor" in capsys.readouterr().out
    assert call(voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report") == 0
    assert "tvmonitor" not in capsys.readouterr().out


def test_an_empty_folder_of_truth_is_none(voc):
    """Regression: training wanted the files that the check did not."""
    for path in (voc / TRUTH).iterdir():
        path.unlink()
    assert "no truth" in {problem.kind for problem in check_dataset(voc, NAMES).problems}
    assert VOCSegmentation(DataOptions(), voc, "val", NAMES).label_kind == "scribbles"


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path, capsys):
    assert call(tmp_path, "--output", tmp_path / "report") == 2
    assert "expected a data set, found no images in" in capsys.readouterr().err


def test_a_corrected_copy_trains(voc, capsys):
    """Everything that can be corrected safely, at once; the source stays as it is."""
    thin_strokes_on_zero(voc)
    relabel(voc / SCRIBBLES / "i1.png", lambda v: np.where(v == 0, UNLABELLED, v))
    relabel(voc / SCRIBBLES / "i6.png", lambda v: v * 0)
    in_colours(voc / SCRIBBLES / "i2.png")
    save_turned(voc, "i3.jpg", 6, (HEIGHT, WIDTH))
    save_turned(voc, "i4.jpg", 8, (WIDTH, HEIGHT))
    (voc / IMAGES / "i0.jpg").unlink()
    (voc / TRAIN_LIST).write_text("i0\ni1\ni1\ni2\ni3\ni4\ni5\n")
    before = {path: path.read_bytes() for path in voc.rglob("*") if path.is_file()}
    out = voc.parent / "fixed"
    words = [voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report", "--fix", out]
    assert call(*words) == 1  # the background has lost its strokes, and only a person can draw them
    printed = capsys.readouterr().out
    for kind in ("0 for unlabelled", "label mode, plain", "EXIF rotation", "missing", "listed twice", "train and val"):
        assert f"corrected: {kind} (" in printed
    assert "ERROR: no image has background scribbles" in printed and "1 error" in printed
    assert {path: path.read_bytes() for path in voc.rglob("*") if path.is_file()} == before
    assert (out / TRAIN_LIST).read_text().split() == ["i1", "i2", "i3", "i4"]
    assert (label(out / SCRIBBLES / "i6.png") == UNLABELLED).all()  # nobody scribbled there
    for name in ("i2", "i3", "i4"):
        scribbles = label(out / SCRIBBLES / f"{name}.png")
        assert scribbles.dtype == np.uint8 and set(np.unique(scribbles)) <= {1, 2, UNLABELLED}
        assert (scribbles != UNLABELLED).sum() == 6
    upright, unturned = (Image.open(out / IMAGES / f"{name}.png") for name in ("i3", "i4"))
    assert upright.size == unturned.size == (WIDTH, HEIGHT) and not upright.getexif() and not unturned.getexif()
    turned = Image.open(voc / IMAGES / "i3.jpg").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(upright), np.asarray(turned))
    assert np.array_equal(np.asarray(unturned), np.asarray(Image.open(voc / IMAGES / "i4.jpg")))
    assert VOCSegmentation(DataOptions(), out, "train", NAMES).survey().counts[1] > 0
    relabel(out / SCRIBBLES / "i1.png", lambda v: v * 0)  # regression: label maps were links
    assert {path: path.read_bytes() for path in voc.rglob("*") if path.is_file()} == before
    assert call(*words) == 2  # not twice into one folder
    assert "found other files in" in capsys.readouterr().err


def test_label_maps_of_other_formats_are_rewritten(voc, capsys):
    meant = label(voc / SCRIBBLES / "i0.png")
    for name, suffix in (("i0", "tif"), ("i1", "bmp"), ("i2", "gif")):
        save_as(voc / SCRIBBLES / f"{name}.png", suffix)
    words = [voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report"]
    assert call(*words) == 1
    out = voc.parent / "fixed"
    assert call(*words, "--fix", out) == 0
    assert "corrected: label file (3x)" in capsys.readouterr().out
    assert np.array_equal(label(out / SCRIBBLES / "i0.png"), meant)
    assert len(VOCSegmentation(DataOptions(), out, "train", NAMES)) == 5


def test_label_maps_that_no_copy_corrects(voc, capsys):
    """Regression: arrays and damaged files were said to be written as PNG, and then to have been."""
    save_array(voc / SCRIBBLES / "i0.png")
    assert "i0.npy: save it as PNG, in Python with" in message(list_files, voc, SCRIBBLES)
    (voc / SCRIBBLES / "i1.png").rename(voc / SCRIBBLES / "i1.tif")
    (voc / SCRIBBLES / "i1.tif").write_bytes(b"II*\0abc")
    (voc / IMAGES / "i2.jpg").write_bytes(b"no image")
    save_as(voc / SCRIBBLES / "i2.png", "bmp")
    report = check_dataset(voc, NAMES)
    assert [p.kind for p in report.problems if "i1.tif" in p.file] == ["unreadable"]
    words = [voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report"]
    call(*words, "--fix", voc.parent / "fixed")
    corrected = [line for line in capsys.readouterr().out.split("\n") if line.startswith("corrected: ")]
    assert sorted(corrected) == ["corrected: label file, array (1x)", "corrected: unreadable (2x)"]
    assert not {"i0", "i1", "i2"} & {path.stem for path in (voc.parent / "fixed" / SCRIBBLES).iterdir()}


def test_a_jpeg_that_is_called_a_png_is_no_label_map(voc):
    path = voc / SCRIBBLES / "i0.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)).save(path, "JPEG")
    assert "found a JPEG, which changes class numbers" in message(read_label, path, 3)


def test_all_training_copies_of_a_validation_image_are_found(voc):
    """Regression: only the last was, and --fix left the others."""
    for name in ("i0", "i1"):
        shutil.copyfile(voc / IMAGES / "i5.jpg", voc / IMAGES / f"{name}.jpg")
    copies = [problem.file for problem in check_dataset(voc, NAMES).problems if problem.kind == "train and val"]
    assert copies == [f"{IMAGES}/i0", f"{IMAGES}/i1"]


def test_an_unknown_orientation_is_none(voc):
    """Regression: photographs with EXIF orientation 0 were rewritten."""
    save_turned(voc, "i3.jpg", 0, (WIDTH, HEIGHT))
    assert not [problem for problem in check_dataset(voc, NAMES).problems if "EXIF" in problem.kind]


def test_maps_without_strokes_are_corrected_whatever_their_suffix(voc):
    thin_strokes_on_zero(voc)
    relabel(voc / SCRIBBLES / "i2.png", lambda v: v * 0)
    (voc / SCRIBBLES / "i2.png").rename(voc / SCRIBBLES / "i2.PNG")
    out = voc.parent / "fixed"
    call(voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report", "--fix", out)
    (corrected,) = (out / SCRIBBLES).glob("i2.*")
    assert (label(corrected) == UNLABELLED).all()


def test_no_correction_leaves_a_list_empty(voc, capsys):
    (voc / TRAIN_LIST).write_text("a\nb\n")
    out = voc.parent / "fixed"
    words = [voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report"]
    assert call(*words, "--fix", out) == 2
    assert "found 0 for training and 2 for validation" in capsys.readouterr().err
    assert not out.exists()


def test_lists_of_files_are_corrected_to_ids(voc):
    (voc / TRAIN_LIST).write_text("/JPEGImages/i0.jpg /SegmentationClassAug/i0.png\ni1.jpg\n")
    out = voc.parent / "fixed"
    words = [voc, "--classes", voc.parent / "classes.txt", "--output", voc.parent / "report", "--fix", out]
    assert call(*words) == 0
    assert (out / TRAIN_LIST).read_text() == "i0\ni1\n"


def test_training_refuses_0_and_255_alone(voc, capsys):
    every(voc, SCRIBBLES, lambda v: np.where(v > 0, UNLABELLED, v))
    assert train(voc, "--epochs", 1) == 2
    assert "every pixel is 0 or 255" in capsys.readouterr().err


def test_an_image_above_the_limit_of_the_reader_is_one_line(voc, monkeypatch):
    monkeypatch.setattr("dataloaders.images.LARGEST", WIDTH * HEIGHT - 1)
    problems = check_dataset(voc, NAMES).problems
    assert {p.file for p in problems if p.kind == "unreadable"} >= {f"{SCRIBBLES}/i0.png", f"{IMAGES}/i0.jpg"}


def test_training_does_the_quick_part(voc, capsys):
    every(voc, SCRIBBLES, lambda v: np.where(v == 2, UNLABELLED, v))
    (voc / TRAIN_LIST).write_text("i0\ni1\ni6\n")
    assert train(voc, "--batch-size", 3, "--epochs", 1) == 0
    printed = capsys.readouterr().out
    assert "WARNING: a class is never labelled: the network cannot learn it ('dog')" in printed
    same = "the same picture is used for training and for validation: the scores are too good"
    assert f"WARNING: {same} (1 of the images, first 'i6')" in printed
    dataset = VOCSegmentation(DataOptions(), voc, "train", NAMES)
    assert len(quick_check(dataset, None, dataset.survey().counts)) == 1  # with --no-val there are no scores


def test_the_quick_part_names_all_classes_without_labels_at_once(voc):
    every(voc, SCRIBBLES, lambda v: np.where(v == 2, UNLABELLED, v))
    train, val = (VOCSegmentation(DataOptions(), voc, split, [*NAMES, "cow"]) for split in ("train", "val"))
    (line,) = quick_check(train, val, train.survey().counts)
    assert line.endswith("('dog', 'cow')")


def test_the_quick_part_sees_zeros_for_unlabelled(voc):
    thin_strokes_on_zero(voc)
    train, val = (VOCSegmentation(DataOptions(), voc, split, NAMES) for split in ("train", "val"))
    (line,) = quick_check(train, val, train.survey().counts)
    assert line.startswith("every pixel has a class") and KINDS["0 for unlabelled"].level == ERROR

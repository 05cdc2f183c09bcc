"""Pictures: names in any language, the overlay and its legend."""

import warnings

import numpy as np
import pytest
from PIL import Image

from dataloaders.labels import voc_palette
from figures import fonts, plotting
from figures.colours import classes_in, colour, scribble_picture
from figures.comparison import Compared, close_up
from figures.matrices import save_confusion, save_gradient
from figures.overlay import overlay
from figures.plotting import new_figure, save_figure
from figures.sheets import save_contact_sheet
from helpers import message

NAMES = ["background", "cat", "dog"]


@pytest.fixture
def without_japanese(monkeypatch):
    """No font but the one that comes with Matplotlib."""
    monkeypatch.setattr(fonts, "families", lambda: [fonts.DEFAULT])
    monkeypatch.setattr(plotting, "families", fonts.families)
    fonts.warn_of_missing_characters.cache_clear()


def test_names_need_not_be_latin_nor_fit_for_mathematics(tmp_path, without_japanese, caplog):
    """Regression: `$` began a formula, and characters without a font cost five lines of warnings a picture."""
    names = ("背景", "p$x_{$1", "nut")
    image, labels = Image.new("RGB", (20, 16)), np.tile(np.arange(20, dtype=np.uint8) % 3, (16, 1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        overlay(image, labels, names)
        save_contact_sheet(tmp_path / "sheet.png", [{"$_{": image, "b": labels}], names, "$_{", ["$_{"])
        save_confusion(tmp_path / "confusion.png", np.eye(3, dtype=int), names, "$_{")
        save_gradient(tmp_path / "gradient.png", np.zeros((9, 9)), names[0])
    assert not said and [record.levelname for record in caplog.records] == ["WARNING"]
    assert "apt-get install fonts-noto-cjk" in caplog.text


def test_a_name_that_no_font_has_is_readable_even_so(tmp_path, without_japanese):
    """Regression: it was a row of boxes, the same for every class."""
    assert fonts.drawable_names(["background", "猫", "naïve"]) == ["background", "class 1", "naïve"]
    assert fonts.drawable("写真 2.jpg\n34 %") == "?? 2.jpg\n34 %"
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path, name in zip(paths, ("自転車", "class 1"), strict=True):
        save_confusion(path, np.eye(2, dtype=int), ["background", name], "t")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_overlay_tints_objects_and_names_what_occurs():
    """In VOC's colours, made so light that 0, 128, 0 becomes 64, 187, 64: green is seen on black, too."""
    labels, first, second = np.zeros((600, 500), dtype=np.uint8), [187, 64, 64], [64, 187, 64]
    labels[200:400, 100:300] = 2
    image = Image.new("RGB", (500, 600), (100, 200, 40))
    picture = np.asarray(overlay(image, labels, NAMES)).astype(int)
    assert picture.shape[1] == 500 and picture.shape[0] > 600
    assert picture[100, 50].tolist() == [100, 200, 40]
    assert np.abs(picture[300, 200] - (np.array([100, 200, 40]) + second) / 2).max() <= 1
    assert picture[300, 100].tolist() == second  # the border
    legend = picture[600:].reshape(-1, 3)
    swatch = (legend == second).all(1).sum()
    assert 12 * 12 <= swatch <= 16 * 16
    assert not (legend == first).all(1).any()


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (3, 300), (479, 10), (3000, 200), (1, 3000)])
def test_an_overlay_of_any_size_can_be_looked_at(size):
    labels = np.ones(size[::-1], dtype=np.uint8)
    picture = overlay(Image.new("RGB", size, "white"), labels, NAMES)
    assert 480 <= max(picture.size) <= 1600 + 120
    legend = np.asarray(picture)[-40:]
    assert (legend == [187, 64, 64]).all(2).any() and (legend.sum(2) < 200).any()  # a swatch and letters


def compared(before: np.ndarray, after: np.ndarray, truth: np.ndarray | None) -> Compared:
    return Compared(Image.new("RGB", (10, 10), "grey"), None, truth, {"before": before, "after": after})


def test_close_up_is_where_most_is_corrected_by_hand():
    wrong, right = np.zeros((10, 10), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8)
    right[5:8, 6:10] = 1  # the square has a side of 4
    same = compared(right, right, right)
    better = compared(wrong, right, right)
    index, (left, top, box_right, bottom) = close_up([same, better], "before", "after")
    assert index == 1 and left == 6 and box_right == 10 and bottom - top == 4 and top <= 5 and bottom >= 8
    assert close_up([same, compared(right, wrong, right), compared(wrong, right, None)], "before", "after") is None
    void = np.where(right == 1, 255, right)  # what has no truth is not corrected
    assert close_up([compared(wrong, right, void)], "before", "after") is None


def test_close_up_is_framed_and_cut():
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10) % 3
    one = compared(labels, labels, labels)
    part = one.cut((2, 1, 6, 5))
    assert part.image.size == (4, 4) and np.array_equal(part.predictions["after"], labels[1:5, 2:6])
    assert part.scribble is None and one.row()["scribbles"] is None and one.classes == {0, 1, 2}
    picture = one.row((2, 1, 6, 5))["truth"]
    white = (picture == 255).all(-1)
    assert white[1:5, 2:6].sum() == 12 == white.sum()  # the border of a square of four pixels


@pytest.mark.parametrize(
    ("count", "name"),
    [(8, "{}"), (2, "a name of many words, as some data sets have them, {}"), (12, "unbroken" * 9 + "{}")],
)
def test_the_legend_of_a_sheet_is_whole(tmp_path, name, count):
    """Regression: classes beyond the seventh and long names were cut off at both sides."""
    path, rows = tmp_path / "sheet.png", [{"image": Image.new("RGB", (40, 20), "white"), "truth": None}]
    save_contact_sheet(path, rows, [name.format(k) for k in range(count)], "t", classes=range(count))
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for k in range(1, count):  # the whole of a swatch
        assert (np.abs(picture - voc_palette()[k]).max(2) <= 1).sum() > 60, k
    edge = np.concatenate([picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    assert (edge == 255).all()  # nothing touches an edge
    assert picture.shape[1] < 380  # the column without pictures is left out


def test_classes_that_are_only_drawn_are_in_the_legend():
    scribble = np.full((10, 10), 255, dtype=np.uint8)
    scribble[3] = 2
    labels = np.zeros((10, 10), dtype=np.uint8)
    one = Compared(Image.new("RGB", (10, 10), "grey"), scribble, None, {"before": labels, "after": labels})
    assert one.classes == {0, 2} == classes_in(scribble, None, labels)


def test_a_confusion_matrix_of_many_classes_can_be_looked_at(tmp_path):
    save_confusion(tmp_path / "confusion.png", np.zeros((60, 60), dtype=int), ["a long name " * 9] * 60, "t")
    assert max(Image.open(tmp_path / "confusion.png").size) < 2400


@pytest.mark.parametrize(("count", "name"), [(2, "{}"), (2, "unbroken" * 9 + "{}"), (9, "a name of many words, {}")])
def test_a_confusion_matrix_of_few_classes_is_whole(tmp_path, count, name):
    """Regression: long names left no room for two classes, and the axes' names were cut off."""
    path = tmp_path / "confusion.png"
    save_confusion(path, np.eye(count, dtype=int), [name.format(k) for k in range(count)], "a title of the report " * 6)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    edge = np.concatenate([picture[:, [0, -1]].reshape(-1, 3), picture[[0, -1]].reshape(-1, 3)])
    assert (edge == 255).all()  # nothing touches an edge
    dark = (np.abs(picture - (8, 48, 107)).max(2) <= 1).sum()  # 100 %, in `count` cells and part of the colour bar
    assert dark > 0.6 * count * (110 * min(0.42, 2 / count)) ** 2


def test_a_figure_is_of_the_kind_that_its_name_says(tmp_path):
    """Regression: all were PNGs, whatever they were called."""
    figure = new_figure(1, 1)
    for kind, begins in {"png": b"\x89PNG", "PDF": b"%PDF", "svg": b"<?xml"}.items():
        save_figure(figure, path := tmp_path / f"figure.{kind}")
        assert path.read_bytes().startswith(begins)
    assert "expected a picture's ending (" in message(save_figure, figure, tmp_path / "figure.xyz")


def test_a_sheet_of_images_without_scribbles(tmp_path):
    labels = np.zeros((10, 10), dtype=np.uint8)
    row = compared(labels, labels, labels).row()
    save_contact_sheet(tmp_path / "sheet.png", [row], ["background"], "title", classes=[0])
    assert Image.open(tmp_path / "sheet.png").width > 100


def test_thin_strokes_are_seen_on_large_images():
    """Regression: sheets, which show every eighth pixel of a panorama, had none of its strokes."""
    scribble = np.full((200, 2000), 255, dtype=np.uint8)
    scribble[101:103, 900:1000] = 2
    picture = scribble_picture(Image.new("RGB", (2000, 200), "white"), scribble)
    for first in range(8):
        assert (picture[first::8, 950] == colour(np.array(2))).all(1).any()
    assert (picture[:97] == 255).all() and (picture[:, :890] == 255).all()

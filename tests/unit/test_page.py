"""The annotation page without a browser: strokes on the disk, pictures, classes, rounds, and who is let in."""

import io
import json
import os
import shutil
import signal
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette", reason="the annotation page needs starlette (requirements-app.txt)")
from starlette.testclient import TestClient

import import_scribbles
import inference
from common.errors import InputError
from dataloaders.images import read_label, write_label
from dataloaders.labels import UNLABELLED
from dataloaders.layout import IMAGES, SCRIBBLES, TRUTH, read_class_names
from helpers import call, finish_round, message, write_grey_png
from page import exports, process, rounds, server
from page.process import progress
from page.project import Project, open_project
from page.rounds import (
    RoundSettings,
    add_to_record,
    new_round,
    predict_image,
    read_record,
    rounds_in,
    run_round,
    scaled_strokes,
    start_of,
    training_images,
)
from page.security import Gate
from page.server import Page
from page.strokes import Strokes, checked, read_log
from page.uncertainty import most_uncertain_place, uncertainty_map
from training.run_folder import STEPS

WIDTH, HEIGHT = 60, 40
LINE = [[5, 5], [30.5, 20], [12, 33.3]]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set of three photographs on which nothing is drawn."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(photographs / f"{name}.png")
    return open_project(photographs, tmp_path / "data", ["cat", "dog"])


@pytest.fixture
def page(folder) -> TestClient:
    return TestClient(Page(folder).app())


def stroke(name: str, value: int | None = 1, width: int = 5, points=LINE) -> dict:
    return {"id": name, "op": "stroke", "class": value, "width": width, "points": points}


def strokes_of(folder: Path) -> Strokes:
    return Strokes(Project(folder))


def draw(strokes: Strokes, *operations: dict, image: str = "a") -> np.ndarray:
    for operation in operations:
        strokes.append(image, checked(operation, 3))
    return strokes.label_map(image)


# Strokes


def test_strokes_are_drawn_as_import_scribbles_draws_them(folder, tmp_path):
    shapes = [
        {"label": "cat", "shape_type": "linestrip", "points": LINE},
        {"label": "dog", "shape_type": "point", "points": [[20, 14]]},
        {"label": "background", "shape_type": "linestrip", "points": [[-10, 38], [70, 10]]},
    ]
    for name in ("a", "b", "c"):
        shutil.copy(folder / IMAGES / f"{name}.png", tmp_path / f"{name}.png")
        file = {"shapes": shapes, "imagePath": f"{name}.png", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
    classes = folder / "classes.txt"
    assert call(import_scribbles, tmp_path, tmp_path / "imported", "--width", 6, "--classes", classes) == 0
    strokes = strokes_of(folder)
    for number, (shape, value) in enumerate(zip(shapes, (1, 2, 0), strict=True)):
        strokes.append("a", checked(stroke(str(number), value, 6, shape["points"]), 3))
    strokes.draw_all()
    drawn, imported = (read_label(data / SCRIBBLES / "a.png", 3) for data in (folder, tmp_path / "imported"))
    assert set(np.unique(drawn)) == {0, 1, 2, UNLABELLED} and np.array_equal(drawn, imported)


def test_a_stroke_that_would_take_hours_to_draw_is_refused():
    """Regression: one of 100,000 points from side to side took all memory."""
    there_and_back = [[n % 2 * 4000, n % 3000] for n in range(100_000)]
    assert "at most 1,000,000 pixels" in message(checked, stroke("1", points=there_and_back), 3)
    assert checked(stroke("1", points=there_and_back[:200]), 3)["points"][1] == [4000, 1]


def test_undo_redo_and_the_eraser(folder):
    strokes = strokes_of(folder)
    both = draw(strokes, stroke("1"), stroke("2", 2, 3, [[10, 5], [50, 30]]))
    without = draw(strokes, {"id": "3", "op": "remove", "stroke": "1"})
    assert set(np.unique(without)) == {2, UNLABELLED} and strokes.classes("a") == [2]
    again = draw(strokes, {"id": "4", "op": "restore", "stroke": "1"})
    assert np.array_equal(again, both)  # also where 2 lies over 1
    erased = draw(strokes, stroke("5", None, 9, [[0, 5], [59, 5]]))
    assert (erased[4:7] == UNLABELLED).all() and (erased != both).any()


def test_two_tabs_lose_nothing_and_repeated_operations_change_nothing(folder, page):
    for number in range(6):
        tab = "first" if number % 2 else "second"
        operation = stroke(f"{tab}-{number}", number % 3, points=[[number, number]])
        for _ in range(2):  # the page repeats what was not answered
            assert page.post("/api/images/a/strokes", json=operation).json() == {"ok": True}
    found = page.get("/api/images/a/strokes").json()["strokes"]
    assert [one["points"] for one in found] == [[[number, number]] for number in range(6)]
    assert len(read_log(folder / "strokes/a.jsonl")[0]) == 6


def test_pages_of_another_data_set_are_sent_back(folder, page):
    """Regression: a tab that was open when another data set came to its address drew on the photographs of that one."""
    theirs, ours = ({"rloss-data": quote(str(one), safe="")} for one in ("/data/\u65e5\u672c", folder))
    for path, body in (("images/a/strokes", stroke("1")), ("train", {}), ("classes", {"name": "cow"})):
        answer = page.post(f"/api/{path}", json=body, headers=theirs)
        assert answer.status_code == 421 and "found one of /data/\u65e5\u672c: reload it" in answer.json()["error"]
    assert page.get("/api/images/a/strokes").json()["strokes"] == []
    assert page.post("/api/images/a/strokes", json=stroke("1"), headers=ours).status_code == 200


def test_half_a_line_of_a_killed_server_is_left_out_and_written_anew(folder, caplog):
    strokes = strokes_of(folder)
    draw(strokes, stroke("1"), stroke("2", 2))
    log, scribble = folder / "strokes/a.jsonl", folder / SCRIBBLES / "a.png"
    whole = log.read_bytes()
    for cut in (1, 30, len(whole.splitlines()[1])):
        strokes.draw_all()
        scribble.unlink()
        log.write_bytes(whole[:-cut])
        strokes = strokes_of(folder)
        assert list(strokes.drawn("a").strokes) == ["1"] and "torn last line" in caplog.text
        draw(strokes, stroke("2", 2))
        assert log.read_bytes() == whole


def test_a_damaged_line_is_named(folder):
    log = folder / "strokes/a.jsonl"
    log.parent.mkdir()
    log.write_text('{"id": "1", "op": "remove", "stroke": "0"}\nnonsense\n')
    assert f"line 2 of {log} damaged" in message(read_log, log)


def test_the_scribble_map_is_drawn_at_the_start_where_the_server_was_killed_before(folder):
    before = strokes_of(folder)
    expected = draw(before, stroke("1"))
    before.draw_all()
    scribble = folder / SCRIBBLES / "a.png"
    scribble.rename(scribble.with_name(".a.png.99.140"))  # as of a server that was killed while it drew
    strokes_of(folder).draw_all()
    assert [path.name for path in scribble.parent.iterdir()] == ["a.png"]
    assert np.array_equal(read_label(scribble, 3), expected)


def test_scribbles_of_others_are_kept_below_the_strokes(folder):
    scribble, others = folder / SCRIBBLES / "b.png", np.full((HEIGHT, WIDTH), UNLABELLED, np.uint8)
    scribble.parent.mkdir()
    others[:3] = 2
    write_label(scribble, others)
    strokes = strokes_of(folder)
    assert strokes.classes("b") == [2]
    label = draw(strokes, stroke("1", 1, 3, [[30, 0], [30, 20]]), image="b")
    strokes.draw_all()
    assert (label[0, :20] == 2).all() and label[10, 30] == 1 and strokes.classes("b") == [1, 2]
    others[:] = UNLABELLED
    others[20:] = 0
    later = time.time_ns() + 10**9
    write_label(scribble, others)  # as by import_scribbles.py --overwrite, while the page is open
    os.utime(scribble, ns=(later, later))
    assert strokes.classes("b") == [0] and strokes.drawn("b").live() == []
    label = draw(strokes, stroke("2", 1, 3, [[30, 0], [30, 20]]), image="b")
    assert label[0, 0] == UNLABELLED and label[30, 0] == 0 and label[10, 30] == 1


def test_an_older_map_from_outside_is_a_base_too(folder):
    """Regression: cp -p, rsync, or a backup brought it, and the next stroke overwrote it without a word."""
    scribble, others = folder / SCRIBBLES / "a.png", np.full((HEIGHT, WIDTH), UNLABELLED, np.uint8)
    others[:3] = 2
    for hours, make in ((1, lambda strokes: strokes), (2, lambda strokes: strokes_of(folder))):  # running; at a start
        strokes = strokes_of(folder)
        draw(strokes, stroke(str(hours)))
        strokes.draw_all()
        write_label(scribble, others)
        earlier = time.time_ns() - hours * 3600 * 10**9
        os.utime(scribble, ns=(earlier, earlier))
        strokes = make(strokes)
        assert strokes.classes("a") == [2] and strokes.drawn("a").live() == []
        others[hours * 5] = 2


def test_a_map_that_the_page_drew_before_it_was_killed_is_no_base(folder):
    strokes = strokes_of(folder)
    for name, operation in enumerate([stroke("0"), {"id": "x", "op": "remove", "stroke": "0"}, stroke("1", 2)]):
        draw(strokes, operation)
        strokes.draw_all()
        kept = folder / f"{name}.png"
        if (folder / SCRIBBLES / "a.png").exists():
            shutil.copy2(folder / SCRIBBLES / "a.png", kept)
    expected = draw(strokes, stroke("2", 1, 3, [[50, 35]]))
    strokes.draw_all()
    for name in ("0", "2"):
        shutil.copy2(folder / f"{name}.png", folder / SCRIBBLES / "a.png")
        again = strokes_of(folder)
        again.draw_all()
        assert not again.drawn("a").has_base
        assert np.array_equal(read_label(folder / SCRIBBLES / "a.png", 3), expected)


def test_a_map_that_something_removes_is_drawn_again(folder):
    """Regression: the page went on showing the strokes, and no round learned from them."""
    strokes = strokes_of(folder)
    expected = draw(strokes, stroke("1"))
    strokes.draw_all()
    (folder / SCRIBBLES / "a.png").unlink()
    strokes.draw_all()
    assert np.array_equal(read_label(folder / SCRIBBLES / "a.png", 3), expected)


@pytest.mark.parametrize("name", ["a.PNG", "e\u0301.png"])
def test_maps_whose_names_are_spelt_otherwise(folder, name):
    """Regression: they were not shown, and the first stroke made a second map of that image."""
    (folder / IMAGES / "a.png").rename(folder / IMAGES / name)
    others = np.full((HEIGHT, WIDTH), UNLABELLED, np.uint8)
    others[:3] = 2
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    write_label(folder / SCRIBBLES / name, others)
    (image,) = Project(folder).files().keys() - {"b", "c"}
    strokes = strokes_of(folder)
    assert strokes.classes(image) == [2]
    label = draw(strokes, stroke("1"), image=image)
    strokes.draw_all()
    assert [path.name for path in (folder / SCRIBBLES).iterdir()] == [name] and (label[:2] == 2).all()
    assert np.array_equal(read_label(folder / SCRIBBLES / name, 3), label)


def test_a_map_that_an_editor_has_saved_in_colour_is_an_error_of_its_image(folder):
    """Regression: the page did not even start."""
    strokes = strokes_of(folder)
    expected = draw(strokes, stroke("1"))
    strokes.draw_all()
    scribble = folder / SCRIBBLES / "a.png"
    Image.open(scribble).convert("RGB").save(scribble)
    page = TestClient(Page(folder).app())
    states = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert "found mode 'RGB'" in states["a"]["error"] and states["b"]["error"] is None
    answer = page.post("/api/images/a/strokes", json=stroke("2"))
    assert answer.status_code == 507  # so that the page keeps the stroke
    assert answer.json()["error"].endswith("or delete it: what was drawn in the page is drawn again")
    scribble.unlink()
    strokes_of(folder).draw_all()
    assert np.array_equal(read_label(scribble, 3), expected)


def test_a_photograph_of_another_size_than_was_drawn_on(folder, page):
    """Regression: the strokes went to wrong places, and a label map of the old size blocked every training."""
    assert page.post("/api/images/a/strokes", json=stroke("1")).status_code == 200
    photograph = folder / IMAGES / "a.png"
    photograph.rename(folder / "old.png")
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(photograph)
    states = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    wrong = (
        f"was drawn on, of {WIDTH}x{HEIGHT} pixels, found one of {WIDTH // 2}x{HEIGHT}, {photograph}: put the old one"
    )
    assert wrong in states["a"]["error"] and states["b"]["error"] is None
    assert page.post("/api/images/a/strokes", json=stroke("2")).status_code == 507
    assert wrong in page.post("/api/train", json={}).json()["error"]
    photograph.rename(folder / "new.png")
    (folder / "old.png").rename(photograph)
    states = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert states["a"]["error"] is None and states["a"]["strokes"] == 1
    (folder / "new.png").replace(photograph)
    (folder / "strokes/a.jsonl").unlink()
    (folder / SCRIBBLES / "a.png").unlink(missing_ok=True)
    states = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert states["a"]["error"] is None and states["a"]["strokes"] == 0
    assert page.post("/api/images/a/strokes", json=stroke("2")).status_code == 200


def test_photographs_and_scribbles_that_are_imported_anew_take_the_place_of_what_was_drawn(folder):
    strokes = strokes_of(folder)
    draw(strokes, stroke("1"))
    strokes.draw_all()
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(folder / IMAGES / "a.png")
    write_label(folder / SCRIBBLES / "a.png", np.ones((HEIGHT, WIDTH // 2), np.uint8))
    assert strokes.drawn("a").live() == [] and strokes.classes("a") == [1]


def test_a_second_photograph_of_one_name_holds_strokes_back(folder):
    """Regression: strokes on all images were refused for good, and each look at the disk was a traceback."""
    ours = Page(folder)
    page = TestClient(ours.app())
    Image.new("RGB", (9, 9)).save(folder / IMAGES / "c.bmp")
    answer = page.post("/api/images/a/strokes", json=stroke("1"))
    assert answer.status_code == 507 and "found c.bmp and c.png" in answer.json()["error"]
    assert "found c.bmp and c.png" in ours._stamps()["images"]
    (folder / IMAGES / "c.bmp").unlink()
    assert page.post("/api/images/a/strokes", json=stroke("1")).status_code == 200


def test_a_folder_is_listed_again_when_it_has_changed(folder):
    """Regression: it was listed for each image, and a data set of 3,000 with scribbles did not open."""
    project, earlier = Project(folder), time.time_ns() - 10**10
    os.utime(folder / IMAGES, ns=(earlier, earlier))
    assert project.files() is project.files()
    Image.new("RGB", (9, 9)).save(folder / IMAGES / "d.png")  # within a tick of the clock, from here on
    assert "d" in project.files()
    os.utime(folder / IMAGES, ns=(now := time.time_ns(), now))
    project.files()
    (folder / IMAGES / "e.png").write_bytes((folder / IMAGES / "d.png").read_bytes())
    os.utime(folder / IMAGES, ns=(now, now))
    assert "e" in project.files()


def test_scribbles_of_another_size_are_an_error_of_their_image(folder, page):
    """Regression: strokes went into a map of that size, training took it stretched, and the round broke off."""
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    write_label(folder / SCRIBBLES / "c.png", np.ones((HEIGHT // 2, WIDTH), np.uint8))
    error = f"expected a label map of {WIDTH}x{HEIGHT} pixels"
    states = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert states["c"]["error"].startswith(error) and states["a"]["error"] is None
    assert page.post("/api/images/c/strokes", json=stroke("1")).json()["error"].startswith(error)
    assert message(training_images, folder, set()).startswith(error)


def test_scribbles_of_any_palette_are_shown_in_the_colours_of_the_classes(folder, page):
    grey = np.full((HEIGHT, WIDTH), UNLABELLED, np.uint8)
    grey[3] = 2
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    Image.fromarray(grey).save(folder / SCRIBBLES / "c.png")
    base = page.get("/api/images/c/strokes").json()["base"]
    shown = Image.open(io.BytesIO(page.get(base).content)).convert("RGB")
    colours = [one["color"] for one in page.get("/api/state").json()["classes"]]
    assert f"#{bytes(shown.getpixel((5, 3))).hex()}" == colours[2]
    assert np.array_equal(np.array(Image.open(io.BytesIO(page.get(base).content))), grey)
    Image.fromarray(grey[::-1]).save(folder / SCRIBBLES / "c.png")  # the page asks again where the address is another
    os.utime(folder / SCRIBBLES / "c.png", ns=(later := time.time_ns() + 10**9, later))
    assert page.get("/api/images/c/strokes").json()["base"] != base


def test_a_clock_that_is_put_back_loses_no_stroke(folder):
    strokes = strokes_of(folder)
    draw(strokes, stroke("1"))
    log, tomorrow = folder / "strokes/a.jsonl", time.time_ns() + 86400 * 10**9
    os.utime(log, ns=(tomorrow, tomorrow))
    strokes.draw_all()
    label = draw(strokes, stroke("2", 2, 3, [[50, 35]]))
    assert np.array_equal(strokes_of(folder).label_map("a"), label) and label[35, 50] == 2


def test_what_is_erased_throughout_has_no_scribble_map(folder):
    strokes = strokes_of(folder)
    draw(strokes, stroke("1"))
    strokes.draw_all()
    assert (folder / SCRIBBLES / "a.png").exists()
    draw(strokes, stroke("2", None, 200))
    strokes.draw_all()
    assert not (folder / SCRIBBLES / "a.png").exists() and strokes.classes("a") == [1]


def test_a_stroke_that_cannot_be_written_is_said_at_once_and_can_be_sent_again(folder, page):
    log = folder / "strokes/a.jsonl"
    log.symlink_to("/dev/full")
    answer = page.post("/api/images/a/strokes", json=stroke("1"))
    assert answer.status_code == 507 and "No space left on device" in answer.json()["error"]
    # Regression: all tabs said it, also long after the disk was freed, until the next stroke.
    assert page.get("/api/state").json()["trouble"] is None
    assert page.get("/api/images/a/strokes").json()["strokes"] == []
    log.unlink()
    assert page.post("/api/images/a/strokes", json=stroke("1")).status_code == 200


def test_a_full_disk_is_no_refusal_where_scribbles_were_imported(folder, page, monkeypatch):
    """Regression: the page offered to discard the stroke."""
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    write_label(folder / SCRIBBLES / "a.png", np.zeros((HEIGHT, WIDTH), np.uint8))

    def full(self, image_id):
        raise InputError("cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(Strokes, "_take_base", full)
        answer = page.post("/api/images/a/strokes", json=stroke("1"))
        assert answer.status_code == 507 and "No space left" in answer.json()["error"]
    assert page.post("/api/images/a/strokes", json=stroke("1")).status_code == 200


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"class": 3}, "class of 0 to 2"),
        ({"class": True}, "class of 0 to 2"),
        ({"width": 0}, "width of 1"),
        ({"width": 2.5}, "width of 1"),
        ({"points": []}, "pairs of numbers"),
        ({"points": [[1, 2, 3]]}, "pairs of numbers"),
        ({"points": [[1, float("nan")]]}, "pairs of numbers"),
        ({"points": [[1e9, 0]]}, "pairs of numbers"),
        ({"points": [["x", 1]]}, "pairs of numbers"),
        ({"op": "move"}, "stroke, remove or restore"),
        ({"id": ""}, "id of 1 to 64"),
        ({"op": "remove", "stroke": "unknown"}, "a stroke of 'a'"),
    ],
)
def test_operations_that_are_none(page, change, expected):
    answer = page.post("/api/images/a/strokes", content=json.dumps(stroke("1") | change))
    assert answer.status_code == 400 and expected in answer.json()["error"]


# Photographs and classes


def test_photographs_are_shown_upright_and_reduced(folder, page):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.paste("red", (0, 0, WIDTH, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise for looking
    image.save(folder / IMAGES / "turned.jpg", exif=exif)
    state = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert (state["turned"]["width"], state["turned"]["height"]) == (HEIGHT, WIDTH)
    shown = Image.open(io.BytesIO(page.get("/api/images/turned/photo").content))
    assert shown.size == (HEIGHT, WIDTH) and not shown.getexif()
    assert shown.getpixel((HEIGHT - 3, 30))[0] > 200 > shown.getpixel((3, 30))[0]
    answer = page.get("/api/images/turned/photo?size=30")
    assert Image.open(io.BytesIO(answer.content)).size == (20, 30)
    again = page.get("/api/images/turned/photo?size=30", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


def test_photographs_that_are_broken_or_gone(folder, page):
    (folder / IMAGES / "broken.jpg").write_bytes(b"no picture")
    content = bytearray((folder / IMAGES / "c.png").read_bytes())
    content[-13] ^= 1  # the check sum of the pixels
    (folder / IMAGES / "damaged.png").write_bytes(content)
    assert all(one["error"] for one in page.get("/api/state").json()["images"] if one["id"] in ("broken", "damaged"))
    state = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert "cannot read" in state["broken"]["error"]
    answer = page.get("/api/images/broken/photo")
    assert answer.status_code == 400 and "cannot read" in answer.json()["error"]
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    (folder / SCRIBBLES / "b.png").write_bytes(b"no scribbles")
    state = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert "b.png" in state["b"]["error"] and state["a"]["error"] is None
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / IMAGES / "float.tif")  # only reading it tells
    assert page.get("/api/images/float/photo?size=256").status_code == 400
    state = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert "floating-point" in state["float"]["error"]
    Image.new("RGB", (9, 9)).save(folder / IMAGES / "float.tif")
    state = {one["id"]: one for one in page.get("/api/state").json()["images"]}
    assert state["float"]["error"] is None
    (folder / IMAGES / "a.png").unlink()
    assert page.get("/api/images/a/photo").status_code == 404
    assert "a" not in [one["id"] for one in page.get("/api/state").json()["images"]]


def test_a_photograph_that_vanishes_after_it_was_listed(folder, monkeypatch):
    """Regression: the server failed at it, for all images."""
    served = Page(folder)
    draw(served.strokes, stroke("1"))
    listed = served.project.photographs()
    (folder / IMAGES / "a.png").unlink()
    monkeypatch.setattr(served.project, "photographs", lambda: listed)
    images = TestClient(served.app()).get("/api/state").json()["images"]
    assert "found none any more" in images[0]["error"] and [one["error"] for one in images[1:]] == [None, None]
    for look_up in (served.strokes.label_map, served.strokes.drawn):
        assert "found none any more" in message(look_up, "a")


def png(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("1", size).save(content, "PNG")
    return content.getvalue()


def test_uploads_are_photographs_within_limits(folder, page):
    assert page.post("/api/images?name=../../.new one.png", content=png((8, 6))).json() == {"id": "new one"}
    assert (folder / IMAGES / "new one.png").is_file() and not (folder.parent / "new one.png").exists()
    bomb = bytearray(png((8, 6)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # its header says 3.6 gigapixels
    refused = {
        "x.png": bytes(bomb),
        "y.png": b"no picture",
        "z.exe": png((8, 6)),
        "i.heic": b"no photograph",
        "a.jpg": png((8, 6)),
        "": png((8, 6)),
    }
    for name, content in refused.items():
        answer = page.post(f"/api/images?name={name}", content=content)
        assert answer.status_code == 400 and "\n" not in answer.json()["error"], name
        assert ".upload" not in answer.json()["error"], name
    assert sorted(path.name for path in (folder / IMAGES).iterdir()) == ["a.png", "b.png", "c.png", "new one.png"]
    assert not list(folder.glob(".upload*"))


def test_of_two_uploads_of_one_name_one_is_refused(folder, page):
    """Regression: both were taken, and one photograph was lost."""
    contents = [png((1500, 1500 + n)) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda content: page.post("/api/images?name=x.png", content=content), contents))
    taken = [answer.status_code for answer in answers]
    assert sorted(taken) == [200, 400, 400, 400]
    assert (folder / IMAGES / "x.png").read_bytes() == contents[taken.index(200)]


def test_scribbles_below_the_strokes_of_any_name(folder):
    """Regression: %41 in a name was read as A."""
    name = "p%41 #q?"  # which the test's client would decode twice
    (folder / IMAGES / "c.png").rename(folder / IMAGES / f"{name}.png")
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    write_label(folder / SCRIBBLES / f"{name}.png", np.ones((HEIGHT, WIDTH), np.uint8))
    request = SimpleNamespace(path_params={"image_id": name})
    base = Page(folder).get_strokes(request, b"")["base"]
    assert base.startswith("api/images/p%2541%20%23q%3F/base.png?")  # relative: behind a proxy too


def test_no_path_leaves_the_data_set(page):
    for name in ("..%2F..%2Fclasses", "%2Fetc%2Fpasswd", "..", "unknown"):
        assert page.get(f"/api/images/{name}/photo").status_code == 404
        assert page.post(f"/api/images/{name}/strokes", json=stroke("1")).status_code == 404
    assert page.get("/static/..%2Fserver.py").status_code == 404


def test_classes_are_added_and_renamed(folder, page):
    assert page.post("/api/classes", json={"name": " gray  e\u0301lan "}).json() == {"ok": True}
    assert page.put("/api/classes/1", json={"name": "lynx"}).json() == {"ok": True}
    names = ("background", "lynx", "dog", "gray \u00e9lan")
    assert read_class_names(folder / "classes.txt") == names
    for name in ("Lynx", "unlabelled", "background", "\0", "", " ", 7, "x" * 101):
        assert page.post("/api/classes", json={"name": name}).status_code == 400, name
    assert read_class_names(folder / "classes.txt") == names
    assert page.put("/api/classes/9", json={"name": "x"}).status_code == 404


def test_a_data_set_of_photographs(tmp_path, folder, caplog):
    photographs = tmp_path / "photographs"
    Image.new("RGB", (9, 9)).save(photographs / "later.png")
    assert open_project(photographs, folder, []) == folder  # the next start
    assert (folder / IMAGES / "later.png").is_file()
    assert open_project(photographs, folder, ["cow"]) == folder
    assert f"{folder} has classes already, which stay: background, cat, dog" in caplog.text
    caplog.clear()
    (photographs / "later.png").rename(photographs / "sooner.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "new.png")
    (tmp_path / "new.png").replace(photographs / "b.png")
    with caplog.at_level("INFO"):
        open_project(photographs, folder, [])  # regression: not a word of them
    assert f"photographs of {folder} that are not in {photographs}: 1 (first later)" in caplog.text
    assert f"photographs that have changed in {photographs}: 1 (first b.png); the data set keeps its own" in caplog.text
    (photographs / "b.png").unlink()
    (photographs / "b.png").symlink_to("gone")
    open_project(photographs, folder, [])
    assert caplog.text.count("photographs that have changed") == 2
    stack = [Image.new("L", (9, 9)) for _ in range(5)]
    stack[0].save(photographs / "stack.tif", save_all=True, append_images=stack[1:])
    open_project(photographs, folder, [])
    assert f"{photographs / 'stack.tif'}: has 5 pages, of which only the first is taken" in caplog.text
    (photographs / "more").mkdir()
    Image.new("RGB", (9, 9)).save(photographs / "more/a.jpg")
    assert "one photograph of each name" in message(open_project, photographs, folder, [])
    long = photographs / f"{70 * '葉'}.png"  # the files of its strokes would have names that are too long
    (photographs / "a.png").rename(long)
    assert "at most 200 bytes in UTF-8, found" in message(open_project, photographs, folder, [])
    assert "at most 200 bytes in UTF-8, found" in message(Project(folder).add, long.name, long.read_bytes())
    (tmp_path / "empty").mkdir()
    assert "found none" in message(open_project, tmp_path / "empty", None, [])
    bad = photographs / os.fsdecode(
        "猫.png".encode("shift_jis")
    )  # of an old ZIP; regression: it came into the data set
    long.rename(bad)
    assert "that fit on a line, in UTF-8" in message(open_project, photographs, folder, [])
    assert not (folder / IMAGES / bad.name).exists()
    assert "leave out --output" in message(open_project, folder, tmp_path / "x", [])
    assert "no such folder" in message(open_project, tmp_path / "nothing", None, [])
    (folder / "classes.txt").unlink()
    (folder / SCRIBBLES).mkdir()
    write_label(folder / SCRIBBLES / "a.png", np.full((HEIGHT, WIDTH), 2, np.uint8))
    assert "give --classes" in message(open_project, folder, None, [])
    assert open_project(folder, None, ["cat", "dog"]) == folder


def test_a_copy_that_is_interrupted_is_no_photograph(tmp_path, folder, monkeypatch):
    """Regression: half a file stayed, and counted as there."""

    def no_link(source, target):
        raise OSError("another file system")

    def interrupted(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:9])
        raise KeyboardInterrupt

    photograph = tmp_path / "photographs/later.png"
    Image.new("RGB", (9, 9)).save(photograph)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_link)
        patch.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_project(photograph.parent, folder, [])
    assert sorted(path.name for path in (folder / IMAGES).iterdir()) == ["a.png", "b.png", "c.png"]
    monkeypatch.setattr(os, "link", no_link)
    open_project(photograph.parent, folder, [])
    assert (folder / IMAGES / "later.png").read_bytes() == photograph.read_bytes()


@pytest.mark.parametrize("name", ["classes.txt", "pascal_2012_scribble", "SegmentationClassAug"])
@pytest.mark.parametrize("given", [[], ["cat", "dog"]])
def test_links_that_lead_nowhere_are_not_taken_for_absent(tmp_path, folder, name, given):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "gone")
    for source in (folder, tmp_path / "photographs"):  # the data set, and the photographs it was made of
        said = message(open_project, source, None if source == folder else folder, given)
        assert f"{folder / name}: it is a link to {tmp_path / 'gone'}, where nothing is" in said
    assert (folder / name).is_symlink() and not (tmp_path / "gone").exists()


def test_scribbles_behind_a_link_that_leads_nowhere_are_not_drawn_over(tmp_path, folder, page):
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    (folder / SCRIBBLES / "b.png").symlink_to(tmp_path / "gone.png")
    assert "gone.png, where nothing is" in page.get("/api/state").json()["images"][1]["error"]
    assert page.post("/api/images/b/strokes", json=stroke("1")).status_code != 200
    assert (folder / SCRIBBLES / "b.png").is_symlink()


# Who is let in


def gate(folder: Path, address: str = "127.0.0.1", token: str | None = None) -> TestClient:
    return TestClient(Gate(Page(folder).app(), address, 8000, token), base_url=f"http://{address}:8000")


def test_other_hosts_origins_and_sites_are_refused(folder):
    page = gate(folder)
    ours = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert page.get("/api/state", headers=ours).status_code == 200
    assert page.get("/api/state", headers={"host": "localhost:8000"}).status_code == 200
    for headers in (
        {"host": "evil.example"},
        {"host": "127.0.0.1:8001"},
        {"host": "evil.example:8000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "https://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ):
        for answer in (page.get("/api/state", headers=headers), page.post("/api/train/stop", headers=headers)):
            assert answer.status_code == 403 and "expected" in answer.json()["error"], headers
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.get("/", headers=link).status_code == 200
    assert page.post("/api/train/stop", headers=link).status_code == 403
    policy = page.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy


def test_other_addresses_need_the_token(folder):
    page = gate(folder, "192.168.0.9", "sesame")
    for path in ("/", "/api/state", "/static/x", "/?token=wrong", "/?token=", "/?token=%ff"):
        assert page.get(path).status_code == 403, path
    assert page.get("/api/state", headers={"cookie": 'rloss-8000="; x'}).status_code == 403
    answer = page.get("/?token=sesame", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert page.get("/api/state").status_code == 200  # with the cookie
    for other in ('prefs={"theme":"dark"}', "a=b c", "grafana[x]=1", "x=\u65e5".encode("utf-8").decode("latin-1")):
        headers = {"cookie": f"{other}; rloss-8000=sesame".encode("latin-1")}  # of another program on this host
        assert gate(folder, "192.168.0.9", "sesame").get("/api/state", headers=headers).status_code == 200, other
    assert page.get("/api/state", headers={"host": "127.0.0.1:8000"}).status_code == 403


def test_requests_that_are_too_large_or_no_json(page):
    assert page.post("/api/images/a/strokes", content=b" " * (2**22 + 1)).status_code == 413
    half_a_letter = json.dumps(stroke("\ud800")).encode()  # regression: it spoiled the log for good
    for content in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000, half_a_letter):
        assert page.post("/api/images/a/strokes", content=content).status_code == 400


# Rounds


def test_uncertainty_by_hand():
    soft = torch.tensor([[[0.5, 0.9]], [[0.3, 0.05]], [[0.2, 0.05]]])  # three classes, two pixels
    assert torch.allclose(uncertainty_map(soft), torch.tensor([[0.8, 0.15]]))
    unsure = torch.zeros(48, 60)
    unsure[30, 10] = 1.0  # a lone pixel
    unsure[4:12, 40:48] = 0.6  # and a region, whose middle is at (43.5, 7.5)
    x, y = most_uncertain_place(unsure)
    assert abs(x - 43.5) < 2 and abs(y - 7.5) < 2
    flat = torch.ones(48, 60)
    assert min(most_uncertain_place(flat)) >= 4  # off the border
    drawn = torch.zeros(48, 60, dtype=torch.bool)
    drawn[:20, 30:] = True
    x, y = most_uncertain_place(unsure, drawn)
    assert abs(x - 10) < 3 and abs(y - 30) < 3


def test_an_images_uncertainty_is_the_mean_of_its_map(monkeypatch):
    logits = torch.zeros(1, 2, 40, 60)
    logits[0, 0, :, :45] = np.log(3)  # three quarters with probabilities 3/4 and 1/4, one with equal ones
    monkeypatch.setattr("page.rounds.predict", lambda *given, **named: [logits])
    mask, uncertainty, _ = predict_image(None, Image.new("RGB", (60, 40)), 40, None, True)
    assert uncertainty == pytest.approx(3 / 4 * 1 / 2 + 1 / 4) and not mask[:, :45].any()


def test_thin_strokes_outlive_scaling_down():
    label = np.full((90, 120), UNLABELLED, np.uint8)
    label[45], label[:, 7] = 1, 0
    small = scaled_strokes(label, (12, 9))
    expected = np.full((9, 12), UNLABELLED, np.uint8)
    expected[4], expected[:, 0] = 1, 0
    assert np.array_equal(np.delete(small, 4, 0), np.delete(expected, 4, 0)) and (small[4, 1:] == 1).all()


def test_settings_that_are_none(page):
    for settings, expected in (
        ({"steps": 0}, "at least 1"),
        ({"steps": "9"}, "steps: expected int"),
        ({"preset": "7"}, "expected one of"),
        ({"lr": float("inf")}, "lr: expected float"),
        ({"lr": 10**400}, "lr: expected float"),
        ({"speed": 1}, "found 'speed'"),
        ({"more": "'"}, "No closing quotation"),
        ({"more": "--run-root /tmp"}, "--run-root is set by the round itself"),
        ({"more": "--amp off --data=x"}, "--data is set by the round itself"),
        ({"more": "--run_root /tmp"}, "--run_root is set by the round itself"),
        ({"more": "--start_epoch=1"}, "--start_epoch is set by the round itself"),
        ({"more": "--help"}, "--help is set by the round itself"),
        ({"more": "-h"}, "-h is set by the round itself"),
    ):
        answer = page.post("/api/train", content=json.dumps({"settings": settings}))
        assert answer.status_code == 400 and expected in answer.json()["error"], settings


def test_a_round_needs_strokes_of_two_classes(page):
    assert "found none" in page.post("/api/train", json={}).json()["error"]
    page.post("/api/images/a/strokes", json=stroke("1"))
    assert "only those of 'cat'" in page.post("/api/train", json={}).json()["error"]
    assert page.get("/api/state").json()["rounds"] == []
    assert "train first" in page.get("/api/export/masks").json()["error"]


def test_a_photograph_that_is_cut_off_is_found_before_the_round(folder):
    """Regression: the round ended at it, and so did each that was resumed."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (folder / IMAGES / "b.png").unlink()
    Image.fromarray(noise).save(photograph := folder / IMAGES / "b.jpg")
    photograph.write_bytes(photograph.read_bytes()[:-400])
    for image in "ab":
        draw(strokes_of(folder), stroke("1"), stroke("2", 2, 3, [[50, 35]]), image=image)
    strokes_of(folder).draw_all()
    assert f"cannot read {photograph}" in message(new_round, folder, RoundSettings())
    assert not rounds_in(folder)


QUICK = RoundSettings(steps=1, crf_steps=1, crop_size=33, batch_size=2, more="--no-cuda")


def test_grey_scribbles_of_four_bits_are_trained_on_as_they_are(folder):
    """Regression: 1 became 17 where the photograph is scaled down."""
    image, label = Image.new("RGB", (300, 200)), np.zeros((200, 300), np.uint8)
    label[:100, :150] = 1
    image.save(folder / IMAGES / "a.png")
    (folder / SCRIBBLES).mkdir(exist_ok=True)
    write_grey_png(folder / SCRIBBLES / "a.png", label, 4)
    made = new_round(folder, replace(RoundSettings(), crop_size=65))
    assert set(np.unique(read_label(made / "drawn" / SCRIBBLES / "a.png", 3))) <= {0, 1, 255}


def test_progress_from_records_that_are_torn(folder):
    strokes = strokes_of(folder)
    draw(strokes, stroke("1", 1), stroke("2", 0, points=[[2, 2], [5, 2]]))
    strokes.draw_all()
    made = new_round(folder, RoundSettings())
    run = made / "runs/drawn/partial_ce/experiment_0"
    run.mkdir(parents=True)
    line = json.dumps({"step": 10, "images_per_second": 5.0, "losses": {"cross_entropy": 0.5}})
    (run / STEPS).write_text(f"{line}\n{line[:20]}")
    assert progress(made, running=True)["losses"] == [[10, 0.5, None]]


def test_the_time_left_is_steady_from_the_first_to_the_last_step(folder):
    draw(drawn := strokes_of(folder), stroke("1", 1), stroke("2", 0, points=[[2, 2], [5, 2]]))
    drawn.draw_all()
    made = new_round(folder, RoundSettings(steps=40, crf_steps=60, batch_size=4))
    clock, moments = 0.0, []
    for name, steps, seconds in (("partial_ce", 40, 0.5), ("densecrf", 60, 0.7)):
        run = made / "runs/drawn" / name / "experiment_0"
        run.mkdir(parents=True)
        for step in range(1, steps + 1):
            spent = (step + 1) * seconds  # the first one takes twice as long
            line = {"step": step, "images_per_second": round(step * 4 / spent, 2), "losses": {}}
            with open(run / STEPS, "a") as lines:
                lines.write(json.dumps(line) + "\n")
            moments.append((clock + spent, progress(made, running=True)))
        clock += spent
        for image_id in "abc":
            clock += 0.4
            with open(made / "images.jsonl", "a") as lines:
                lines.write(json.dumps({"id": image_id, "uncertainty": 0.5, "seconds": 0.4}) + "\n")
            moments.append((clock, progress(made, running=True)))
    told = [(clock - at, one["seconds_left"]) for at, one in moments if one["seconds_left"] is not None]
    assert len(told) == len(moments) - 9  # none before ten steps
    assert all(abs(true - estimate) < 0.25 * true + 5 for true, estimate in told)
    assert all(abs(next_[1] - one[1]) < 5 for one, next_ in zip(told, told[1:], strict=False))
    told = [(20.5 - at, one["seconds_to_masks"]) for at, one in moments[9:40]]  # 41 times half a second
    assert all(abs(true - estimate) < 0.25 * true + 1 for true, estimate in told)
    assert all(one["seconds_to_masks"] is None for _, one in moments[:9] + moments[40:])
    shares = [one["progress"] for _, one in moments]
    assert all(next_ > one - 0.03 for one, next_ in zip(shares, shares[1:], strict=False)) and shares[-1] == 0.99
    assert progress(made, running=False)["seconds_left"] is None


@pytest.fixture
def two_rounds(folder) -> list[Path]:
    """Two rounds that trained on image a; the second went on from the first, and has a mask of c too."""
    strokes = strokes_of(folder)
    draw(strokes, stroke("1"), stroke("2", 0, 3, [[40, 3], [50, 3]]))
    strokes.draw_all()
    masks = [np.full((HEIGHT, WIDTH), value) for value in (1, 2)]
    first = finish_round(new_round(folder, RoundSettings()), dict.fromkeys("ab", masks[0]))
    second = new_round(folder, RoundSettings(), first / "model.pth.tar")
    return [first, finish_round(second, dict.fromkeys("abc", masks[1]))]


def test_masks_of_a_machine_without_a_clock_are_exported(folder, two_rounds):
    os.utime(two_rounds[1] / "predictions/a.png", (3600, 3600))
    assert TestClient(Page(folder).app()).get("/api/export/masks").status_code == 200


def test_a_small_mask_lies_over_a_thumbnail(folder, two_rounds):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] = 2
    write_label(two_rounds[1] / "predictions/a.png", mask)
    page = TestClient(Page(folder).app())
    small = Image.open(io.BytesIO(page.get("/api/images/a/prediction.png?size=20").content)).convert("RGBA")
    assert max(small.size) == 20
    assert small.getpixel((1, 1))[3] == 0 and small.getpixel((18, 1)) == (64, 187, 64, 255)
    assert page.get("/api/images/a/prediction.png?size=x").status_code == 400


def test_an_older_round_is_shown_exported_and_trained_on(folder, two_rounds, monkeypatch):
    page = TestClient(Page(folder).app())
    for query, shown, expected in (("", 2, [2, 2, 2]), ("?round=1", 1, [1, 1, None]), ("?round=7", 2, [2, 2, 2])):
        state = page.get(f"/api/state{query}").json()
        assert state["shown"] == shown and [image["predicted"] for image in state["images"]] == expected
        answer = page.get(f"/api/export/masks{query}")
        if shown != 2 or not query:
            archive = zipfile.ZipFile(io.BytesIO(answer.content))
            assert f"data-round-{shown}-masks.zip" in answer.headers["content-disposition"]
            assert len(archive.namelist()) == 1 + len(expected) - expected.count(None)
            assert (np.array(Image.open(archive.open("a.png"))) == shown).all()
            assert page.get(f"/api/export/checkpoint{query}").text == f"the network of round {shown}"
            assert f"rounds/{shown}/model" in json.dumps(page.get(f"/api/commands{query}").json())
    assert page.get("/api/export/masks?round=7").status_code == 400
    assert "found '7'" in page.get("/api/export/checkpoint?round=7").json()["error"]
    assert [(one["network"], one["start"]) for one in state["rounds"]] == [(True, None), (True, 1)]
    monkeypatch.setattr(process, "start", lambda folder: None)
    for start, expected in ((1, "rounds/1/model.pth.tar"), (None, None)):
        assert page.post("/api/train", json={"start": start}).json() == {"ok": True}
        assert read_record(rounds_in(folder)[-1])["start"] == expected
    assert "found '3'" in page.post("/api/train", json={"start": 3}).json()["error"]


def test_an_onnx_file_that_takes_too_long_is_said(folder, two_rounds, monkeypatch):
    """Regression: the server failed at it."""
    monkeypatch.setattr(exports, "SECONDS_FOR_ONNX", 0.01)
    answer = TestClient(Page(folder).app()).get("/api/export/onnx")
    assert answer.status_code == 400 and "has not made the ONNX file in 0.01 s" in answer.json()["error"]


def test_what_a_round_trained_on_does_not_change_with_the_scribbles(folder, two_rounds):
    """Regression: they were links to one file."""
    kept = (folder / "rounds/1/scribbles/a.png", folder / "rounds/1/drawn" / SCRIBBLES / "a.png")
    before = [path.read_bytes() for path in kept]
    (folder / SCRIBBLES / "a.png").write_bytes(b"another program's")
    assert [path.read_bytes() for path in kept] == before


def test_the_commands_of_two_rounds_do_not_meet(folder, two_rounds):
    """Regression: those of the second trained on from the first one's network."""
    page = TestClient(Page(folder).app())
    found = [json.dumps(page.get(f"/api/commands?round={number}").json()) for number in (1, 2)]
    assert "run/data-round-1/drawn/" in found[0] and "run/data-round-1/" not in found[1]


def test_rounds_of_a_data_set_that_was_moved(folder, two_rounds):
    """Regression: the second one's commands, and it itself when resumed, went on from a network in the old place."""
    moved = folder.rename(folder.with_name("moved"))
    page = TestClient(Page(moved).app())
    assert str(folder) + "/" not in page.get("/api/commands").text
    assert start_of(moved / "rounds/2") == moved / "rounds/1/model.pth.tar"


def test_stopped_while_masks_are_made(folder, two_rounds, monkeypatch):
    """Regression: it ended without them, and its second part began when it was resumed."""
    made = new_round(folder, RoundSettings(), two_rounds[1] / "model.pth.tar")
    trained = []
    (made / "last").touch()
    monkeypatch.setattr(rounds, "train", lambda options, asked: (trained.append(options) or made / "last", False))
    monkeypatch.setattr(rounds, "save_weights", lambda checkpoint, path: path.write_text("weights"))

    def predict_all(folder, only_drawn, device):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"miou": None}

    monkeypatch.setattr(rounds, "predict_all", predict_all)
    run_round(made)
    record = read_record(made)
    assert (record["phase"], record["stopped"], len(trained)) == ("finished", True, 1)


def test_masks_are_made_on_the_device_of_the_training(folder, two_rounds, monkeypatch):
    """Regression: on the GPU, even where the round had --no-cuda."""
    made, devices = new_round(folder, QUICK, two_rounds[1] / "model.pth.tar"), []
    (made / "last").touch()
    monkeypatch.setattr(rounds, "train", lambda options, asked: (made / "last", False))
    monkeypatch.setattr(rounds, "save_weights", lambda checkpoint, path: path.write_text("weights"))
    monkeypatch.setattr(rounds, "choose_device", lambda options: "CPU" if options.no_cuda else "GPU")
    monkeypatch.setattr(rounds, "predict_all", lambda folder, only_drawn, device: devices.append(device) or {})
    run_round(made)
    assert devices == ["CPU", "CPU"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("error: lower --lr", "lower --lr"),
        ("ImportError: libcudnn.so.9: cannot open", "program failed (ImportError: libcudnn.so.9: cannot open)"),
        ("epoch 1/1: cross-entropy 0.1", "interrupted, by hand or as memory ran out: resume it"),
    ],
)
def test_why_a_round_has_ended(folder, two_rounds, last, expected):
    (two_rounds[1] / "log.txt").write_text(f"begins\n{last}\n\n")
    assert expected in process.why_ended(two_rounds[1])


def test_one_version_of_the_predictions_is_held(folder, two_rounds):
    """Regression: while masks were made, every version was."""
    page = TestClient(Page(folder).app())
    for number in range(3):
        with open(two_rounds[1] / "images.jsonl", "a") as lines:
            lines.write(json.dumps({"id": "a", "uncertainty": number / 10, "seconds": 0.4}) + "\n")
        assert page.get("/api/state").json()["images"][0]["uncertainty"] == number / 10
    assert len([path for path in server._predicted if path.is_relative_to(folder)]) == 2


def test_which_strokes_a_round_has_trained_on(folder, page, monkeypatch):
    def learned(query: str = "") -> list[bool | None]:
        return [image["learned"] for image in page.get(f"/api/state{query}").json()["images"]]

    monkeypatch.setattr(process, "start", lambda folder: finish_round(folder, {}))
    page.post("/api/images/a/strokes", json=stroke("1"))
    page.post("/api/images/a/strokes", json=stroke("2", 0, 3, [[40, 3], [50, 3]]))
    assert learned() == [None, None, None]
    assert page.post("/api/train", json={}).status_code == 200
    assert learned() == [True, None, None]
    page.post("/api/images/b/strokes", json=stroke("3"))
    assert learned() == [True, False, None]
    page.post("/api/images/a/strokes", json={"id": "4", "op": "remove", "stroke": "1"})
    page.post("/api/images/a/strokes", json=stroke("5", 2))
    assert learned() == [False, False, None]
    page.post("/api/images/c/strokes", json=stroke("6"))
    page.post("/api/images/c/strokes", json=stroke("7", None, 200))  # nothing is left of it
    assert learned() == [False, False, False]
    assert page.post("/api/train", json={"start": 1}).status_code == 200
    assert learned() == [True, True, None] and learned("?round=1") == [False, False, False]
    add_to_record(folder / "rounds/2", logs=None)
    assert learned() == [None, None, None]


@pytest.mark.slow
def test_a_round_from_strokes_to_masks(folder, page, tmp_path):
    strokes = [stroke("1", 0, 3, [[2, 35], [55, 36]]), stroke("2", 2, 3, [[20, 4], [40, 6]])]
    for one in strokes:
        page.post("/api/images/a/strokes", json=one)
    settings = {name: getattr(QUICK, name) for name in ("steps", "crf_steps", "crop_size", "batch_size", "more")}
    assert page.post("/api/train", json={"settings": settings}).json() == {"ok": True}
    assert page.post("/api/train", json={"settings": settings}).status_code == 409
    deadline = time.time() + 300
    while (training := page.get("/api/state").json()["training"])["running"]:
        assert time.time() < deadline
        time.sleep(0.2)
    assert training["error"] is None and training["phase"] == "finished" and training["progress"] == 1
    assert [losses[0] for losses in training["losses"]] == [1, 2]
    state = page.get("/api/state").json()
    assert [image["predicted"] for image in state["images"]] == [1, 1, 1]
    assert all(0 <= image["uncertainty"] <= 1 and len(image["place"]) == 2 for image in state["images"])
    (row,) = state["rounds"]
    assert (row["round"], row["images"], row["strokes"], row["finished"], row["stopped"]) == (1, 1, 2, True, False)
    mask = np.array(Image.open(io.BytesIO(page.get("/api/images/a/prediction.png").content)))
    assert state["images"][0]["found"] == np.unique(mask).tolist()
    drawn = read_label(folder / SCRIBBLES / "a.png", 3)
    assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) <= {0, 2}  # the drawn classes alone
    assert (mask == drawn)[drawn != UNLABELLED].all()
    # The commands make the same masks.
    command = next(one["command"] for one in page.get("/api/commands").json() if "inference.py" in one["command"])
    words = command.split("inference.py ")[1].split()
    assert call(inference, *words[:-1], tmp_path / "out", "--no-cuda", "--workers", 0) == 0
    archive = zipfile.ZipFile(io.BytesIO(page.get("/api/export/masks?images=a,c").content))
    assert archive.namelist() == ["classes.txt", "a.png", "c.png"]
    assert archive.read("classes.txt").decode() == "0 background\n1 cat\n2 dog\n"
    for one in "ac":
        masks = archive.open(f"{one}.png"), tmp_path / "out" / f"{one}_prediction.png"
        assert np.array_equal(*(np.array(Image.open(mask)) for mask in masks))
    entries = zipfile.ZipFile(io.BytesIO(page.get("/api/export/overlays").content)).infolist()
    assert len(entries) == 4 and all(entry.date_time[0] > 2000 for entry in entries)  # regression: 1980
    assert page.get("/api/export/masks?images=x").status_code == 404
    # A class more, and on from the network.
    page.post("/api/classes", json={"name": "bird"})
    gone = np.full((HEIGHT, WIDTH), 9, np.uint8)  # a class that is no more
    write_label(folder / "rounds/1/predictions/b.png", gone)
    (folder / TRUTH).mkdir(exist_ok=True)
    (folder / TRUTH / "c.png").write_bytes(b"junk")  # regression: there was no mask then
    run_round(again := new_round(folder, QUICK, folder / "rounds/1/model.pth.tar"))
    assert again.name == "2" and (record := read_record(again))["phase"] == "finished"
    masks = [[read_label(folder / f"rounds/{n}/predictions/{one}.png", 10) for one in "bc"] for n in (1, 2)]
    assert record["changed"] == (np.array(masks[0]) != masks[1]).mean()
    assert read_record(folder / "rounds/1")["changed"] is None
    run_round(again)
    assert read_record(again) == record
    images = page.get("/api/state").json()["images"]
    assert [image["predicted"] for image in images] == [2, 2, 2]
    shares = [(one != other).mean() for one, other in zip(*masks, strict=True)]
    assert [image["changed"] for image in images] == [None, *(pytest.approx(share, abs=1e-4) for share in shares)]
    content = torch.load(again / "model.pth.tar", weights_only=True)
    assert content["model"]["class_names"] == ["background", "cat", "dog", "bird"]

"""The annotation page as its users have it: a real browser, real pointers, and what lies on the disk after it."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from dataloaders.images import read_label
from dataloaders.labels import UNLABELLED
from helpers import CODE, finish_round
from page.rounds import RoundSettings, add_to_record, new_round

pytest.importorskip("starlette", reason="the annotation page needs starlette (requirements-app.txt)")
pytest.importorskip("playwright", reason="tests in a browser need Playwright (requirements-dev.txt)")
if shutil.which("chromium") is None:
    pytest.skip("tests in a browser need Chromium (Debian: apt-get install chromium)", allow_module_level=True)

NUM_CLASSES = 3


def operations(server, image: str) -> list[dict]:
    log = server.data / f"strokes/{image}.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def eventually(what, seconds: float = 20):
    """Return what a function returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found
    return found


def wait_label(server, image: str, x: int, y: int, value: int) -> None:
    path = server.data / f"pascal_2012_scribble/{image}.png"
    eventually(lambda: path.exists() and read_label(path, NUM_CLASSES)[y, x] == value)


def test_strokes_of_mouse_and_keys_are_on_the_disk_and_in_the_label_map(server, open_tab):
    tab = open_tab("a")
    assert "“disc”" in tab.page.inner_text("#hint-text")
    tab.key("2")
    assert "“rim”" in tab.page.inner_text("#hint-text")
    tab.draw((10, 20), (60, 20))
    tab.wait_saved()
    (stroke,) = operations(server, "a")
    assert (stroke["op"], stroke["class"]) == ("stroke", 2)
    assert np.allclose([stroke["points"][0], stroke["points"][-1]], [[10, 20], [60, 20]], atol=0.3)
    tab.key("]")
    tab.key("0")
    tab.draw((10, 60))
    tab.key("e")
    tab.draw((40, 10), (40, 30))
    tab.wait_saved()
    _, dot, erased = operations(server, "a")
    assert dot["class"] == 0 and dot["width"] > stroke["width"] and erased["class"] is None
    wait_label(server, "a", 40, 20, UNLABELLED)
    wait_label(server, "a", 10, 60, 0)
    wait_label(server, "a", 20, 20, 2)
    tab.wait_ink(20, 20)
    tab.wait_ink(40, 20, shown=False)
    tab.key("b")
    width = tab.page.inner_text("#width-value")
    tab.reload()
    assert tab.page.inner_text("#class-list [aria-pressed=true] .name") == "background"
    assert tab.page.inner_text("#width-value") == width != "1 px"
    tab.draw((60, 80), (60, 100))  # over the border
    tab.draw((60, 99), (70, 99))  # beside the photograph
    tab.wait_ink(60, 88)
    tab.wait_ink(60, 90.5, shown=False)
    tab.wait_saved()
    assert len(operations(server, "a")) == 4


def test_strokes_lie_where_they_are_drawn_on_a_screen_of_another_resolution(server, open_tab):
    """Regression: after the window was moved there, until its size changed, they appeared elsewhere."""
    tab = open_tab("h")
    session = tab.page.context.new_cdp_session(tab.page)
    for factor, y in ((2, 20), (1, 40), (3, 60)):
        size = {"width": 1280, "height": 800, "deviceScaleFactor": factor, "mobile": False}
        session.send("Emulation.setDeviceMetricsOverride", size)
        tab.draw((10, y), (60, y))
        tab.wait_ink(40, y)
    tab.wait_saved()


def test_undo_and_redo_outlive_a_reload(server, open_tab):
    tab = open_tab("b")
    tab.draw((10, 20), (60, 20))
    tab.draw((10, 60), (60, 60))
    tab.key("Control+z")
    tab.wait_ink(30, 60, shown=False)
    tab.wait_saved()
    wait_label(server, "b", 30, 20, 1)
    tab.reload()
    tab.wait_ink(30, 20)
    tab.wait_ink(30, 60, shown=False)
    tab.page.click("#redo")
    tab.wait_ink(30, 60)
    tab.key("Control+z")
    tab.key("Control+z")
    tab.key("Control+Shift+Z")
    tab.wait_saved()
    tab.wait_ink(30, 20)
    wait_label(server, "b", 30, 60, UNLABELLED)
    wait_label(server, "b", 30, 20, 1)
    assert [each["op"] for each in operations(server, "b")][2:] == ["remove", "restore", "remove", "remove", "restore"]


def test_the_page_draws_where_the_browser_blocks_its_storage(server, open_tab):
    """Regression: it stayed empty."""
    blocked = "{ get() { throw new DOMException('blocked', 'SecurityError'); } }"
    tab = open_tab("g", *(f"Object.defineProperty(window, '{one}Storage', {blocked})" for one in ("local", "session")))
    before = len(operations(server, "g"))
    tab.draw((10, 70), (60, 70))
    tab.wait_saved()
    tab.wait_ink(30, 70)
    tab.key("Control+z")
    tab.wait_ink(30, 70, shown=False)
    tab.wait_saved()
    assert [one["op"] for one in operations(server, "g")[before:]] == ["stroke", "remove"]


def test_two_tabs_on_one_image_see_and_keep_each_others_strokes(server, open_tab):
    one, other = open_tab("c"), open_tab("c")
    one.draw((10, 20), (60, 20))
    other.wait_ink(30, 20)
    other.key("2")
    other.draw((10, 60), (60, 60))
    one.wait_ink(30, 60)
    other.key("Control+z")  # its own stroke, not the other's
    one.wait_ink(30, 60, shown=False)
    other.wait_ink(30, 20)
    assert other.page.locator("#undo").is_disabled()
    wait_label(server, "c", 30, 20, 1)


def test_strokes_of_a_killed_server_arrive_when_it_is_back(server, open_tab):
    tab, closed = open_tab("d"), open_tab("d")
    tab.draw((10, 10), (60, 10))
    tab.wait_saved()
    server.kill()
    for place, other in enumerate((tab, closed)):
        other.draw((10, 30 + 20 * place), (60, 30 + 20 * place))
        other.page.wait_for_selector("#banner:has-text('does not answer')")
        other.wait_ink(30, 30 + 20 * place)
    tab.key("Control+z")
    tab.key("Control+y")
    closed.page.close()
    assert len(operations(server, "d")) == 1
    server.start()
    tab.page.wait_for_selector("#banner", state="hidden")
    tab.wait_saved()
    assert [each["op"] for each in operations(server, "d")].count("stroke") == 3
    tab.page.wait_for_timeout(1500)  # an event after the strokes has the page ask, and the answer hides the banner
    tab.page.route("**/api/commands", lambda route: route.abort())  # one answer is lost, and not the events
    tab.page.click("#commands")
    tab.page.wait_for_selector("#banner:has-text('does not answer')")
    tab.draw((10, 80), (60, 80))
    tab.page.wait_for_selector("#banner", state="hidden")
    tab.reload()
    for y in (10, 30, 50):
        tab.wait_ink(30, y)
        wait_label(server, "d", 30, y, 1)


def test_a_stroke_waits_for_its_own_data_set(server, open_tab, tmp_path):
    """Regression: of two data sets that were served one after the other, the second got the strokes of the first."""
    tab, words = open_tab("h"), server.words
    server.kill()
    tab.draw((10, 80), (60, 80))
    tab.page.wait_for_selector("#banner:has-text('does not answer')")
    (tmp_path / "others").mkdir()
    Image.new("RGB", (120, 90)).save(tmp_path / "others/h.png")
    server.words = (tmp_path / "others", "--classes", "disc,rim")
    server.start()
    tab.page.wait_for_selector("#folder:text-is('others-rloss')")
    tab.wait_shown()
    assert not (tmp_path / "others-rloss/strokes/h.jsonl").exists()
    server.kill()
    server.words = words
    server.start()
    wait_label(server, "h", 30, 80, 1)
    assert not (tmp_path / "others-rloss/strokes/h.jsonl").exists()


def test_a_full_disk_is_said_at_once_and_the_stroke_is_kept(server, open_tab):
    tab = open_tab("e")
    log = server.data / "strokes/e.jsonl"
    log.symlink_to("/dev/full")
    tab.draw((10, 20), (60, 20))
    tab.page.wait_for_selector("#banner:has-text('No space left')")
    assert "1 unsent" in tab.page.inner_text("#saved")
    log.unlink()
    tab.page.wait_for_selector("#banner", state="hidden")
    wait_label(server, "e", 30, 20, 1)


def test_fingers_draw_and_zoom_and_leave_drawing_to_a_pen(server, open_tab):
    tab = open_tab("f")
    session = tab.page.context.new_cdp_session(tab.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [dict(zip("xy", tab.on_screen(*place), strict=True)) for place in places]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    zoom = tab.page.inner_text("#zoom")
    touch("Start", (50, 45))
    touch("Start", (50, 45), (60, 45))
    scale = tab.page.locator(".world").bounding_box()["width"]
    for step in range(1, 6):
        touch("Move", (50 - step, 45), (60 + step, 45))
    touch("End")
    tab.page.wait_for_function("zoom => document.querySelector('#zoom').textContent !== zoom", arg=zoom)
    assert tab.page.locator(".world").bounding_box()["width"] > 1.2 * scale
    for number in (1, 2, 3):  # three fingers, one after the other
        touch("Start", *[(x, 45) for x in (40, 50, 60)[:number]])
    left = tab.page.locator(".world").bounding_box()["x"]
    touch("Move", *[(x, 45) for x in (45, 55, 65)])
    touch("End")
    tab.page.wait_for_function("left => document.querySelector('.world').getBoundingClientRect().x > left", arg=left)
    touch("Start", (20, 70))
    touch("Move", (40, 70))
    touch("Cancel")  # the system has taken it back
    tab.wait_ink(30, 70, shown=False)
    assert operations(server, "f") == []
    tab.key("f")
    tab.page.wait_for_selector(f"#zoom:text-is('{zoom}')")
    touch("Start", (20, 20))
    for x in range(25, 60, 5):
        touch("Move", (x, 20))
    touch("End")
    tab.wait_ink(40, 20)
    wait_label(server, "f", 40, 20, 1)

    def pen(kind: str, x: float, y: float) -> None:
        place = dict(zip("xy", tab.on_screen(x, y), strict=True))
        event = {"type": f"mouse{kind}", "button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen"}
        session.send("Input.dispatchMouseEvent", event | place)

    for y, hand in ((60, None), (70, "before"), (80, "while")):  # a hand comes down before the pen, or while it draws
        if hand == "before":
            touch("Start", (110, 85))
        pen("Pressed", 20, y)
        if hand == "while":
            touch("Start", (110, 85))
        pen("Moved", 40, y)
        pen("Released", 60, y)
        if hand:
            touch("End")
        tab.wait_ink(40, y)
    left = tab.page.locator(".world").bounding_box()["x"]
    touch("Start", (60, 45))
    touch("Move", (30, 45))
    touch("End")
    tab.page.wait_for_function("left => document.querySelector('.world').getBoundingClientRect().x < left", arg=left)
    tab.wait_saved()
    assert len(operations(server, "f")) == 4


def test_photographs_are_added_and_lie_as_they_are_shown(server, open_tab, tmp_path):
    tab = open_tab("g")
    turned = Image.new("RGB", (120, 90), "gray")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn to the right
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    tab.page.set_input_files("#files", [tmp_path / "broken.jpg", tmp_path / "turned.jpg"])
    said = tab.page.inner_text("#notices .error")
    assert "1 of 2. “turned” is shown" in said and "broken.jpg: " in said
    tab.page.wait_for_function("() => document.querySelector('.photo.loaded')?.naturalHeight === 120")
    tab.draw((80, 10), (80, 110))
    wait_label(server, "turned", 80, 100, 1)
    assert read_label(server.data / "pascal_2012_scribble/turned.png", NUM_CLASSES).shape == (120, 90)
    tab.page.evaluate(
        """() => {
          const files = new DataTransfer();
          files.items.add(new File(["neither"], "notes.txt"));
          for (const type of ["dragenter", "drop"]) {
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true }));
          }
        }"""
    )
    tab.page.wait_for_selector("#notices .error:has-text('notes.txt')")
    (tmp_path / "folder/more").mkdir(parents=True)
    for name in (".DS_Store", "inner.jpg", "more/deeper.jpg"):
        turned.save(tmp_path / "folder" / name, "JPEG")
    session, data = tab.page.context.new_cdp_session(tab.page), {"items": [], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": 600, "y": 400, "data": data | {"files": [str(tmp_path / "folder")]}}
        session.send("Input.dispatchDragEvent", {"type": kind, **place})
    tab.page.wait_for_selector("#notices .done:has-text('2 of 2. “inner” is shown')")
    eventually((server.data / "JPEGImages/deeper.jpg").exists)


def test_images_and_classes_by_keys_and_clicks(server, open_tab):
    tab = open_tab("g")
    tab.key("ArrowRight")
    tab.page.wait_for_function("() => location.hash === '#h'")
    tab.page.set_viewport_size({"width": 1280, "height": 360})
    tab.reload()
    tab.page.wait_for_function(
        """() => {
          const [list, item] = ["#thumbnails", "#thumbnails li:has([aria-current=true])"].map((name) =>
            document.querySelector(name).getBoundingClientRect());
          return item.top >= list.top && item.bottom <= list.bottom + 1;
        }"""
    )
    tab.page.set_viewport_size({"width": 1280, "height": 800})
    tab.page.click("#help")
    tab.key("ArrowLeft")  # is for the dialog
    assert tab.page.url.endswith("#h")
    tab.key("Escape")
    choose = tab.page.locator("#thumbnails input").first
    choose.focus()
    tab.key("Space")
    assert choose.is_checked()
    tab.key("Space")
    choose.blur()
    tab.key("ArrowLeft")
    tab.page.wait_for_function("() => location.hash === '#g'")
    tab.page.set_viewport_size({"width": 300, "height": 700})  # a phone has no place for the field before it is needed
    assert tab.page.locator("#new-class").bounding_box()["width"] == 0
    tab.page.click("#add-class button")
    tab.page.keyboard.type("edge 2")
    tab.page.click("#add-class button")
    tab.page.set_viewport_size({"width": 1280, "height": 800})
    tab.page.wait_for_selector("#class-list [aria-pressed=true]:has-text('edge 2')")
    tab.page.click("[aria-label='Rename edge 2']")
    tab.page.keyboard.type("rim")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#notices .error:has-text('The name was refused')")
    tab.key("Tab")
    assert tab.page.input_value("#class-list input") == "rim"
    tab.page.fill("#class-list input", "border")
    tab.page.keyboard.press("Enter")
    eventually(lambda: (server.data / "classes.txt").read_text().split() == ["background", "disc", "rim", "border"])
    tab.page.fill("#new-class", "border")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#notices .error:has-text('a class of this name already')")


def test_a_new_image_begins_with_an_object(server, open_tab):
    """Regression: after a stroke on the background, those on the next image were the background's too."""
    tab = open_tab("i")
    for key, y in (("1", 45), ("0", 10)):
        tab.key(key)
        tab.draw((50, y), (70, y))
    tab.key("ArrowRight")
    tab.page.wait_for_selector("#class-list [aria-pressed=true]:has-text('disc')")
    tab.key("0")
    tab.key("v")
    tab.key("ArrowLeft")  # to correct what is drawn, with the class that is chosen
    tab.page.wait_for_function("() => location.hash === '#i'")
    tab.key("ArrowRight")
    tab.page.wait_for_function("() => location.hash !== '#i'")
    assert tab.page.get_attribute("#tool-pan", "aria-pressed") == "true"
    tab.page.wait_for_selector("#class-list [aria-pressed=true]:has-text('disc')")


def test_the_next_image_to_draw_on_has_no_strokes(server, open_tab):
    tab = open_tab("i")
    tab.draw((50, 45), (70, 45))
    tab.wait_saved()
    tab.open("h")
    tab.page.click("#hint-action:text-is('Next image')")
    tab.page.wait_for_function("() => location.hash !== '#h'")
    image = tab.page.evaluate("decodeURIComponent(location.hash.slice(1))")
    assert image != "i" and not operations(server, image)


def test_masks_without_any_object_are_said_and_listed(server, open_tab):
    tab = open_tab("h")
    for y, key in enumerate("01"):
        tab.key(key)
        tab.draw((10, 20 * y + 10), (110, 20 * y + 10))
    wait_label(server, "h", 20, 30, 1)
    nothing, disc = np.zeros((90, 120), int), np.ones((90, 120), int)
    finish_round(new_round(server.data, RoundSettings(), logs={}), {"h": disc, "j": nothing})
    tab.page.wait_for_selector("button[title='j: no strokes, nothing found, uncertain']")
    for filter_, listed in (("empty", ["j"]), ("uncertain", ["h", "j"])):  # h has strokes already
        tab.page.select_option("#filter", filter_)
        tab.page.wait_for_function(f"() => document.querySelectorAll('#thumbnails li').length === {len(listed)}")
        assert tab.page.locator("#thumbnails .name").all_text_contents() == listed
    assert tab.page.inner_text("#export-older").startswith("Newer strokes")
    tab.page.select_option("#filter", "all")
    with open(server.data / "rounds/1/images.jsonl", "a") as lines:
        lines.write('{"id": "j", "uncertainty": 0.5, "place": [3, 3], "classes": [0], "changed": 0.256}\n')
    tab.page.select_option("#sort", "changed")
    tab.page.wait_for_selector("#thumbnails li:first-child:has-text('j') .state:text-is('changed 26 %')")
    shutil.rmtree(server.data / "rounds")


def test_every_text_is_there_in_both_languages(open_tab):
    tab = open_tab("h")
    texts = tab.page.evaluate("import('/static/texts.js').then((module) => module.TEXTS)")
    assert texts["en"].keys() == texts["ja"].keys()
    for key, text in texts["en"].items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", texts["ja"][key])), key
    static = CODE / "page/static"
    used = set(re.findall(r'data-(?:text|title|label|placeholder)="(\w+)"', (static / "index.html").read_text()))
    scripts = "".join(path.read_text() for path in static.glob("*.js") if path.name != "texts.js")
    assert used | set(re.findall(r'\bt\("(\w+)"', scripts)) <= texts["en"].keys()
    named = used | set(re.findall(r'"(\w+)"', scripts)) | {"checkpoint", "masks", "onnx", "overlays"}
    assert {key.removesuffix("Long") for key in texts["en"]} <= {key.removesuffix("Long") for key in named}
    sources = [*(CODE / "page").glob("*.py"), CODE / "dataloaders/class_names.py", CODE / "common/faults.py"]
    sources = "".join(path.read_text() for path in sources)
    lines = tab.page.evaluate("import('/static/texts.js').then((module) => module.LINES)")
    assert all(f'"{start}' in sources for translated in lines.values() for start in translated)
    tab.page.select_option("#language", "ja")
    assert tab.page.inner_text("#train") == texts["ja"]["train"]


def test_the_round_that_is_shown_is_exported_and_trained_on(server, open_tab):
    tab = open_tab("h")
    tab.key("1")
    tab.draw((50, 45), (70, 45))
    tab.key("2")
    tab.draw((10, 10), (110, 10))
    wait_label(server, "h", 20, 10, 2)
    masks, drawn = [np.full((90, 120), value) for value in (1, 2)], (server.data / "strokes").glob("*.jsonl")
    logs = {path.stem: path.stat().st_size for path in drawn}
    first = finish_round(new_round(server.data, RoundSettings(), logs=logs), {"h": masks[0]})
    second = new_round(server.data, RoundSettings(), first / "model.pth.tar", logs=logs)
    finish_round(second, dict.fromkeys("gh", masks[1]))
    add_to_record(first, stopped=True)

    def wait_shown(round_: int, colour: str) -> None:
        tab.page.wait_for_selector(f"#train:text-is('Train on from round {round_}')")
        tab.page.wait_for_function(
            """colour => {
              const canvas = document.querySelector(".prediction"), context = canvas.getContext("2d");
              return canvas.width > 1 && `${context.getImageData(50, 50, 1, 1).data}` === colour;
            }""",
            arg=colour,
        )

    red, green = "187,64,64,255", "64,187,64,255"  # VOC's, lightened
    wait_shown(2, green)
    tab.page.focus("#rounds tbody button:text-is('1')")
    tab.key("Enter")
    wait_shown(1, red)
    assert tab.page.inner_text(":focus") == "1"
    assert "round 1: 1 of" in tab.page.inner_text("#export-what")
    assert tab.page.inner_text("#rounds-long").endswith("Stopped before its end: round 1.")
    with tab.page.expect_download() as download:
        tab.page.click("[data-export=masks]")
    assert download.value.suggested_filename == "photographs-rloss-round-1-masks.zip"
    tab.page.wait_for_selector("#notices .done:has-text('round-1-masks.zip')")
    tab.reload()
    wait_shown(1, red)
    tab.page.click("#hint-action:text-is('Show round 2')")
    wait_shown(2, green)
    assert tab.page.inner_text("#thumbnails [aria-current=true] .state") == "uncertain"
    tab.draw((20, 60), (40, 60))
    tab.page.wait_for_selector("#thumbnails [aria-current=true] .state:text-is('new strokes')")
    assert str(server.data) in tab.page.inner_text("#where")
    tab.page.click("#hint-action:text-is('Next uncertain')")
    tab.page.wait_for_function("() => location.hash === '#g'")
    tab.wait_shown()
    tab.draw((20, 60), (40, 60))
    tab.page.wait_for_selector("#hint-text:has-text('Corrected?')")
    tab.page.click("#settings-box summary")
    steps = tab.page.locator("label.field:has(small:text-is('steps')) input")
    usual = steps.input_value()
    steps.fill("")
    steps.blur()
    assert steps.input_value() == usual
    tab.page.wait_for_timeout(1500)  # an event after the stroke has the page ask, and the answer hides the banner
    tab.page.route("**/prediction.png*", lambda route: route.abort())
    tab.key("ArrowRight")
    tab.page.wait_for_selector("#banner:has-text('does not answer')")
    assert not tab.page.locator("#notices .error").count()
    shutil.rmtree(server.data / "rounds")


@pytest.mark.slow
def test_draw_train_look_correct_export(server, open_tab, tmp_path):
    tab = open_tab("g")
    tab.draw((50, 45), (70, 45))
    tab.key("0")
    tab.draw((10, 10), (110, 10))
    tab.wait_saved()
    tab.page.click("#settings-box summary")
    for name, value in {"steps": 2, "crf steps": 2, "crop size": 65, "batch size": 2}.items():
        tab.page.locator(f"label.field:has(small:text-is('{name}')) input").fill(str(value))
    tab.page.wait_for_selector("#train:enabled")
    state, few = tab.page.evaluate("fetch('/api/state').then((answer) => answer.json())"), tab.page.inner_text("#few")
    for number, name in enumerate(["disc", "rim"], 1):
        count = sum(number in image["drawn"] for image in state["images"])
        assert (f"{name} ({count})" in few) == (0 < count < min(5, len(state["images"]) / 2))
    tab.page.click("#train")
    tab.page.wait_for_selector("#progress")
    tab.reload()  # the round goes on
    tab.page.wait_for_selector("#rounds tbody tr", timeout=240_000)
    tab.page.wait_for_selector("#progress", state="hidden", timeout=240_000)
    tab.page.wait_for_function("() => document.querySelector('.prediction').width > 1")
    ink = """(name) => { const layer = document.querySelector(name);
                         return layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data
                           .filter((_, index) => index % 4 === 3).some(Boolean) }"""
    assert tab.page.evaluate(ink, ".prediction")  # the mask has the stroke at least
    assert not tab.page.evaluate(ink, ".outlines")
    tab.key("p")
    tab.page.wait_for_function(ink, arg=".outlines")
    tab.key("n")
    tab.page.wait_for_selector(".place span")
    image = tab.page.evaluate("decodeURIComponent(location.hash.slice(1))")
    before = len(operations(server, image))
    tab.key("1")
    tab.draw((55, 45), (65, 50))
    eventually(lambda: len(operations(server, image)) == before + 1)
    tab.page.wait_for_selector("#hint:has-text('Train on')")
    for kind, suffix in {"masks": ".zip", "overlays": ".zip", "checkpoint": ".tar", "onnx": ".onnx"}.items():
        with tab.page.expect_download(timeout=120_000) as download:
            tab.page.click(f"[data-export={kind}]")
        assert download.value.suggested_filename.endswith(suffix)
        assert download.value.path().stat().st_size > 0
    tab.page.click("#commands")
    tab.page.wait_for_selector("#commands-box:has-text('inference.py')")

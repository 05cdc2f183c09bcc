"""The annotation page's server in a process of its own, and tabs of a real Chromium on it.

Playwright drives the Chromium of the system. Selenium is a quarter of its size, but needs a driver of exactly the
browser's version, and does not see what the page requests.
"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from helpers import CODE, ENVIRONMENT

WIDTH, HEIGHT = 120, 90
IMAGES = "abcdefghij"


class Server:
    """annotate.py on a folder, always at the same address."""

    def __init__(self, *words: object) -> None:
        self.words, self.port = words, "0"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            str(CODE / "annotate.py"),
            *map(str, self.words),
            "--no-browser",
            "--port",
            self.port,
        ]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := re.search(r"open (http://127\.0\.0\.1:(\d+)/)", line):
                self.url, self.port = found.groups()
                return
        raise AssertionError(lines)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


class Tab:
    """A tab with the page in it; places are in pixels of the photograph, with the centre of its first one at (0, 0)."""

    def __init__(self, page, url: str) -> None:
        self.page, self.url = page, url
        self.requests, self.errors = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(error.stack))

    def open(self, image: str) -> None:
        self.page.goto(f"{self.url}#{image}")
        self.wait_shown()

    def reload(self) -> None:
        self.page.reload()
        self.wait_shown()

    def wait_shown(self) -> None:
        self.page.wait_for_selector(".photo.loaded")
        self.page.wait_for_selector("#zoom:text-matches('%')")  # written when the image has its place

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the photograph is in the window."""
        # A function: the page's policy refuses to evaluate an expression at each poll.
        self.page.wait_for_function("() => document.querySelector('.photo').naturalWidth > 0")  # it is loaded
        box = self.page.locator(".world").bounding_box()
        scale = box["width"] / self.page.locator(".photo").evaluate("photo => photo.naturalWidth")
        return box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale

    def draw(self, *places: tuple[float, float]) -> None:
        """Press the mouse's button at the first place, move through the others, and let go."""
        self.page.bring_to_front()  # a tab behind another one hears of the mouse once a second
        mouse = self.page.mouse
        mouse.move(*self.on_screen(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.on_screen(*place), steps=4)
        mouse.up()

    def key(self, key: str) -> None:
        self.page.keyboard.press(key)

    def wait_saved(self) -> None:
        self.page.wait_for_selector("#saved:text-is('Saved')")

    def wait_ink(self, x: float, y: float, shown: bool = True) -> None:
        """Wait until a stroke is, or is not, visible at a place."""
        self.page.wait_for_function(
            """([x, y, shown]) => ["strokes", "live"].some((name) => {
                 const layer = document.querySelector(`#view .${name}`), box = layer.getBoundingClientRect();
                 const at = (value) => Math.round(value * devicePixelRatio);
                 return layer.getContext("2d").getImageData(at(x - box.x), at(y - box.y), 1, 1).data[3] > 0;
               }) === shown""",
            arg=[*self.on_screen(x, y), shown],
        )


def photograph(seed: int) -> Image.Image:
    """A bright disc on a dark noisy ground."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.hypot(x - WIDTH / 2, y - HEIGHT / 2) < HEIGHT / 4
    noise = np.random.default_rng(seed).integers(0, 60, (HEIGHT, WIDTH, 3))
    return Image.fromarray((noise + np.where(disc, 180, 20)[..., None]).astype(np.uint8))


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(chromium, tmp_path_factory) -> Iterator[Server]:
    """The page on ten photographs, of which each test takes its own, and two classes, disc and rim."""
    folder = tmp_path_factory.mktemp("browser") / "photographs"
    folder.mkdir()
    for seed, name in enumerate(IMAGES):
        photograph(seed).save(folder / f"{name}.png")
    running = Server(folder, "--classes", "disc,rim")
    running.data = folder.with_name("photographs-rloss")
    yield running
    running.kill()


@pytest.fixture
def open_tab(chromium, server) -> Iterator[Callable]:
    """Return a function that opens an image in a new tab; no tab may have an error, or ask anybody but the server."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, locale="en", has_touch=True)
    context.set_default_timeout(20_000)
    tabs = []

    def open_one(image: str, *scripts: str) -> Tab:
        tabs.append(Tab(context.new_page(), server.url))
        for script in scripts:  # which come before the page's own
            tabs[-1].page.add_init_script(script)
        tabs[-1].open(image)
        return tabs[-1]

    yield open_one
    context.close()
    for tab in tabs:
        assert not tab.errors
        assert all(url.startswith((server.url, "blob:" + server.url)) for url in tab.requests), tab.requests

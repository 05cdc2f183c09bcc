"""annotate.py as its users start it: a server that is killed loses nothing, and what is wrong is one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the annotation page needs starlette (requirements-app.txt)")

import annotate
from dataloaders.images import read_label
from helpers import CODE, ENVIRONMENT, call, one_line
from page.rounds import RoundSettings, new_round, read_record
from page.serving import only_one


@pytest.mark.parametrize("name", ["classes.txt", "names.lst"])
def test_classes_of_a_file(photographs, tmp_path, monkeypatch, name):
    """Regression: the file's name became a class; every other script takes a file. One class is enough for the page."""
    names = tmp_path / name
    monkeypatch.setattr("page.serving.serve", lambda *how: None)
    for lines in ("background\ncat\ndog\n", "cat\n"):
        names.write_text(lines)
        output = tmp_path / lines[:3]
        assert call(annotate, photographs, "--classes", names, "--output", output) == 0
        assert (output / "classes.txt").read_text() == "background\n" + lines.removeprefix("background\n")


def test_a_file_of_classes_that_is_not_there(photographs, tmp_path, capsys):
    """Regression: its name became a class."""
    assert call(annotate, photographs, "--classes", tmp_path / "names.lst", "--output", tmp_path / "data") == 2
    assert f"cannot read {tmp_path / 'names.lst'}: No such file" in one_line(capsys)
    assert not (tmp_path / "data").exists()


def test_the_drawn_pictures_may_lie_elsewhere(photographs, tmp_path, monkeypatch, capsys):
    """Regression: they were drawn into the usual folder, and --output was then called wrong."""
    served = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("page.serving.serve", lambda folder, *how: served.append(folder))
    (tmp_path / "there").mkdir()
    for words in (["--output", tmp_path / "there"], ["--output", tmp_path / "there"], [], ["run/annotate"]):
        assert call(annotate, *words) == 0
    assert served == 2 * [tmp_path / "there"] + 2 * [tmp_path / "run/annotate"]
    assert call(annotate, "--output", photographs) == 2
    assert "--output: expected a new folder for the drawn pictures" in one_line(capsys)


@pytest.fixture
def photographs(tmp_path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"p{number}.jpg")
    return folder


class Server:
    """The program in a process of its own."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, str(CODE / "annotate.py"), *map(str, words), "--no-browser", "--port", "0"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"open (http://127\.0\.0\.1:\d+/)", line):
                self.url = found[1]
                return
        raise AssertionError(self.lines)

    def ask(self, path: str, content: object = None) -> dict:
        body = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(self.url + path, body, timeout=60) as answer:
            return json.load(answer)

    def draw(self) -> None:
        """Draw a stroke of each of two classes on the first photograph."""
        for number, (value, row) in enumerate([(0, 5), (1, 30)]):
            stroke = {"id": str(number), "op": "stroke", "class": value, "width": 5, "points": [[5, row], [50, row]]}
            self.ask("api/images/p0/strokes", stroke)

    def training_ended(self) -> dict:
        """Wait until no round runs, and return what is known of the last one."""
        deadline = time.time() + 120
        while (training := self.ask("api/state")["training"])["running"]:
            assert time.time() < deadline
            time.sleep(0.3)
        return training

    def end(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        self.lines += self.process.communicate(timeout=60)[0].splitlines()
        return self.process.returncode


@pytest.mark.slow
def test_a_server_that_is_killed_loses_no_stroke(photographs):
    server = Server(photographs, "--classes", "cat,dog")
    data = photographs.with_name("photographs-rloss")
    strokes = [{"id": str(n), "op": "stroke", "class": n % 3, "width": 3, "points": [[5 * n, 20]]} for n in range(9)]
    for stroke in strokes:
        assert server.ask("api/images/p0/strokes", stroke) == {"ok": True}
    server.end()
    (data / "pascal_2012_scribble/p0.png").unlink(missing_ok=True)  # as if it had been killed before it drew it
    with open(data / "strokes/p0.jsonl", "ab") as log:
        log.write(b'{"id":"9","op":"str')  # and while it wrote a stroke
    server = Server(data)
    assert [one["id"] for one in server.ask("api/images/p0/strokes")["strokes"]] == [one["id"] for one in strokes]
    for _ in range(100):
        if (data / "pascal_2012_scribble/p0.png").exists():
            break
        time.sleep(0.1)
    with urllib.request.urlopen(server.url + "api/events", timeout=60) as events:  # as a page that stays open
        assert events.readline() == b"retry: 1000\n"
        assert server.end(signal.SIGINT) in (0, 130)
    assert "Traceback" not in "".join(server.lines)  # regression
    assert read_label(data / "pascal_2012_scribble/p0.png", 3)[20, 40] == 8 % 3
    assert sorted(path.name for path in photographs.iterdir()) == ["p0.jpg", "p1.jpg"]  # untouched


def test_what_is_wrong_is_one_line(photographs, tmp_path, capsys):
    def line(*words) -> str:
        assert call(annotate, *words, "--no-browser") == 2
        return one_line(capsys)

    assert "found no such folder" in line(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "expected photographs" in line(tmp_path / "empty")
    assert "found 'cat' and 'Cat'" in line(photographs, "--classes", "cat,Cat")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen on 127.0.0.1 port" in line(photographs, "--port", taken.getsockname()[1])
    lock = only_one(tmp_path / "photographs-rloss")
    assert Path(lock.name).stat().st_mode & 0o777 == 0o600  # regression: all who read the folder could read the token
    print("http://127.0.0.1:1/", file=lock, flush=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # as with the same command: it was said to take another port
        assert "is open already: http://127.0.0.1:1/" in line(photographs, "--port", taken.getsockname()[1])
    lock.close()
    assert "found no such folder, /" in line("/")  # regression: a traceback
    (tmp_path / "photographs-rloss/classes.txt").unlink()
    (tmp_path / "photographs-rloss/classes.txt").symlink_to(tmp_path / "gone")
    assert "where nothing is" in line(photographs)


@pytest.mark.slow
def test_a_round_outlives_the_server_and_is_resumed_where_it_was_killed(photographs):
    """And where it was stopped before it listened. Regression: the page said then that it was interrupted."""
    server = Server(photographs, "--classes", "cat,dog")
    data = photographs.with_name("photographs-rloss")
    server.draw()
    settings = {"steps": 60, "crf_steps": 2, "crop_size": 33, "batch_size": 2, "more": "--no-cuda --save-steps 5"}
    server.ask("api/train", {"settings": settings})
    server.ask("api/train/stop", {})
    assert server.training_ended()["error"].startswith("stopped before the first step")
    server.ask("api/train/resume", {})
    round_process = int((data / "rounds/lock").read_text())
    server.end()
    record = data / "rounds/1/round.json"
    checkpoint = data / "rounds/1/runs/drawn/partial_ce/experiment_0/checkpoint_last.pth.tar"
    deadline = time.time() + 120
    while not checkpoint.exists():  # without a server
        assert time.time() < deadline
        time.sleep(0.05)
    server = Server(data)
    training = server.ask("api/state")["training"]
    assert training["running"] and training["round"] == 1
    os.kill(round_process, signal.SIGKILL)
    training = server.training_ended()
    assert "interrupted" in training["error"]
    assert server.ask("api/train/resume", {}) == {"ok": True}
    training = server.training_ended()
    assert training["phase"] == "finished" and read_record(record.parent)["stopped"] is False
    assert [path.name for path in checkpoint.parents[1].iterdir()] == ["experiment_0"]  # a new training makes another
    assert training["losses"][-1][0] == 62
    server.end()


@pytest.mark.slow
def test_a_round_that_fails_says_the_line_of_the_script(photographs):
    server = Server(photographs, "--classes", "cat,dog")
    data = photographs.with_name("photographs-rloss")
    server.draw()
    server.ask("api/train", {"settings": {"more": "--faster"}})
    training = server.training_ended()
    assert training["error"] == "unrecognized arguments: --faster (--help lists the options)"
    assert isinstance(new_round(data, RoundSettings()), Path)
    server.end()

"""The fetch scripts against a local web server: small archives, and all that goes wrong."""

import hashlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dataloaders.datasets.pascal import HOW_TO_GET_VOC, VOCSegmentation
from helpers import write_label

HOME = Path(__file__).parents[2]
VOC_SCRIPT = HOME / "data/VOC2012/fetchVOC2012.sh"
SCRIBBLE_SCRIPT = HOME / "data/pascal_scribble/fetchPascalScribble.sh"
TAR = "VOCtrainval_11-May-2012.tar"
TRAIN, VAL = ["2007_000032", "2007_000039", "2008_000008"], ["2007_000033"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("wget") or shutil.which("curl")), reason="the fetch scripts need wget or curl"
)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, bytes]:
    """Archives with the four images of TRAIN and VAL, and the clutter that archives come with."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    jpg, png = {}, {}
    for image_id in TRAIN + VAL:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "i.jpg")
        write_label(folder / "l.png", rng.integers(0, 21, (40, 50)))
        jpg[image_id], png[image_id] = (folder / "i.jpg").read_bytes(), (folder / "l.png").read_bytes()
    lists = {"train": "\r\n".join(TRAIN) + "\r\n", "val": "".join(f"/JPEGImages/{i}.jpg /X/{i}.png\n" for i in VAL)}
    return {
        TAR: tar_of(
            {f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg": content for name, content in jpg.items()}
            | {"VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": "".join(f"{i}\n" for i in VAL).encode()}
            | {"VOCdevkit/VOC2012/SegmentationClass/2007_000032.png": png["2007_000032"]}
        ),
        "SegmentationClassAug.zip": zip_of(
            {f"SegmentationClassAug/{name}.png": content for name, content in png.items()}
            | {f"__MACOSX/SegmentationClassAug/._{name}.png": b"resource fork" for name in png}
        ),
        "SegmentationAug.zip": zip_of({f"SegmentationAug/{name}.txt": text.encode() for name, text in lists.items()}),
        "pascal_2012_scribble.zip": zip_of(
            {f"scribbles/png/{name}.png": png[name] for name in TRAIN} | {"scribbles/preview.png": b"?"}
        ),
    }


@pytest.fixture
def web(archives):
    """A web server: `requests` are the (path, first byte) asked for; /cut/ ends every answer after `cut` bytes, /whole/
    knows no ranges, /page/ says hello to every path, /other/ serves something else of the right length."""
    state = SimpleNamespace(requests=[], cut=3000)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            kind, _, name = self.path.strip("/").partition("/")
            data = archives.get(name) if kind != "page" else b"<html>This page has moved.</html>"
            if data is None or kind == "gone":
                return self.send_error(404)
            if kind == "other":
                data = bytes(len(data))
            asked = None if kind == "whole" else re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            state.requests.append((f"/{kind}/{name}", start))
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[start : start + state.cut] if kind == "cut" else data[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(web, archives, tmp_path):
    """Run a script from another folder against the server; settings are variables, a list of URLs by their paths."""

    def run(script: Path, **settings: str) -> subprocess.CompletedProcess:
        def urls(name: str, variable: str) -> str:
            kinds = settings.pop(variable, "ok").split()
            return " ".join(kind if "://" in kind else f"{web.url}/{kind}/{name}" for kind in kinds)

        environment = {
            **os.environ,
            "DATA_ROOT": str(tmp_path / "data sets"),
            "VOC2012_URLS": urls(TAR, "VOC2012_URLS"),
            "VOC2012_MD5": hashlib.md5(archives[TAR]).hexdigest(),
            "SEGMENTATION_CLASS_AUG_URLS": urls("SegmentationClassAug.zip", "SEGMENTATION_CLASS_AUG_URLS"),
            "SEGMENTATION_AUG_URLS": urls("SegmentationAug.zip", "SEGMENTATION_AUG_URLS"),
            "PASCAL_SCRIBBLE_URLS": urls("pascal_2012_scribble.zip", "PASCAL_SCRIBBLE_URLS"),
            **settings,
        }
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            environment.pop(variable, None)
        return subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    run.root = tmp_path / "data sets"
    run.voc = run.root / "VOCdevkit/VOC2012"
    return run


def only(tmp_path: Path, *tools: str) -> str:
    """Return a PATH with the usual programs of a system but, of the tools that are optional, with `tools` only."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            optional = program.name.startswith(("wget", "curl", "unzip", "python"))
            if (not optional or program.name in tools) and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    if "python3" in tools:
        (folder / "python3").unlink(missing_ok=True)
        (folder / "python3").symlink_to(sys.executable)
    return str(folder)


def test_both_scripts_leave_what_the_loader_reads(fetch, web):
    result = fetch(VOC_SCRIPT)
    assert result.returncode == 0, result.stdout + result.stderr
    result = fetch(SCRIBBLE_SCRIPT)
    assert result.returncode == 0 and not result.stderr
    args = SimpleNamespace(base_size=32, crop_size=32, scale_range=(1, 1), supervision="scribble")
    for split, expected, kind in (("train", TRAIN, "scribbles"), ("val", VAL, "truth"), ("fill_in", TRAIN, "truth")):
        dataset = VOCSegmentation(args, fetch.voc, split)
        assert dataset.ids == expected and dataset.label_kind == kind
        assert dataset[0]["image"].shape == (3, 32, 32)
        dataset.survey()
    assert {path.name for path in fetch.root.iterdir()} == {"VOCdevkit", "downloads"}  # nothing temporary is left

    asked = len(web.requests)
    assert fetch(VOC_SCRIPT).returncode == fetch(SCRIBBLE_SCRIPT).returncode == 0
    assert len(web.requests) == asked  # what is there is not fetched again


def test_the_root_may_be_relative(fetch, tmp_path):
    """Regression: after the first archive the scripts were in another folder."""
    result = fetch(VOC_SCRIPT, DATA_ROOT="data sets")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (fetch.voc / "SegmentationClassAug").is_dir() and (fetch.voc / "ImageSets/SegmentationAug/val.txt").is_file()
    assert {path.name for path in fetch.root.iterdir()} == {"VOCdevkit", "downloads"}


@pytest.mark.parametrize("tool", ["wget", "curl"])
def test_a_transfer_that_breaks_off_goes_on(fetch, web, tmp_path, tool, archives):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    result = fetch(SCRIBBLE_SCRIPT, PASCAL_SCRIBBLE_URLS="cut", PATH=only(tmp_path, tool, "python3"))
    assert result.returncode == 0, result.stdout + result.stderr
    size = len(archives["pascal_2012_scribble.zip"])
    assert [start for _, start in web.requests] == list(range(0, size, web.cut))
    assert sorted(path.stem for path in (fetch.voc / "pascal_2012_scribble").iterdir()) == TRAIN


@pytest.mark.parametrize("tool", ["wget", "curl"])
def test_a_second_call_goes_on_where_the_first_stopped(fetch, web, tmp_path, tool, archives):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    path = only(tmp_path, tool, "python3")
    whole = archives["pascal_2012_scribble.zip"]
    part = fetch.root / "downloads/pascal_2012_scribble.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:5000])
    assert fetch(SCRIBBLE_SCRIPT, PATH=path).returncode == 0
    assert web.requests == [("/ok/pascal_2012_scribble.zip", 5000)]

    # What had arrived was of another file: from the start again. A server without ranges starts there anyway.
    for kind in ("ok", "whole"):
        shutil.rmtree(fetch.root)
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(5000))
        result = fetch(SCRIBBLE_SCRIPT, PASCAL_SCRIBBLE_URLS=kind, PATH=path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert web.requests[-1] == (f"/{kind}/pascal_2012_scribble.zip", 0)


def test_a_wrong_checksum_is_refused_and_the_next_mirror_taken(fetch, archives):
    result = fetch(VOC_SCRIPT, VOC2012_URLS="other")
    assert result.returncode == 2 and not (fetch.voc / "JPEGImages").exists()
    assert hashlib.md5(archives[TAR]).hexdigest() in result.stderr and "MD5" in result.stderr
    assert not list((fetch.root / "downloads").glob(f"{TAR}*"))

    result = fetch(VOC_SCRIPT, VOC2012_URLS="other gone ok")
    assert result.returncode == 0 and not result.stderr
    assert "MD5" in result.stdout and "404" in result.stdout


@pytest.mark.parametrize("tool", ["wget", "curl"])
@pytest.mark.parametrize(("kind", "said"), [("gone", "404"), ("page", "expected a complete ZIP archive")])
def test_a_dead_link_is_one_line_that_says_how_to_go_on(fetch, tmp_path, archives, kind, said, tool):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    result = fetch(SCRIBBLE_SCRIPT, PASCAL_SCRIBBLE_URLS=kind, PATH=only(tmp_path, tool, "python3"))
    by_hand = fetch.root / "downloads/pascal_2012_scribble.zip"
    assert result.returncode == 2 and not fetch.voc.exists()
    (line,) = result.stderr.splitlines()
    assert all(
        part in line for part in ("error: ", said, f"/{kind}/{by_hand.name}", str(by_hand), "PASCAL_SCRIBBLE_URLS")
    )

    by_hand.write_bytes(archives[by_hand.name])  # as the line says
    assert fetch(SCRIBBLE_SCRIPT, PASCAL_SCRIBBLE_URLS="gone").returncode == 0
    assert sorted(path.stem for path in (fetch.voc / "pascal_2012_scribble").iterdir()) == TRAIN


def test_a_dead_host_is_tried_again_and_does_not_hold_up_the_rest(fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/{TAR}"
        result = fetch(VOC_SCRIPT, VOC2012_URLS=dead)
    assert result.returncode == 2 and dead in result.stderr and "refused" in result.stderr.lower()
    assert (
        fetch.voc / "SegmentationClassAug"
    ).is_dir() and "JPEGImages                               not there" in result.stdout


def test_lists_whose_link_is_dead_are_made_from_vocs_own(fetch):
    result = fetch(VOC_SCRIPT, SEGMENTATION_AUG_URLS="gone")
    assert result.returncode == 0, result.stdout + result.stderr
    lists = fetch.voc / "ImageSets/SegmentationAug"
    assert (lists / "train.txt").read_text().split() == TRAIN and (lists / "val.txt").read_text().split() == VAL


def test_missing_files_are_counted(fetch):
    assert fetch(VOC_SCRIPT).returncode == 0
    (fetch.voc / "SegmentationClassAug" / f"{VAL[0]}.png").unlink()
    (fetch.voc / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink()
    result = fetch(VOC_SCRIPT)
    assert result.returncode == 2
    assert "JPEGImages                               3 files, 1 of the listed ones are missing" in result.stdout
    assert "SegmentationClassAug                     3 files, 1 of the listed ones are missing" in result.stdout


def test_what_was_there_stays(fetch):
    own = fetch.voc / "SegmentationClass"
    own.mkdir(parents=True)
    (own / "mine.txt").write_text("mine")
    assert fetch(VOC_SCRIPT).returncode == 0
    assert [path.name for path in own.iterdir()] == ["mine.txt"] and (fetch.voc / "ImageSets/Segmentation").is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(fetch, tmp_path):
    (tmp_path / "file").write_text("")
    result = fetch(VOC_SCRIPT, DATA_ROOT=str(tmp_path / "file"))
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "file") in line and "export DATA_ROOT=" in line


@pytest.mark.parametrize("script", [VOC_SCRIPT, SCRIBBLE_SCRIPT])
def test_help_and_wrong_arguments(script):
    text = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    assert "DATA_ROOT=FOLDER" in text and "_URLS" in text and "source" not in text
    result = subprocess.run([script, "now"], capture_output=True, text=True, check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_the_loader_names_the_scripts():
    for script in (VOC_SCRIPT, SCRIBBLE_SCRIPT):
        assert str(script.relative_to(HOME)) in HOW_TO_GET_VOC

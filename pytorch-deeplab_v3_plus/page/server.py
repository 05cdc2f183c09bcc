"""The page's HTTP: what the browser asks for, answered from the files of the data set.

Errors are {"error": "one line"}. Nothing is kept in memory that is not on the disk, so that a server that is killed
loses nothing.
"""

import asyncio
import contextlib
import io
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from common.errors import InputError
from common.faults import explained
from dataloaders.images import listing, read_label, write_label
from dataloaders.labels import PADDING, voc_palette
from dataloaders.layout import CLASS_FILE
from figures.colours import light
from page import exports, process
from page.project import NotNow, Photograph, Project, picture, small_mask, stamp
from page.rounds import (
    MODEL,
    PREDICTED,
    PREDICTIONS,
    RECORD,
    ROUNDS,
    RUNS,
    TRAINED_ON,
    RoundSettings,
    new_round,
    read_record,
    rounds_in,
    start_of,
)
from page.strokes import FOLDER, Strokes, checked
from training.run_folder import STEPS

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
LARGEST_JSON, LARGEST_UPLOAD = 2**22, 2**27  # bytes of a request
SECONDS_BETWEEN_LOOKS = 0.5
CONFLICT, TOO_LARGE, ABSENT, BAD, MISDIRECTED = 409, 413, 404, 400, 421

Answer = Any  # what becomes JSON, or a Response


class Refused(InputError):
    """A request that cannot be answered, with its status."""

    def __init__(self, line: str, status: int = BAD) -> None:
        super().__init__(line)
        self.status = status


def endpoint(work: Callable[[Request, bytes], Answer], most: int = LARGEST_JSON) -> Callable[[Request], Any]:
    """Return the endpoint that answers with what `work` makes of a request and its body, in a thread of its own."""

    async def answer(request: Request) -> Response:
        try:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refused(f"expected at most {most:,} bytes, found more", TOO_LARGE)
            folder = str(request.app.state.folder)
            if (meant := unquote(request.headers.get("rloss-data", folder))) != folder:
                raise Refused(f"expected a page of {folder}, found one of {meant}: reload it", MISDIRECTED)
            found = await run_in_threadpool(work, request, bytes(body))
        except ClientDisconnect:
            return Response(status_code=BAD)
        except InputError as error:
            return JSONResponse({"error": str(error)}, getattr(error, "status", BAD))
        except (OSError, MemoryError, RuntimeError) as error:
            line = explained(error, "", "")
            if line is None:
                raise
            logger.error("%s", line)
            return JSONResponse({"error": line}, NotNow.status)
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


def refusal(request: Request, error: Exception) -> Response:
    """Answer a request that has no endpoint."""
    return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)


def failure(request: Request, error: Exception) -> Response:
    """Answer a request at which the server failed; the traceback is in its log."""
    return JSONResponse({"error": f"the page's server failed at {request.url.path}: its log says why"}, 500)


def wanted_size(request: Request) -> int | None:
    """Return the `size` that a request asks for, in pixels; raise Refused for what is no number."""
    size = request.query_params.get("size", "0")
    if not size.isdecimal() or len(size) > 6:
        raise Refused(f"expected a size in pixels, found '{size[:80]}'")
    return int(size) or None


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object that a body holds; raise InputError where it holds none."""
    try:
        content = json.loads(body)
        json.dumps(content, ensure_ascii=False).encode()  # not of half a letter, which no file can hold
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError("expected a JSON object as the body")
    return content


class Page:
    """Answers the page's requests. One process at a time does so for a data set: others get InputError."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder)
        self.strokes = Strokes(self.project)
        self._starting = threading.Lock()
        self._unread: dict[str, tuple[str, str]] = {}  # images that could not be shown: version of the file, and why
        self.is_ending: Callable[[], bool] = lambda: False  # whether the server waits for the last answers to end

    def app(self) -> Starlette:
        """Return the application, without the gate in front of it (page.security)."""
        image = "/api/images/{image_id}"
        routes = [
            Route("/", lambda request: FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})),
            Route("/api/state", endpoint(self.state)),
            Route("/api/events", self.events),
            Route("/api/images", endpoint(self.upload, LARGEST_UPLOAD), methods=["POST"]),
            Route(f"{image}/photo", endpoint(self.photo)),
            Route(f"{image}/strokes", endpoint(self.get_strokes)),
            Route(f"{image}/strokes", endpoint(self.add_stroke), methods=["POST"]),
            Route(f"{image}/base.png", endpoint(self.base)),
            Route(f"{image}/prediction.png", endpoint(self.prediction)),
            Route("/api/train", endpoint(self.train), methods=["POST"]),
            Route("/api/train/stop", endpoint(self.stop), methods=["POST"]),
            Route("/api/train/resume", endpoint(self.resume), methods=["POST"]),
            Route("/api/export/{kind}", endpoint(self.export)),
            Route("/api/commands", endpoint(self.commands)),
            Route("/api/classes", endpoint(self.add_class), methods=["POST"]),
            Route("/api/classes/{number:int}", endpoint(self.rename_class), methods=["PUT"]),
            Mount("/static", CurrentFiles(directory=STATIC)),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: refusal, Exception: failure})
        app.state.folder = self.project.folder
        return app

    # What there is

    def state(self, request: Request, body: bytes) -> Answer:
        """Return everything that the page shows beside one image.

        Masks, and what is known from them, are the newest of each image, or those of the `round` that is asked for.
        """
        names, data = self.project.class_names, self.project.folder
        colours = voc_palette()[: len(names)]
        rounds = rounds_in(data)
        with_network = [folder for folder in rounds if (folder / MODEL).is_file()]
        wanted = [folder for folder in with_network if folder.name == request.query_params.get("round")]
        shown, predicted = (wanted or with_network or [None])[-1], self._predicted(wanted or rounds)
        logs = read_record(shown).get("logs") if shown else None
        trained = listing(shown / TRAINED_ON, (".png",)) if shown else {}
        return {
            "folder": str(data),
            "classes": [
                {"name": name, "color": f"#{bytes(own).hex()}", "shown": f"#{bytes(shown).hex()}"}
                for name, own, shown in zip(names, colours, light(colours), strict=True)
            ],
            "images": [
                self._image(one, predicted.get(one.id, {}), logs, trained) for one in self.project.photographs()
            ],
            "shown": int(shown.name) if shown else None,
            "training": process.progress(rounds[-1], process.is_running(data)) if rounds else None,
            "rounds": [self._round(folder) for folder in rounds],
            "settings": process.describe_settings(self._usual_settings()),
            "trouble": self.strokes.trouble,
        }

    def _image(
        self, photograph: Photograph, predicted: dict[str, Any], logs: dict[str, int] | None, trained: Container[str]
    ) -> dict[str, Any]:
        image_id, error = photograph.id, photograph.error
        version, why = self._unread.get(image_id, ("", ""))
        if version == stamp(photograph.path):  # only reading all of it, which takes long, tells
            error = error or why
        try:
            strokes, drawn = self.strokes.count(image_id), self.strokes.classes(image_id)
            known = None if error or logs is None else self._learned(image_id, logs.get(image_id, 0), trained)
        except InputError as damaged:  # or gone since it was listed
            strokes, drawn, known, error = 0, [], None, error or str(damaged)
        return {
            "id": image_id,
            "width": photograph.width,
            "height": photograph.height,
            "error": error,
            "strokes": strokes,
            "drawn": drawn,
            "learned": known,
            "predicted": predicted.get("round"),
            "uncertainty": predicted.get("uncertainty"),
            "place": predicted.get("place"),
            "found": predicted.get("classes"),
            "changed": predicted.get("changed"),
        }

    def _learned(self, image_id: str, length: int, trained: Container[str]) -> bool | None:
        """Whether a round knew what is drawn on an image now; None where it has not trained on it, nor would now.

        `length` is that of the image's log at the time of the round, which `trained` on these images.
        """
        known = self.strokes.drawn(image_id).length == length
        if image_id in trained:
            return known
        return False if self.strokes.count(image_id) and not known else None

    def _round(self, folder: Path) -> dict[str, Any]:
        record = read_record(folder)
        known = {"round": int(folder.name), "finished": record["phase"] == "finished"}
        start = start_of(folder)
        known |= {"network": (folder / MODEL).is_file(), "start": int(start.parent.name) if start else None}
        names = ("images", "strokes", "seconds", "stopped", "miou", "miou_others", "changed", "settings")
        return known | {name: record.get(name) for name in names}

    def _usual_settings(self) -> RoundSettings:
        """Return the settings of the preset for these photographs."""
        return RoundSettings.fitting([(one.width, one.height) for one in self.project.photographs() if not one.error])

    def _predicted(self, rounds: Sequence[Path]) -> dict[str, dict[str, Any]]:
        """Return each image's last prediction in these rounds: its round, its number in it, uncertainty and place."""
        found: dict[str, dict[str, Any]] = {}
        for folder in rounds:
            found |= _predicted_in(folder, stamp(folder / PREDICTED))
        return found

    async def events(self, request: Request) -> Response:
        """Tell what has changed on the disk, whoever changed it, as server-sent events."""

        async def stream() -> Any:
            before = await run_in_threadpool(self._stamps)
            yield "retry: 1000\n\n"
            while not (self.is_ending() or await request.is_disconnected()):
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
                now = await run_in_threadpool(self._stamps)
                changed = [topic for topic in now.keys() | before.keys() if now.get(topic) != before.get(topic)]
                before = now
                yield f"data: {json.dumps({'changed': sorted(changed)})}\n\n" if changed else ": still here\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    def _stamps(self) -> dict[str, Any]:
        """Return a value for each topic that changes when its files do."""
        folder = self.project.folder
        stamps: dict[str, Any] = {"classes": stamp(folder / CLASS_FILE), "trouble": self.strokes.trouble}
        try:
            files = self.project.files()
        except NotNow as error:
            return stamps | {"images": str(error)}
        stamps["images"] = sorted(files)
        stamps |= {f"strokes:{image_id}": stamp(folder / FOLDER / f"{image_id}.jsonl") for image_id in files}
        rounds = rounds_in(folder)
        predicted = self._predicted(rounds)
        stamps |= {f"prediction:{image_id}": (one["round"], one["line"]) for image_id, one in predicted.items()}
        masks = [stamps[topic] for topic in stamps if topic.startswith("prediction:")]
        stamps["images"] = [stamps["images"], masks, list(self._unread.values())]
        stamps["rounds"] = [stamp(one / RECORD) for one in rounds]
        if rounds:
            steps = [stamp(path) for path in sorted((rounds[-1] / RUNS).rglob(STEPS))]
            stamps["training"] = [stamps["rounds"][-1], steps, process.is_running(folder)]
        return stamps

    # Images and strokes

    def _file(self, request: Request) -> tuple[str, Path]:
        """Return the id and the file of the image that a request names: looked up, never made of its words."""
        image_id, files = request.path_params["image_id"], self.project.files()
        if image_id not in files:
            raise Refused(f"expected an image of this data set, found '{image_id[:200]}'", ABSENT)
        return image_id, files[image_id]

    def photo(self, request: Request, body: bytes) -> Answer:
        """Return a photograph upright, as `size` limits its longest side."""
        image_id, path = self._file(request)
        size = wanted_size(request)
        tag = f'"{stamp(path)}-{size}"'
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        try:
            content, kind = picture(path, size)
        except InputError as error:
            self._unread[image_id] = stamp(path), str(error)
            raise
        return Response(content, media_type=kind, headers=headers)

    def get_strokes(self, request: Request, body: bytes) -> Answer:
        """Return the strokes of an image that are not removed, in drawing order."""
        image_id, _ = self._file(request)
        strokes = [
            {name: stroke[name] for name in ("id", "class", "width", "points")}
            for stroke in self.strokes.drawn(image_id).live()
        ]
        path, base = self.strokes.base(image_id), f"api/images/{quote(image_id, safe='')}/base.png"
        return {"strokes": strokes, "base": f"{base}?{stamp(path)}" if path else None}

    def add_stroke(self, request: Request, body: bytes) -> Answer:
        """Put an operation on the disk."""
        image_id, _ = self._file(request)
        self.strokes.append(image_id, checked(read_json(body), len(self.project.class_names)))
        return {"ok": True}

    def base(self, request: Request, body: bytes) -> Answer:
        """Return the scribbles below the strokes, in the palette's colours whatever those of their file."""
        image_id, _ = self._file(request)
        path = self.strokes.base(image_id)
        if path is None:
            raise Refused(f"expected scribbles below the strokes of '{image_id}', found none", ABSENT)
        content = io.BytesIO()
        write_label(content, read_label(path, PADDING))
        return Response(content.getvalue(), media_type="image/png", headers={"cache-control": "no-cache"})

    def upload(self, request: Request, body: bytes) -> Answer:
        """Add a photograph."""
        return {"id": self.project.add(request.query_params.get("name", ""), body)}

    # Rounds

    def prediction(self, request: Request, body: bytes) -> Answer:
        """Return the newest mask of an image, or that of a round that is asked for; with `size` fit for a thumbnail."""
        image_id, _ = self._file(request)
        path = self._masks(request).get(image_id)
        if path is None or not path.is_file():
            raise Refused(f"expected a prediction of '{image_id}', found none yet", ABSENT)
        headers = {"cache-control": "no-cache"}
        if size := wanted_size(request):
            return Response(small_mask(path, size), media_type="image/png", headers=headers)
        return FileResponse(path, headers=headers)

    def _masks(self, request: Request) -> dict[str, Path]:
        """Return the newest mask of each image that has one, or that of the `round` that a request asks for."""
        wanted, rounds = request.query_params.get("round"), rounds_in(self.project.folder)
        predicted = self._predicted([folder for folder in rounds if wanted in (None, folder.name)])
        place = self.project.folder / ROUNDS
        return {one: place / str(found["round"]) / PREDICTIONS / f"{one}.png" for one, found in predicted.items()}

    def train(self, request: Request, body: bytes) -> Answer:
        """Start a round, from the bundled weights or from the network of the round `start`."""
        given, data = read_json(body), self.project.folder
        wanted = given.get("settings") or {}
        if not isinstance(wanted, dict):
            raise Refused("expected settings by name")
        settings = process.read_settings(wanted, self._usual_settings())
        with self._starting:  # of two tabs one starts it
            if process.is_running(data):
                raise Refused("a round is running already: wait for it, or stop it", CONFLICT)
            start = exports.network_of(data, str(given["start"])) if given.get("start") else None
            logs = self.strokes.lengths()  # before the maps are drawn, which may have newer strokes
            self.strokes.draw_all()
            drawn = self.strokes.drawn_here()
            strokes = sum(self.strokes.count(image_id) for image_id in drawn)
            process.start(new_round(data, settings, start, drawn_in_page=drawn, strokes=strokes, logs=logs))
        return {"ok": True}

    def stop(self, request: Request, body: bytes) -> Answer:
        """End the training of the round that runs; its network then predicts."""
        process.stop(self.project.folder)
        return {"ok": True}

    def resume(self, request: Request, body: bytes) -> Answer:
        """Take up the last round where it was interrupted."""
        with self._starting:  # another tab may start one
            unfinished = [one for one in rounds_in(self.project.folder)[-1:] if read_record(one)["phase"] != "finished"]
            if not unfinished:
                raise Refused("there is no interrupted round", CONFLICT)
            process.start(unfinished[0])
        return {"ok": True}

    def export(self, request: Request, body: bytes) -> Answer:
        """Return masks or overlays as a ZIP, the network as a checkpoint, or as ONNX: the newest, or a `round`'s."""
        kind, data = request.path_params["kind"], self.project.folder
        if kind in ("checkpoint", "onnx"):
            network = exports.network_of(data, request.query_params.get("round"))
            path = exports.onnx_file(network) if kind == "onnx" else network
            return FileResponse(
                path, filename=f"{data.name}-round-{network.parent.name}{path.name.removeprefix('model')}"
            )
        if kind not in ("masks", "overlays"):
            raise Refused(f"expected masks, overlays, checkpoint or onnx, found '{kind[:80]}'", ABSENT)
        files = self.project.files()
        given = [word for text in request.query_params.getlist("images") for word in _ids(text, files)]
        if unknown := [image_id for image_id in given if image_id not in files]:
            raise Refused(f"expected images of this data set, found '{unknown[0][:200]}'", ABSENT)
        found = self._masks(request)
        masks = {one: found[one] for one in given or sorted(files) if one in found}
        handle, path = tempfile.mkstemp(suffix=".zip")
        os.close(handle)
        try:
            exports.save_zip(Path(path), self.project, masks, overlays=kind == "overlays")
        except BaseException:
            os.unlink(path)
            raise
        rounds = sorted({int(mask.parents[1].name) for mask in masks.values()})
        name = f"{data.name}-round-{'-'.join(map(str, rounds))}-{kind}.zip"
        return FileResponse(path, filename=name, background=BackgroundTask(os.unlink, path))

    def commands(self, request: Request, body: bytes) -> Answer:
        """Return what to enter in a terminal for what a round did, by default the newest."""
        return exports.commands(self.project.folder, request.query_params.get("round"))

    # Classes

    def add_class(self, request: Request, body: bytes) -> Answer:
        """Add a class behind the others."""
        return self._name_class(None, body)

    def rename_class(self, request: Request, body: bytes) -> Answer:
        """Rename a class, which keeps its number."""
        number = request.path_params["number"]
        if number >= len(self.project.class_names):
            raise Refused(f"expected a class of 0 to {len(self.project.class_names) - 1}, found {number}", ABSENT)
        return self._name_class(number, body)

    def _name_class(self, number: int | None, body: bytes) -> Answer:
        name = read_json(body).get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 100:
            raise Refused("expected a name of 1 to 100 letters")
        self.project.name_class(number, name)
        return {"ok": True}


class CurrentFiles(StaticFiles):
    """Files that a browser asks for again each time, lest it mix those of two versions; mostly they are unchanged."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the answer with a file, or that it is the one that the browser has."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["cache-control"] = "no-cache"
        return answer


def _ids(text: str, known: Container[str]) -> list[str]:
    """Return the ids that are separated by commas, which an id may have too."""
    return [text] if text in known else text.split(",")


_predicted: dict[Path, tuple[str, dict[str, dict[str, Any]]]] = {}  # the version of each round that was read last


def _predicted_in(folder: Path, version: str) -> dict[str, dict[str, Any]]:
    """Return the last line about each image in a round, with the numbers of the round and of the line."""
    known, found = _predicted.get(folder, ("", {}))
    if known == version:
        return found
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for number, line in enumerate((folder / PREDICTED).read_text(encoding="utf-8").split("\n")):
            with contextlib.suppress(ValueError):  # a torn last line
                entry = json.loads(line)
                found[entry["id"]] = entry | {"round": int(folder.name), "line": number}
    _predicted[folder] = version, found
    return found

"""Strokes on photographs: a log of operations for each image, from which its scribble map is drawn.

DATA/strokes/ID.jsonl has one operation a line, appended and on the disk before it is answered:

    {"id": ..., "op": "stroke", "class": 3, "width": 12, "points": [[x, y], ...], "size": [W, H]}  class null erases
    {"id": ..., "op": "remove", "stroke": ID}       undo
    {"id": ..., "op": "restore", "stroke": ID}      redo
    {"id": ..., "op": "base"}                       all before it is in DATA/strokes/ID.base.png

Points are in pixels of the upright photograph, of that size, the centre of the first one at (0, 0), as in
preparation/shapes.py. A base is a scribble map that something else than the page wrote: before the first stroke, or
later. Its time is not the log's, which the page's own map gets when it is drawn, and which never goes back.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.files import leftovers, make_folder, replace_file, synchronise
from dataloaders.images import check_sizes, image_size, read_label, value_counts, write_label
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.layout import SCRIBBLES
from dataloaders.strokes import brush_stroke
from page.project import NotNow, Project, photograph

logger = logging.getLogger(__name__)

FOLDER = "strokes"
WIDEST, FARTHEST, LONGEST, MOST_POINTS = 4096, 1e6, 1e6, 100_000
SECONDS_TO_DRAW, SECONDS_TO_RETRY = 0.3, 2.0

Operation = dict[str, Any]


def checked(operation: object, num_classes: int) -> Operation:
    """Return an operation as the log keeps it; raise InputError where it is none."""
    if not isinstance(operation, dict):
        raise InputError(f"expected an operation, found {str(operation)[:80]}")
    kind, own_id = operation.get("op"), operation.get("id")
    if not isinstance(own_id, str) or not 1 <= len(own_id) <= 64:
        raise InputError(f"expected an id of 1 to 64 letters, found {str(own_id)[:80]}")
    if kind in ("remove", "restore"):
        return {"id": own_id, "op": kind, "stroke": str(operation.get("stroke"))}
    value, width, points = (operation.get(name) for name in ("class", "width", "points"))
    if kind != "stroke":
        raise InputError(f"expected stroke, remove or restore, found {str(kind)[:80]}")
    if value is not None and (type(value) is not int or not 0 <= value < num_classes):
        raise InputError(f"expected a class of 0 to {num_classes - 1}, found {str(value)[:80]}")
    if type(width) is not int or not 1 <= width <= WIDEST:
        raise InputError(f"expected a width of 1 to {WIDEST} pixels, found {str(width)[:80]}")
    try:
        path = np.array(points, dtype=np.float64).round(1)
    except (TypeError, ValueError, OverflowError):
        path = np.empty(0)
    if path.ndim != 2 or path.shape[1] != 2 or not len(path) <= MOST_POINTS or not (abs(path) <= FARTHEST).all():
        raise InputError(f"expected 1 to {MOST_POINTS} pairs of numbers as points, found {str(points)[:80]}")
    if (length := abs(np.diff(path, axis=0)).max(1, initial=0).sum()) > LONGEST:
        raise InputError(f"expected a stroke of at most {LONGEST:,.0f} pixels, found {length:,.0f}: draw several")
    return {"id": own_id, "op": kind, "class": value, "width": width, "points": path.tolist()}


def read_log(path: Path) -> tuple[list[Operation], int]:
    """Return the operations of a log and the bytes that its complete lines take; raise InputError for a damaged one.

    The last line may lack its end, where the server was killed while it wrote: that one was never answered, and the
    page sends it again.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    length = content.rfind(b"\n") + 1
    if length < len(content):
        logger.warning("%s: its torn last line is left out; the page sends that stroke again", path)
    operations = []
    for number, line in enumerate(content[:length].splitlines(), 1):
        try:
            operations.append(json.loads(line))
            operations[-1]["op"]
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"expected an operation a line, found line {number} of {path} damaged: remove it"
            ) from None
    return operations, length


@dataclass
class Drawn:
    """What the log of one image says."""

    ids: set[str] = field(default_factory=set)  # of all operations
    strokes: dict[str, Operation] = field(default_factory=dict)  # in drawing order, since the base
    removed: set[str] = field(default_factory=set)
    has_base: bool = False
    size: tuple[int, int] | None = None  # (width, height) of the photograph; None: of a log that does not say
    length: int = 0  # of the log, in bytes
    on_map: int = 0  # of these, bytes that the scribble map holds
    times: set[int] = field(default_factory=set)  # that its file may have as the page writes it; 0: there is none

    def add(self, operation: Operation) -> None:
        """Apply an operation."""
        self.ids.add(operation["id"])
        if operation["op"] == "base":
            self.strokes, self.removed, self.has_base, self.size = {}, set(), True, None
        elif operation["op"] == "stroke":
            self.strokes[operation["id"]] = operation
            self.size = tuple(operation.get("size", ())) or None
        elif operation["op"] == "remove":
            self.removed.add(operation["stroke"])
        else:
            self.removed.discard(operation["stroke"])

    def live(self) -> list[Operation]:
        """Return the strokes that are not removed, in drawing order."""
        return [stroke for stroke in self.strokes.values() if stroke["id"] not in self.removed]


class Strokes:
    """The strokes on all images of a data set; draws their scribble maps in a thread of its own.

    One process at a time writes them (see page.server). Methods raise InputError for an image whose log or scribble map
    is damaged, or whose photograph is not the one that was drawn on; the other images are not affected.
    """

    def __init__(self, project: Project) -> None:
        self.project, self.folder = project, project.folder / FOLDER
        self.trouble: str | None = None  # why scribble maps could not be drawn
        self._lock, self._drawing = threading.RLock(), threading.Lock()
        self._drawn: dict[str, Drawn] = {}
        self._base_classes: dict[str, tuple[int, list[int]]] = {}  # with the time of the file
        self._last: dict[Any, tuple[list[str], np.ndarray]] = {}  # the map drawn last, to which a stroke is added
        self._wake = threading.Event()
        make_folder(self.folder)
        make_folder(project.folder / SCRIBBLES)
        for place in (self.folder, project.folder / SCRIBBLES):
            for leftover in leftovers(place):
                leftover.unlink(missing_ok=True)
        for image_id in tqdm(project.files(), "scribbles", unit="image", leave=False, disable=None):
            with contextlib.suppress(InputError):  # which the page shows
                self.classes(image_id)
        threading.Thread(target=self._keep_drawing, daemon=True).start()

    def drawn(self, image_id: str) -> Drawn:
        """Return what is drawn on an image, after taking up what something else has written."""
        with self._lock:
            drawn = self._known(image_id)
            if drawn.ids and not self._log(image_id).exists():  # deleted by hand
                del self._drawn[image_id]
                drawn = self._known(image_id)
            if drawn.ids and _time(self._scribble(image_id)) not in drawn.times:
                self._take_up(image_id, drawn)
            if drawn.size:
                one = photograph(image_id, self.project.file(image_id))
                if not one.error and drawn.size != (one.width, one.height):
                    raise InputError(
                        "expected the photograph that was drawn on, of {}x{} pixels, found one of {}x{}, {}: put the "
                        "old one back, or delete {} and {}".format(
                            *drawn.size, one.width, one.height, one.path, self._log(image_id), self._scribble(image_id)
                        )
                    )
            return drawn

    def _known(self, image_id: str) -> Drawn:
        """Return what the log of an image says."""
        if image_id not in self._drawn:
            operations, length = read_log(self._log(image_id))
            self._drawn[image_id] = drawn = Drawn(length=length)
            if operations and (at := _time(self._log(image_id))) == _time(self._scribble(image_id)):
                drawn.on_map, drawn.times = length, {at}
            for operation in operations:
                drawn.add(operation)
        return self._drawn[image_id]

    def classes(self, image_id: str) -> list[int]:
        """Return the classes drawn on an image."""
        with self._lock:
            drawn = {stroke["class"] for stroke in self.drawn(image_id).live()} - {None}
            return sorted(drawn | set(self._classes_of_base(image_id)))

    def count(self, image_id: str) -> int:
        """Return how many strokes an image has, without those of the eraser."""
        return sum(stroke["class"] is not None for stroke in self.drawn(image_id).live())

    def lengths(self) -> dict[str, int]:
        """Return the length of each log that is there, in bytes: it grows with all that is drawn, undone and redone."""
        return {image_id: length for image_id in self.project.files() if (length := self.drawn(image_id).length)}

    def drawn_here(self) -> set[str]:
        """Return the images that have strokes of the page."""
        return {image_id for image_id in self.project.files() if self.drawn(image_id).live()}

    def append(self, image_id: str, operation: Operation) -> None:
        """Put an operation, as `checked` returns it, on the disk; one whose id is known changes nothing.

        Raises InputError where its stroke is unknown, and NotNow where it cannot be written; then nothing has changed.
        """
        with self._lock:
            try:
                drawn = self.drawn(image_id)
            except InputError as error:
                raise NotNow(str(error)) from None
            if operation["id"] in drawn.ids:
                return
            if "stroke" in operation and operation["stroke"] not in drawn.ids:
                raise InputError(f"expected a stroke of '{image_id}', found '{operation['stroke'][:80]}'")
            try:
                if not drawn.ids and os.path.lexists(self._scribble(image_id)):
                    self._take_base(image_id)
                if operation["op"] == "stroke":
                    operation = operation | {"size": image_size(self.project.file(image_id))}
                self._write(image_id, operation)
            except OSError as error:
                what = f"{self._log(image_id)}: cannot be written ({error.strerror}); free space"
                raise NotNow(what) from None
            except InputError as error:  # of the imported scribbles' copy
                if not os.path.exists(self._scribble(image_id)):  # a link that leads nowhere, which no time mends
                    raise
                raise NotNow(str(error)) from None

    def _write(self, image_id: str, operation: Operation) -> None:
        path, drawn = self._log(image_id), self._drawn[image_id]
        before = max(_time(path), _time(self._scribble(image_id)))
        is_new = not path.exists()
        line = json.dumps(operation, separators=(",", ":")).encode() + b"\n"
        with open(path, "ab", buffering=0) as log:
            if os.fstat(log.fileno()).st_size > drawn.length:
                log.truncate(drawn.length)  # a torn last line
            try:
                if log.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(log.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    log.truncate(drawn.length)
                raise
        if is_new:
            synchronise(self.folder)
        if _time(path) <= before:  # the clock was put back
            os.utime(path, ns=(before + 1, before + 1))
        drawn.length += len(line)
        drawn.add(operation)
        self._wake.set()

    # The scribble maps

    def base(self, image_id: str) -> Path | None:
        """Return the scribble map below the strokes of an image, None where there is none."""
        drawn = self._known(image_id)
        if drawn.ids:
            return self._base(image_id) if drawn.has_base else None
        path = self._scribble(image_id)
        return path if os.path.lexists(path) else None  # a link that leads nowhere is an error

    def label_map(self, image_id: str, at: Drawn | None = None) -> np.ndarray:
        """Draw the scribble map of an image, uint8 (H, W), as it is or as it was `at` a time since its base."""
        with self._lock:
            base, strokes = self.base(image_id), (at or self._known(image_id)).live()
        size = image_size(self.project.file(image_id))
        below = (image_id, size, base and _time(base))
        ids, label = self._last.get(below, ([], None))
        names = [stroke["id"] for stroke in strokes]
        if label is None or names[: len(ids)] != ids:
            label = self._read_base(image_id, base) if base else np.full(size[::-1], UNLABELLED, dtype=np.uint8)
            ids = []
        label = label.copy()
        for stroke in strokes[len(ids) :]:
            covered = brush_stroke(np.array(stroke["points"]), stroke["width"], label.shape)
            label[covered] = UNLABELLED if stroke["class"] is None else stroke["class"]
        self._last = {below: (names, label)}
        return label

    def draw_all(self) -> None:
        """Bring every scribble map up to date; raise the first error when all others are drawn."""
        errors = []
        with self._drawing:  # who waits for it finds all drawn
            for image_id in self.project.files():
                try:
                    drawn = self.drawn(image_id)
                    if drawn.on_map < drawn.length:
                        self._draw(image_id, drawn)
                except (OSError, InputError) as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def _draw(self, image_id: str, drawn: Drawn) -> None:
        with self._lock:
            length, at = drawn.length, _time(self._log(image_id))
        path, label = self._scribble(image_id), self.label_map(image_id)
        is_empty = bool((label == UNLABELLED).all())
        drawn.times = drawn.times | {0 if is_empty else at}  # others may look while it is written

        def write(temporary: Path) -> None:
            write_label(temporary, label)
            os.utime(temporary, ns=(at, at))

        if is_empty:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, write)
        drawn.on_map, drawn.times = length, {_time(path)}  # a file system may round it

    def _keep_drawing(self) -> None:
        while True:
            try:
                self.draw_all()
            except Exception as error:  # whatever it is, the strokes are safe, and the next attempt may succeed
                if str(error) != self.trouble:
                    known = isinstance(error, OSError | InputError)
                    logger.error("error: %s", error, exc_info=None if known else error)
                self.trouble = str(error)
                time.sleep(SECONDS_TO_RETRY)
            else:
                self.trouble = None
                self._wake.wait()
                self._wake.clear()
                time.sleep(SECONDS_TO_DRAW)

    def _take_up(self, image_id: str, drawn: Drawn) -> None:
        """See what has become of a scribble map whose time the page did not give it."""
        path = self._scribble(image_id)
        if not os.path.lexists(path):  # removed, or not drawn before the server was killed
            drawn.on_map, drawn.times = 0, {0}
            self._wake.set()
            return
        try:
            label = read_label(path, PADDING)
        except InputError as error:
            raise InputError(f"{error}; or delete it: what was drawn in the page is drawn again") from None
        if np.array_equal(label, self.label_map(image_id)):  # copied, without its time
            at = _time(self._log(image_id))
            os.utime(path, ns=(at, at))
            drawn.on_map, drawn.times = drawn.length, {_time(path)}
        elif not drawn.times and any(np.array_equal(label, earlier) for earlier in self._earlier_maps(image_id)):
            drawn.times = {_time(path)}  # the server was killed before it drew the last strokes
        else:
            logger.warning("%s: not written by the page: it is the new base", path)
            self._take_base(image_id)

    def _earlier_maps(self, image_id: str) -> Iterator[np.ndarray]:
        """Yield the maps that the log has drawn since its base, one after the other."""
        operations, _ = read_log(self._log(image_id))
        begin = max((n for n, operation in enumerate(operations) if operation["op"] == "base"), default=0)
        earlier = Drawn()
        for operation in operations[begin:]:
            earlier.add(operation)
            yield self.label_map(image_id, earlier)

    def _take_base(self, image_id: str) -> None:
        """Keep the scribble map that is there as the base of the strokes to come."""
        scribble = self._scribble(image_id)
        at = _time(scribble)
        self._read_base(image_id, scribble)
        replace_file(self._base(image_id), lambda temporary: shutil.copyfile(scribble, temporary))
        self._drawn[image_id].times = {at}
        self._write(image_id, {"id": str(uuid.uuid4()), "op": "base"})

    def _classes_of_base(self, image_id: str) -> list[int]:
        path = self.base(image_id)
        if path is None:
            return []
        at, classes = self._base_classes.get(image_id, (-1, []))
        if at != _time(path):
            counts = value_counts(self._read_base(image_id, path))[:PADDING]
            at, classes = self._base_classes[image_id] = _time(path), np.flatnonzero(counts).tolist()
        return classes

    def _read_base(self, image_id: str, path: Path) -> np.ndarray:
        """Return a scribble map of an image; raise InputError where it is not readable, or not of the image's size."""
        image, label = self.project.file(image_id), read_label(path, PADDING)
        check_sizes(image, image_size(image), path, label)
        return label

    def _log(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.jsonl"

    def _base(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.base.png"

    def _scribble(self, image_id: str) -> Path:
        """Return the file of a scribble map, which may spell its name otherwise: x.PNG, or Unicode's other form."""
        usual = self.project.folder / SCRIBBLES / f"{image_id}.png"
        return usual if os.path.lexists(usual) else self.project.files(SCRIBBLES).get(image_id, usual)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0

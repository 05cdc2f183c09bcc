"""What a run writes down: settings, log, losses, scores, TensorBoard events and pictures."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import replace_file
from common.logs import LineFormatter
from training.run_folder import newest_run

logger = logging.getLogger(__name__)


def _full(path: Any, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}); free space or choose --run-root")


class _LogFile(logging.FileHandler):
    """A log file whose failure stops the run with one line instead of a traceback for every message."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        raise _full(self.baseFilename, error) if isinstance(error, OSError) else error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it has said so before
            super().close()


class _EventFile:
    """A file for tensorboardX's thread: an error there would end the thread, and the run would wait for it for ever."""

    PREFIX = "rloss"  # of a path that tensorboardX is to open with this class

    def __init__(self, path: str) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = open(path, "wb")  # noqa: SIM115 (closed by tensorboardX)

    @classmethod
    def open(cls, path: str) -> _EventFile:
        """Open `path`, which begins with the prefix, as tensorboardX's registry asks for."""
        cls.latest = cls(path.removeprefix(f"{cls.PREFIX}:"))
        return cls.latest

    @staticmethod
    def directory_check(path: str) -> None:
        """Do nothing: the folder is there."""

    def write(self, data: bytes) -> None:
        self._try(self._file.write, data)

    def flush(self) -> None:
        self._try(self._file.flush)

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, action: Callable[..., Any], *data: bytes) -> None:
        if self.error is None:
            try:
                action(*data)
            except OSError as error:
                self.error = error
                with contextlib.suppress(OSError):
                    self._file.close()


class Monitor:
    """The folder `<root>/<dataset>/<checkname>/experiment_<n>/` of one run, and everything written there.

    parameters.txt (settings), log.txt, steps.jsonl (one line a step interval), scores.jsonl (one line an epoch and one
    at the end), TensorBoard events.

    Args:
        parent: `<root>/<dataset>/<checkname>`.
        settings: what parameters.txt lists.
        folder: a run to go on with; None makes the folder of the next number.

    Raises:
        InputError: the folder cannot be written, or another process is writing it.
    """

    def __init__(self, parent: Path, settings: dict[str, Any], folder: Path | None = None) -> None:
        from tensorboardX import SummaryWriter  # here, since it takes a second to import
        from tensorboardX.record_writer import register_writer_factory

        self.parent = parent
        try:
            self.folder = folder or self._new_folder()
            self._log = _LogFile(self.folder / "log.txt", encoding="utf-8")
            fcntl.flock(self._log.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go when the process ends, however
            for leftover in self.folder.glob(".checkpoint*"):  # of a process that was killed while it wrote
                leftover.unlink()
            lines = [f"{name}: {value}" for name, value in sorted(settings.items())]
            self.write("parameters.txt", "\n".join(["command: " + " ".join(sys.argv), *lines]) + "\n")
            register_writer_factory(_EventFile.PREFIX, _EventFile)
            self._events = SummaryWriter(logdir=f"{_EventFile.PREFIX}:{self.folder}")
            self._event_file = _EventFile.latest
        except BlockingIOError:
            raise InputError(
                f"{self.folder}: another process is training in this folder; wait for it, or choose another --checkname"
            ) from None
        except OSError as error:
            raise InputError(f"{self.parent}: cannot be written ({error.strerror}); choose --run-root") from None
        self._log.setFormatter(LineFormatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._log)

    def _new_folder(self) -> Path:
        """Make and return the folder of the next number; two runs started at once get two."""
        self.parent.mkdir(parents=True, exist_ok=True)
        while True:
            newest = newest_run(self.parent)
            folder = self.parent / f"experiment_{int(newest.name[11:]) + 1 if newest else 0}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run."""
        replace_file(self.folder / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def record(self, entry: dict[str, Any], file: str = "scores.jsonl") -> None:
        """Append one line to scores.jsonl or steps.jsonl."""
        path = self.folder / file
        try:
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise _full(path, error) from None

    def rewind(self, history: Sequence[dict[str, Any]], source: Path, step: int) -> None:
        """Take up the records of a run that goes on at `step`; those behind it, written before it was killed, go.

        Args:
            history: the records of its finished epochs.
            source: its folder, this one or another.
            step: steps of the whole training that its checkpoint has seen.
        """
        self.write("scores.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        kept = []
        with contextlib.suppress(FileNotFoundError):
            for line in (source / "steps.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # half a line, where the run was killed
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
        self.write("steps.jsonl", "".join(kept))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Send scalars to TensorBoard."""
        if self._event_file.error:
            raise _full(self._event_file.path, self._event_file.error)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture file to TensorBoard."""
        self._events.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def best_of_all_runs(self) -> float:
        """Return the best score of the earlier runs of this name, or -1."""
        best = -1.0
        for path in self.parent.glob("experiment_*/best_pred.txt"):
            if path.parent != self.folder:
                with contextlib.suppress(ValueError):  # an empty file, left by a run that was killed
                    best = max(best, float(path.read_text()))
        return best

    def close(self) -> None:
        """Close the files."""
        self._events.close()
        logging.getLogger().removeHandler(self._log)
        self._log.close()


class SilentMonitor(Monitor):
    """Knows the run's folder but writes nothing: for the processes beside the first, and for benchmarks."""

    def __init__(self, folder: Path) -> None:
        self.parent, self.folder = folder.parent, folder

    def write(self, name: str, text: str) -> None: ...

    def record(self, entry: dict[str, Any], file: str = "scores.jsonl") -> None: ...

    def rewind(self, history: Sequence[dict[str, Any]], source: Path, step: int) -> None: ...

    def scalars(self, values: dict[str, float], step: int) -> None: ...

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def close(self) -> None: ...

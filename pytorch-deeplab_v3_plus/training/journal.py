"""What a run writes down while it trains: settings, log, losses, scores, TensorBoard events and pictures."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.errors import InputError
from common.files import leftovers, write_text
from common.logs import LineFormatter
from training.advice import percentage
from training.run_folder import IDENTITY, PARAMETERS, SCORES, STEPS, new_run, read_records

logger = logging.getLogger(__name__)


def cannot_write(path: Any, error: OSError) -> InputError:
    """Return the error for a file of a run that cannot be written."""
    return InputError(f"{path}: cannot be written ({error.strerror or error}); free space or choose --run-root")


def versions() -> str:
    """Return the versions of Python, PyTorch and this code, of which git tells the commit where it can."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    code = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        code = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return f"Python {platform.python_version()}, PyTorch {torch.__version__}" + (code and f", commit {code}")


class _LogFile(logging.FileHandler):
    """A log file whose failure stops the run with one line instead of a traceback for every message."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        raise cannot_write(self.baseFilename, error) if isinstance(error, OSError) else error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it has said so before
            super().close()


class _EventFile:
    """A file for tensorboardX's thread: an error there would end the thread, and the run would wait for it for ever."""

    PREFIX = "rloss"  # of a path that tensorboardX is to open with this object
    error: OSError | None = None

    def open(self, path: str) -> _EventFile:
        """Open `path`, which begins with the prefix."""
        self.path = path.removeprefix(f"{self.PREFIX}:")
        self._file = open(self.path, "wb")  # noqa: SIM115 (closed by tensorboardX)
        return self

    def directory_check(self, path: str) -> None:
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


class Journal:
    """Writes parameters.txt (settings), identity.json (see training.identity), log.txt, steps.jsonl, scores.jsonl and
    TensorBoard events into a run's folder.

    Epochs and steps count from 1. `folder` is a run to continue; None makes that of the next number in `parent`,
    which is `<root>/<dataset>/<checkname>`. Raises InputError where the folder cannot be written, or another process
    is writing it.
    """

    def __init__(
        self,
        parent: Path,
        settings: dict[str, Any],
        folder: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        from tensorboardX import SummaryWriter  # here, since it takes a second to import
        from tensorboardX.record_writer import register_writer_factory

        try:
            with contextlib.ExitStack() as undo:
                self.folder = folder or new_run(parent)
                self._log = _LogFile(self.folder / "log.txt", encoding="utf-8", errors="backslashreplace")
                undo.callback(self._log.close)
                fcntl.flock(self._log.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however
                # Beside this run's folder other runs may be writing: only what is called after this one is left over.
                for leftover in [*leftovers(self.folder), *leftovers(self.folder.parent, self.folder.name)]:
                    leftover.unlink()
                lines = [f"{name}: {value}" for name, value in sorted(settings.items())]
                first = ["command: " + " ".join(sys.argv), f"versions: {versions()}"]
                self._add_parameters("\n".join([*first, *lines]) + "\n")
                if identity is not None:
                    self.write(IDENTITY, json.dumps(identity, indent=1) + "\n")
                self._event_file = _EventFile()
                register_writer_factory(_EventFile.PREFIX, self._event_file)
                self._events = SummaryWriter(logdir=f"{_EventFile.PREFIX}:{self.folder}")
                undo.pop_all()
        except BlockingIOError:
            what = "another process is training in this folder"
            raise InputError(f"{self.folder}: {what}; wait for it, or choose another --checkname") from None
        except OSError as error:
            raise InputError(f"{parent}: cannot be written ({error.strerror}); choose --run-root") from None
        self._log.setFormatter(LineFormatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._log)

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run."""
        write_text(self.folder / name, text)

    def _add_parameters(self, text: str) -> None:
        """Write parameters.txt; where the run is continued with others than before, they follow those."""
        before = ""
        with contextlib.suppress(FileNotFoundError):
            before = (self.folder / PARAMETERS).read_text(encoding="utf-8", errors="replace")
        if not before.endswith(text):
            self.write(PARAMETERS, f"{before}\n{text}" if before else text)

    def record(self, entry: dict[str, Any], file: str = SCORES) -> None:
        """Append one line to scores.jsonl or steps.jsonl."""
        path = self.folder / file
        try:
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise cannot_write(path, error) from None

    def rewind(self, history: Sequence[dict[str, Any]], source: Path, epoch: int, step: int = 0) -> None:
        """Take over, from its folder `source`, the records of a run that continues after `epoch` finished epochs.

        Within the next epoch it continues after `step` (over all epochs; 0: at its start). `history` are the records of
        the finished epochs; what was written later, before the run was killed, is dropped.
        """
        self.write(SCORES, "".join(json.dumps(record) + "\n" for record in history))
        entries = [entry for entry in read_records(source / STEPS) if entry.keys() >= {"epoch", "step"}]
        earlier_version = any(entry["epoch"] == 0 for entry in entries)  # which counted them from 0
        entries = [{**entry, "epoch": entry["epoch"] + earlier_version} for entry in entries]
        kept = [one for one in entries if one["epoch"] <= epoch or one["epoch"] == epoch + 1 and one["step"] <= step]
        self.write(STEPS, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._purge_events(1 + max([epoch, *(entry["step"] for entry in kept)]))

    def _purge_events(self, step: int) -> None:
        """Have TensorBoard drop what earlier event files hold from `step` on.

        It does so in all curves, those by epoch included: their numbers are lower, so that an epoch may be there twice.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._events.file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: dict[str, float], at: int) -> None:
        """Send scalars to TensorBoard, for a step or an epoch."""
        if self._event_file.error:
            raise cannot_write(self._event_file.path, self._event_file.error)
        for name, value in values.items():
            self._events.add_scalar(name, value, at)

    def picture(self, name: str, path: Path, epoch: int) -> None:
        """Send a picture file to TensorBoard."""
        self._events.add_image(name, np.asarray(Image.open(path).convert("RGB")), epoch, dataformats="HWC")

    def steps(self, entry: dict[str, Any], losses: dict[str, list[float]]) -> str:
        """Record the steps up to entry['step'], of which `losses` has the values; return their line of text."""
        for name, values in losses.items():
            for at, value in enumerate(values, entry["step"] - len(values) + 1):
                self.scalars({f"train/{name}": value}, at)
        self.record(entry, STEPS)
        text = " ".join(f"{name.replace('cross_entropy', 'ce')} {value:.3g}" for name, value in entry["losses"].items())
        waiting = percentage(entry["waiting_for_data"])
        return f"{text}, {entry['images_per_second']:.1f} img/s, {waiting} waiting for data"

    def epoch(self, record: dict[str, Any], epochs: int, class_names: Sequence[str]) -> None:
        """Record an epoch of `epochs` and log its line."""
        self.record(record)
        self.scalars({"train/lr": record["lr"]}, record["epoch"])
        losses = ", ".join(f"{name.replace('_', '-')} {value:.4g}" for name, value in record["losses"].items())
        line = f"epoch {record['epoch']}/{epochs}: {losses}"
        if record["images_per_second"] is not None:
            line += f", {record['images_per_second']} images/s"
        if scores := record.get("val"):
            line += f", val mIoU (crop) {100 * scores['miou']:.2f}, pixel accuracy {100 * scores['pixel_accuracy']:.2f}"
            shown = {f"val/{name}": value for name, value in scores.items() if isinstance(value, float)}
            by_class = zip(class_names, scores["iou"], strict=True)
            self.scalars(shown | {f"val_iou/{name}": iou for name, iou in by_class if iou is not None}, record["epoch"])
        logger.info("%s", line)

    def close(self) -> None:
        """Close the files."""
        self._events.close()
        logging.getLogger().removeHandler(self._log)
        self._log.close()


class SilentJournal(Journal):
    """Knows the run's folder but writes nothing: for the processes beside the first, and for benchmarks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _ignore(self, *_: Any) -> None:
        """Write nothing."""

    write = record = rewind = scalars = picture = close = _ignore

"""The process of a round, which outlives the server: starting it, stopping it, and reading how far it is."""

import contextlib
import fcntl
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from common.errors import InputError
from dataloaders.layout import IMAGES, list_files
from page.rounds import LOG, PREDICTED, ROUNDS, RUNS, SNAPSHOT, STAGES, RoundSettings, read_record
from training.faults import StopRequest
from training.run_folder import STEPS, read_records, runs_in

CODE = Path(__file__).resolve().parent.parent
_asking = threading.Lock()  # who asks whether a round runs has its lock for a moment
CRF_STEP = 1.1  # time of a step with the DenseCRF loss, in steps without it
FEW = 10  # steps from which on their time is known well enough


def _lock(data: Path) -> IO[str] | None:
    """Return the lock of the round that runs, None where one has it: its process, however that ends, gives it back."""
    path = data / ROUNDS / "lock"
    path.parent.mkdir(exist_ok=True)
    lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held on)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def is_running(data: Path) -> bool:
    """Whether a round of this data set runs."""
    with _asking:
        if not (data / ROUNDS / "lock").exists():
            return False
        if lock := _lock(data):
            lock.close()
        return lock is None


def start(folder: Path) -> None:
    """Run a round in a process of its own, in its own session; raise InputError where one runs already."""
    with _asking:
        lock = _lock(folder.parent.parent)
    if lock is None:
        raise InputError("a round is running already: wait for it, or stop it")
    with lock, open(folder / LOG, "ab") as log:
        lock.truncate(0)  # the number of the process before
        command = [sys.executable, "-m", "page.rounds", str(folder)]
        how = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        # Until the round listens to them (page.rounds.run_round), signals wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, StopRequest.SIGNALS)
        try:
            process = subprocess.Popen(command, cwd=CODE, pass_fds=[lock.fileno()], **how)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        lock.write(str(process.pid))


def stop(data: Path) -> None:
    """End the training of the round that runs; its network then predicts."""
    if is_running(data) and (number := (data / ROUNDS / "lock").read_text()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGTERM)


def progress(folder: Path, running: bool) -> dict[str, Any]:
    """Return how far a round is, as the page shows it."""
    record = read_record(folder)
    settings, finished = RoundSettings(**record["settings"]), record["phase"] == "finished"
    stages = [_steps(folder / RUNS / SNAPSHOT / name) for name in STAGES]
    losses = [[stage * settings.steps + s["step"], *_losses(s)] for stage, steps in enumerate(stages) for s in steps]
    images, predicted = len(list_files(folder.parent.parent, IMAGES)), read_records(folder / PREDICTED)
    spent = [one.get("seconds", 0.0) for one in predicted]
    share, first, seconds = _estimate(settings, stages, spent, len(STAGES) * images)
    return {
        "round": int(folder.name),
        "phase": record["phase"],
        "step": losses[-1][0] if losses else 0,
        "steps": settings.steps + settings.crf_steps,
        "progress": 1.0 if finished else min(0.99, share),
        "seconds_left": round(seconds) if running and seconds is not None else None,
        "seconds_to_masks": round(first) if running and first is not None else None,
        "losses": losses,
        "error": None if running or finished else why_ended(folder),
        "running": running,
    }


def _estimate(
    settings: RoundSettings, stages: list[list[dict[str, Any]]], predicted: list[float], predictions: int
) -> tuple[float, float | None, float | None]:
    """Return the share of a round's time that is over, and the seconds to its first masks and to its end.

    These are None before they can be told, and those to the first masks once there are some.

    `stages` are the records of both trainings, `predicted` the seconds of each prediction so far, out of `predictions`.
    What has not been measured is taken to last as long as its part of a step with partial CE.
    """
    done = [steps[-1]["step"] if steps else 0 for steps in stages]
    per_step = [settings.batch_size / max(0.01, steps[-1]["images_per_second"]) if steps else 1.0 for steps in stages]
    plain, crf = per_step[0], per_step[1]
    crf = (FEW * CRF_STEP * plain + done[1] * crf) / (FEW + done[1])
    one = statistics.mean(predicted) if predicted else plain / settings.batch_size
    work = (done[0], settings.steps, plain), (done[1], settings.crf_steps, crf), (len(predicted), predictions, one)
    over = sum(part * seconds for part, _, seconds in work)
    left = sum(max(0, total - part) * seconds for part, total, seconds in work)
    first = None if predicted else max(0, settings.steps - done[0]) * plain + one
    return over / (over + left), *((first, left) if done[0] >= FEW else (None, None))


def why_ended(folder: Path) -> str:
    """Return why the process of a round that did not finish has ended."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        lines = []
    last = next((line for line in reversed(lines) if line.strip()), "")
    _, said, line = last.partition("error: ")
    if said:
        return line
    if re.match(r"[\w.]+(Error|Exception)\b", last):  # of a traceback
        return f"the round's program failed ({last}): see {folder / LOG}"
    return "the round was interrupted, by hand or as memory ran out: resume it, or take fewer images in a step"


def _steps(parent: Path) -> list[dict[str, Any]]:
    return [entry for run in runs_in(parent)[:1] for entry in read_records(run / STEPS)]


def _losses(entry: dict[str, Any]) -> list[float | None]:
    return [entry["losses"].get(name) for name in ("cross_entropy", "densecrf")]


def describe_settings(settings: RoundSettings) -> list[dict[str, Any]]:
    """Return the settings as the page offers them, with the values of `settings`."""
    kinds = {bool: "bool", int: "int", float: "float", str: "text"}
    found = []
    for field in fields(settings):
        value, choices = getattr(settings, field.name), field.metadata.get("choices")
        kind = "choice" if choices else kinds[type(value)]
        entry = {"name": field.name, "value": value, "help": field.metadata["help"], "kind": kind}
        found.append(entry | ({"choices": list(choices)} if choices else {}))
    return found


def read_settings(given: dict[str, Any], usual: RoundSettings) -> RoundSettings:
    """Return settings, as usual where they are not given; raise InputError for what is none, or no value of one."""
    known = {field.name: field for field in fields(usual)}
    values = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"expected settings out of {', '.join(known)}, found '{name[:80]}'")
        kind = type(getattr(usual, name))
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        if not (is_number if kind is float else type(value) is kind):
            raise InputError(f"{name}: expected {kind.__name__}, found {str(value)[:80]}")
        values[name] = kind(value)
    return RoundSettings(**{**{name: getattr(usual, name) for name in known}, **values})

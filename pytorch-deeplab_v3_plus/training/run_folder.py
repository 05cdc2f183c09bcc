"""The folders that runs leave behind, `<root>/<dataset>/<checkname>/experiment_<n>`: making and reading them."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFIX = "experiment_"
SCORES, STEPS, BEST_SCORE = "scores.jsonl", "steps.jsonl", "best_pred.txt"
PARAMETERS, IDENTITY = "parameters.txt", "identity.json"


def run_number(folder: Path) -> int:
    """Return the number of a run's folder, -1 for other folders."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdecimal() else -1


def runs_in(parent: Path) -> list[Path]:
    """Return the runs in `parent`, the one of the highest number first."""
    runs = (path for path in parent.glob(f"{PREFIX}*") if run_number(path) >= 0 and path.is_dir())
    return sorted(runs, key=run_number, reverse=True)


def new_run(parent: Path) -> Path:
    """Make and return the folder of the next number; two runs started at once get two."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        number = 1 + max(map(run_number, parent.glob(f"{PREFIX}*")), default=-1)
        folder = parent / f"{PREFIX}{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the intact records of a run's scores.jsonl or steps.jsonl: the run may have been killed."""
    records = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def epochs_done(folder: Path) -> int:
    """Return how many epochs the records of a run know of."""
    return max((record.get("epoch", 0) for record in read_records(folder / SCORES)), default=0)


def final_scores(folder: Path | None) -> dict[str, Any] | None:
    """Return the final scores of a run, or None where it has not ended."""
    records = read_records(folder / SCORES) if folder else []
    return records[-1].get("final") if records else None


def best_of_other_runs(folder: Path, comparable: Callable[[Path], bool] = lambda run: True) -> float:
    """Return the best score of the runs beside `folder` that are `comparable`, or -1."""
    best = -1.0
    for run in runs_in(folder.parent):
        if run != folder and comparable(run):
            with contextlib.suppress(FileNotFoundError, ValueError):  # or an empty file, left by a run that was killed
                best = max(best, float((run / BEST_SCORE).read_text()))
    return best

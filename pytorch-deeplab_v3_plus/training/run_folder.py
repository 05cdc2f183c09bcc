"""The folders that runs leave behind, `<root>/<dataset>/<checkname>/experiment_<n>`: making and reading them."""

import contextlib
import json
from pathlib import Path
from typing import Any

PREFIX = "experiment_"
SCORES, STEPS, BEST_SCORE = "scores.jsonl", "steps.jsonl", "best_pred.txt"


def run_number(folder: Path) -> int:
    """Return the number of a run's folder, -1 for other folders."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdecimal() else -1


def newest_run(parent: Path) -> Path | None:
    """Return the run of the highest number in `parent`, or None."""
    runs = [path for path in parent.glob(f"{PREFIX}*") if run_number(path) >= 0]
    return max(runs, key=run_number, default=None)


def new_run(parent: Path) -> Path:
    """Make and return the folder of the next number; two runs started at once get two."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        newest = newest_run(parent)
        folder = parent / f"{PREFIX}{run_number(newest) + 1 if newest else 0}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def final_scores(folder: Path | None) -> dict[str, Any] | None:
    """Return the final scores of a run, or None where it has not ended."""
    if folder is None:
        return None
    try:
        lines = (folder / SCORES).read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]).get("final")
    except (FileNotFoundError, IndexError, ValueError):  # the run was killed
        return None


def best_of_other_runs(folder: Path) -> float:
    """Return the best score of the runs beside `folder`, or -1."""
    best = -1.0
    for path in folder.parent.glob(f"{PREFIX}*/{BEST_SCORE}"):
        if path.parent != folder:
            with contextlib.suppress(ValueError):  # an empty file, left by a run that was killed
                best = max(best, float(path.read_text()))
    return best

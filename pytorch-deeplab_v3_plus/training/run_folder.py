"""The folders that runs leave behind: finding them and reading what they hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def newest_run(parent: Path) -> Path | None:
    """Return the folder `experiment_<n>` of the highest number in `parent`, or None."""
    numbers = [int(path.name[11:]) for path in parent.glob("experiment_*") if path.name[11:].isdecimal()]
    return parent / f"experiment_{max(numbers)}" if numbers else None


def final_scores(run_folder: Path | None) -> dict[str, Any] | None:
    """Return the final scores of a run folder, or None when the run has not ended."""
    if run_folder is None:
        return None
    try:
        lines = (run_folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1]).get("final")
    except (FileNotFoundError, IndexError, ValueError):  # the run was killed
        return None

"""What a run leaves behind: its folder with settings, log, scores, TensorBoard events and pictures."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from errors import InputError
from training.checkpoint import replace_file

logger = logging.getLogger(__name__)


def configure_logging() -> None:
    """Send the log of this process to standard output, plainly."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)


class Monitor:
    """The folder `<root>/<dataset>/<checkname>/experiment_<n>/` of one run, and everything written there.

    parameters.txt (settings), log.txt, scores.jsonl (one line an epoch and one at the end), TensorBoard events.
    """

    def __init__(self, root: str, dataset: str, checkname: str, settings: dict[str, Any]) -> None:
        self.parent = Path(root) / dataset / checkname
        try:
            self.folder = self._new_folder()
            self._handler = logging.FileHandler(self.folder / "log.txt", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.parent}: cannot be written ({error.strerror}); choose --run-root") from None
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._handler)
        lines = [f"{name}: {value}" for name, value in sorted(settings.items())]
        self.write("parameters.txt", "\n".join(["command: " + " ".join(sys.argv), *lines]) + "\n")

        from tensorboardX import SummaryWriter  # here, since it takes a second to import

        self._writer = SummaryWriter(logdir=str(self.folder))

    def _new_folder(self) -> Path:
        """Make and return the folder of the next number; two runs started at once get two."""
        self.parent.mkdir(parents=True, exist_ok=True)
        while True:
            numbers = [
                int(p.name.rsplit("_", 1)[1]) for p in self.parent.glob("experiment_*") if p.name[11:].isdecimal()
            ]
            folder = self.parent / f"experiment_{max(numbers, default=-1) + 1}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue

    def write(self, name: str, text: str) -> None:
        """Write a text file of the run."""
        replace_file(self.folder / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line to scores.jsonl."""
        path = self.folder / "scores.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose --run-root") from None

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Send scalars to TensorBoard."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture file to TensorBoard."""
        self._writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

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
        self._writer.close()
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


def describe_device(device: torch.device) -> str:
    """Return a line about the device that a run uses."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB (cuda:{device.index})"
    why = "" if not torch.cuda.is_available() else ", although there is a GPU (--no-cuda)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}{why}"

"""What leaves the page: masks, overlays, network and ONNX, and the commands that make the same."""

import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.files import replace_file
from dataloaders.images import open_image, read_image
from dataloaders.layout import CLASS_FILE, IMAGES
from figures.overlay import overlay
from page.process import CODE
from page.project import Project
from page.rounds import MODEL, SNAPSHOT, STAGES, TRAINED_ON, RoundSettings, read_record, rounds_in, start_of
from prediction.segmenter import OVERLAY
from training.checkpoint import LAST
from training.run_folder import PREFIX

SECONDS_FOR_ONNX = 600


def network_of(data: Path, number: str | None = None) -> Path:
    """Return the network of a round, by default of the last one that has one; raise InputError where there is none."""
    networks = {folder.name: folder / MODEL for folder in rounds_in(data) if (folder / MODEL).is_file()}
    if not networks:
        raise InputError("there is no network yet: train first")
    number = number or [*networks][-1]
    if number not in networks:
        raise InputError(f"expected a round with a network ({', '.join(networks)}), found '{number[:80]}'")
    return networks[number]


def save_zip(path: Path, project: Project, masks: Mapping[str, Path], overlays: bool) -> None:
    """Write a ZIP with the masks, by image id, called as the photographs are, or with the overlays of these."""
    if not masks:
        raise InputError("there are no masks of these images yet: train first")
    names = project.class_names
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        numbered = "".join(f"{number} {name}\n" for number, name in enumerate(names))
        archive.writestr(CLASS_FILE, numbered)  # what the numbers in the masks mean
        for image_id, mask in masks.items():
            if not overlays:
                archive.write(mask, f"{image_id}.png")
                continue
            with open_image(mask) as picture:
                labels = np.asarray(picture)
            entry = zipfile.ZipInfo.from_file(mask, f"{image_id}{OVERLAY}", strict_timestamps=False)  # with its date
            with archive.open(entry, "w") as file:
                overlay(read_image(project.file(image_id)), labels, names).save(file, format="PNG")


def onnx_file(network: Path) -> Path:
    """Return a network as an ONNX file beside it, which inference.py makes and checks; raise InputError as it does."""
    path = network.parent / "model.onnx"
    if path.is_file() and path.stat().st_mtime_ns > network.stat().st_mtime_ns:
        return path
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=network.parent) as workshop:
        command = [sys.executable, "inference.py", *_onnx_words(network, Path(workshop))]
        try:
            done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, timeout=SECONDS_FOR_ONNX)
        except subprocess.TimeoutExpired:
            late = f"inference.py has not made the ONNX file in {SECONDS_FOR_ONNX} s"
            raise InputError(f"{late}: try again when no round runs, or use the command for it in a terminal") from None
        if done.returncode:
            line = done.stderr.strip().split("\n")[-1]
            raise InputError(line.removeprefix("error: ") or "inference.py has ended without a word")
        (made,) = Path(workshop).glob("*.onnx")
        replace_file(path, lambda temporary: os.replace(made, temporary))
    return path


def _onnx_words(network: Path, output: Path) -> list[str]:
    return ["--checkpoint", str(network), "--output_directory", str(output), "--export", "onnx"]


def commands(data: Path, number: str | None = None) -> list[dict[str, str]]:
    """Return what to enter in a terminal for what the page does in a round, by default the last one with a network.

    Before the first round it is only the check of the data set.
    """

    def line(what: str, *words: Any) -> dict[str, str]:
        return {"what": what, "command": f"cd {shlex.quote(str(CODE))} && python {shlex.join(map(str, words))}"}

    data = data.resolve()
    found = [line("check", "check_dataset.py", data)]
    if not any((folder / MODEL).is_file() for folder in rounds_in(data)):
        return found
    network = network_of(data, number)
    folder = network.parent
    run = Path("run") / f"{data.name}-round-{folder.name}"  # its own, so that run 0 is of this round
    output = run / "masks"
    settings, start = RoundSettings(**read_record(folder)["settings"]), start_of(folder)
    for stage, name in enumerate(STAGES):
        words = settings.words(folder, stage, start, run)
        found.append(line(name, "train_withdensecrfloss.py", *words))
        start = run / SNAPSHOT / name / f"{PREFIX}0" / LAST
    kept = ["--scribbles", folder / TRAINED_ON] if settings.only_drawn else []
    images = ["--image_path", data / IMAGES, *kept, "--output_directory", output]
    found.append(line("masks", "inference.py", "--checkpoint", network, *images))
    found.append(line("onnx", "inference.py", *_onnx_words(network, output)))
    return found

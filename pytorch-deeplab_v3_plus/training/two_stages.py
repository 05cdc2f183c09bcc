"""The comparison that tells what the regulariser is worth: the same second stage with and without it.

For each seed: stage 1 trains with partial cross-entropy alone. Stage 2 starts from those very weights, twice, with the
same number of steps, rate, schedule, augmentation and seed: once with partial cross-entropy alone and once with the
regulariser. Full supervision, if asked for, runs the same two stages on the full truth. Each part is a run of
train_withdensecrfloss.py; a part that has ended is not run again, so that an interrupted comparison goes on.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataloaders import Loaders
from errors import InputError
from training.checkpoint import load_network, replace_file
from training.evaluation import label_map, predict
from training.figures import evenly_spaced, save_contact_sheet, scribble_picture
from training.monitor import final_scores

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).resolve().parent.parent / "train_withdensecrfloss.py"
ARMS = {"partial_ce": "partial CE", "regularised": "+ regularised loss", "full": "full supervision"}


class Part(NamedTuple):
    """One training of a comparison: its name is that of its run folder."""

    seed: int
    name: str
    title: str
    stage: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What is compared: seeds, lengths of the stages in epochs, options of all trainings and of the regularised one."""

    folder: Path
    seeds: tuple[int, ...]
    stage_epochs: tuple[int, int]
    options: tuple[str, ...]
    regularised: tuple[str, ...]
    full: bool
    jobs: int
    stage2_lr: float | None = None

    @property
    def arms(self) -> list[str]:
        """Names of the arms."""
        return [arm for arm in ARMS if self.full or arm != "full"]

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """Train everything that is not there yet; return for each arm the final scores, one entry a seed."""
        self._check_folder()
        scribble, full = ("--supervision", "scribble"), ("--supervision", "full")
        alone = ("--densecrfloss", "0")
        firsts = {"stage1": (*scribble, *alone)} | ({"stage1_full": (*full, *alone)} if self.full else {})
        self._train_all(
            Part(seed, name, "stage 1, " + ARMS["full" if name == "stage1_full" else "partial_ce"], 0, options)
            for seed in self.seeds
            for name, options in firsts.items()
        )
        seconds = {
            "partial_ce": (*scribble, *alone),
            "regularised": (*scribble, *self.regularised),
            "full": (*full, *alone),
        }
        self._train_all(
            Part(seed, arm, ARMS[arm], 1, (*seconds[arm], *self._start(seed, arm)))
            for seed in self.seeds
            for arm in self.arms
        )
        trained = self.run_folder(self.seeds[0], "regularised") / "checkpoint_last.pth.tar"
        replace_file(self.folder / "model.pth.tar", lambda temporary: shutil.copyfile(trained, temporary))
        return {arm: [final_scores(self.run_folder(seed, arm)) for seed in self.seeds] for arm in self.arms}

    def _start(self, seed: int, arm: str) -> tuple[str, ...]:
        """Return the options that start a second stage from the weights of its first."""
        first = self.run_folder(seed, "stage1_full" if arm == "full" else "stage1")
        rate = ("--lr", str(self.stage2_lr)) if self.stage2_lr else ()
        return ("--resume", str(first / "checkpoint_last.pth.tar"), "--ft", *rate)

    def _train_all(self, parts: Iterable[Part]) -> None:
        """Train the parts that have not ended before, several at a time if asked for."""
        parts = [part for part in parts if not self.run_folder(part.seed, part.name)]
        at_once = max(1, min(self.jobs, len(parts)))
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(self._train, part, at_once) for part in parts]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def run_folder(self, seed: int, part: str) -> Path | None:
        """Return the folder of a part that has ended, or None."""
        for path in self.folder.glob(f"seed_{seed}/*/{part}/experiment_*/scores.jsonl"):
            if final_scores(path.parent):
                return path.parent
        return None

    def _train(self, part: Part, at_once: int) -> None:
        """Run one training in a process of its own."""
        epochs = self.stage_epochs[part.stage]
        settings = {
            "--seed": part.seed,
            "--epochs": epochs,
            "--eval-interval": max(1, epochs // 10),
            "--run-root": self.folder / f"seed_{part.seed}",
            "--checkname": part.name,
        }
        command = [sys.executable, str(SCRIPT), *self.options]
        command += [str(word) for setting in settings.items() for word in setting] + list(part.options)
        title = f"seed {part.seed}, {part.title}"
        logger.info("=== %s: %d epochs", title, epochs)
        if at_once == 1:
            status = subprocess.run(command, check=False).returncode
        else:
            threads = str(max(1, (os.cpu_count() or 1) // at_once))
            environment = {"OMP_NUM_THREADS": threads, **os.environ}
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                for line in process.stdout:  # the whole log is in the run's folder
                    if line.startswith(("epoch", "WARNING", "error")):
                        logger.info("%s: %s", title, line.rstrip())
            status = process.returncode
        if status or not self.run_folder(part.seed, part.name):
            raise InputError(f"training stopped with status {status}; the command was: {shlex.join(command)}")

    def _check_folder(self) -> None:
        """Refuse a folder that holds another comparison."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "comparison.json"
            settings = {
                "options": list(self.options),
                "regularised": list(self.regularised),
                "stage_epochs": list(self.stage_epochs),
                "stage2_lr": self.stage2_lr,
            }
            text = json.dumps(settings, indent=1) + "\n"
            if path.is_file() and path.read_text() != text:
                raise InputError(f"{path}: this folder holds a comparison with other settings; choose another --output")
            path.write_text(text)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --output") from None


def comparison_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table: mIoU in percent, mean and standard deviation over the seeds, of each arm and score."""
    scores = [name for name in ("val", "fill_in") if all(name in final for final in results["partial_ce"])]
    lines = [f"{'mIoU in %, crop protocol':<26}" + "".join(f"{name.replace('_', '-'):>16}" for name in scores)]

    def line(title: str, cells: Sequence[str]) -> None:
        lines.append(f"{title:<26}" + "".join(f"{cell:>16}" for cell in cells))

    # Background everywhere hits the background with IoU = its share, and no other class.
    frequencies = [results["partial_ce"][0][name]["frequency"] for name in scores]
    line("background everywhere", [f"{100 * f[0] / sum(share > 0 for share in f):.1f}" for f in frequencies])
    values = {
        arm: {name: [100 * final[name]["miou"] for final in finals] for name in scores}
        for arm, finals in results.items()
    }
    for arm, by_score in values.items():
        line(ARMS[arm], [mean_and_spread(by_score[name]) for name in scores])
    gains = {
        name: [b - a for a, b in zip(values["partial_ce"][name], values["regularised"][name], strict=True)]
        for name in scores
    }
    line("gain of the regulariser", [mean_and_spread(gains[name], sign="+") for name in scores])
    if len(gains[scores[0]]) > 1:
        line("  by seed", [" ".join(f"{gain:+.1f}" for gain in gains[name]) for name in scores])
    if "full" in values:
        mean = {arm: {name: statistics.mean(by_score[name]) for name in scores} for arm, by_score in values.items()}
        gaps = {name: mean["full"][name] - mean["partial_ce"][name] for name in scores}
        line("gap to full supervision", [f"{gaps[name]:.1f}" for name in scores])
        line(
            "share of the gap closed",
            [f"{100 * statistics.mean(gains[name]) / gaps[name]:.0f} %" if gaps[name] > 0 else "-" for name in scores],
        )
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Return `mean ± standard deviation` of several numbers, or the only one."""
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def save_comparison(comparison: Comparison, loaders: Loaders, path: Path, split: str) -> None:
    """Draw images of `split` with their scribbles, what each arm of the first seed predicts, and the truth."""
    loader = getattr(loaders, split)
    dataset = loader.dataset
    networks = {
        ARMS[arm]: load_network(comparison.run_folder(comparison.seeds[0], arm) / "checkpoint_last.pth.tar")
        for arm in comparison.arms
    }
    rows = []
    for index in evenly_spaced(len(dataset)):
        image, scribble, truth = dataset.pictures(index)
        row = {"image": image, "scribbles": scribble_picture(image, scribble)}
        for title, (model, settings) in networks.items():
            logits = predict(model, image, settings["crop_size"])[1]
            row[title] = label_map(logits, image.height, image.width).numpy()
        rows.append({**row, "truth": truth})
    kind = "validation images" if split == "val" else "training images (only the scribbles were seen)"
    save_contact_sheet(path, rows, loaders.class_names, kind)

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
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataloaders import Loaders
from errors import InputError
from training.checkpoint import LAST, load_network
from training.evaluation import label_map, predict
from training.figures import evenly_spaced, save_contact_sheet, scribble_picture
from training.monitor import final_scores

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).resolve().parent.parent / "train_withdensecrfloss.py"
UNREGULARISED = ("--densecrfloss", "0")
ARMS = {"partial_ce": "partial CE", "regularised": "+ regularised loss", "full": "full supervision"}


class Training(NamedTuple):
    """One run of the training script."""

    root: Path
    """Its --run-root."""
    name: str
    """Of the run's folder: its --checkname."""
    title: str
    options: tuple[str, ...]

    def run_folder(self) -> Path | None:
        """Return its folder once it has ended, else None."""
        for path in self.root.glob(f"*/{self.name}/experiment_*/scores.jsonl"):
            if final_scores(path.parent):
                return path.parent
        return None

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(SCRIPT), "--run-root", str(self.root), "--checkname", self.name, *self.options]


@dataclass(frozen=True)
class Comparison:
    """Second stages that start from the same first one.

    Args:
        folder: where all runs go.
        seeds: each makes a first stage of its own, and the second stages from there.
        stage_epochs: lengths of the two stages.
        options: of all trainings.
        variants: regularised second stages, name -> further options.
        full: whether full supervision runs the two stages as well.
        stage2_lr: rate of the second stages; None: as the first.
        evaluations: of each training, about.
    """

    folder: Path
    seeds: tuple[int, ...]
    stage_epochs: tuple[int, int]
    options: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]
    full: bool
    stage2_lr: float | None = None
    evaluations: int = 10

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """The second stages: name -> options."""
        scribbles = ("--supervision", "scribble")
        arms = {"partial_ce": (*scribbles, *UNREGULARISED)}
        arms |= {name: (*scribbles, *options) for name, options in self.variants.items()}
        return arms | ({"full": ("--supervision", "full", *UNREGULARISED)} if self.full else {})

    def first_stage(self) -> list[Training]:
        """Return the trainings of the first stage."""
        labels = {"stage1": "scribble"} | ({"stage1_full": "full"} if self.full else {})
        return [
            self._training(seed, name, f"stage 1, {label} labels", 0, ("--supervision", label, *UNREGULARISED))
            for seed in self.seeds
            for name, label in labels.items()
        ]

    def second_stage(self) -> list[Training]:
        """Return the trainings of the second stage; the first has to have ended."""
        first = {(training.root, training.name): training for training in self.first_stage()}
        rate = ("--lr", str(self.stage2_lr)) if self.stage2_lr else ()
        trainings = []
        for seed in self.seeds:
            for arm, options in self.arms.items():
                start = first[self._root(seed), "stage1_full" if arm == "full" else "stage1"].run_folder()
                resume = ("--resume", str(start / LAST), "--ft", *rate)
                trainings.append(self._training(seed, arm, ARMS.get(arm, arm), 1, (*options, *resume)))
        return trainings

    def run_folder(self, seed: int, arm: str) -> Path | None:
        """Return the folder of a second stage that has ended, else None."""
        return Training(self._root(seed), arm, "", ()).run_folder()

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """Return for each arm the final scores, one entry a seed."""
        return {arm: [final_scores(self.run_folder(seed, arm)) for seed in self.seeds] for arm in self.arms}

    def _root(self, seed: int) -> Path:
        return self.folder / f"seed_{seed}"

    def _training(self, seed: int, name: str, title: str, stage: int, options: tuple[str, ...]) -> Training:
        epochs = self.stage_epochs[stage]
        interval = max(1, epochs // self.evaluations)
        settings = ("--seed", str(seed), "--epochs", str(epochs), "--eval-interval", str(interval))
        return Training(
            self._root(seed), name, f"seed {seed}, {title}: {epochs} epochs", (*self.options, *settings, *options)
        )

    def check_folder(self) -> None:
        """Make the folder; refuse one that holds another comparison."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "comparison.json"
            settings = {
                "options": list(self.options),
                "variants": {name: list(options) for name, options in self.variants.items()},
                "stage_epochs": list(self.stage_epochs),
                "stage2_lr": self.stage2_lr,
            }
            text = json.dumps(settings, indent=1) + "\n"
            if path.is_file() and path.read_text() != text:
                raise InputError(f"{path}: this folder holds a comparison with other settings; choose another --output")
            path.write_text(text)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --output") from None


def train_all(trainings: Iterable[Training], jobs: int) -> None:
    """Train what has not ended before, up to `jobs` at a time.

    Raises:
        InputError: a training failed; the others that run are awaited.
    """
    todo = [training for training in trainings if not training.run_folder()]
    at_once = max(1, min(jobs, len(todo)))
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(_train, training, at_once) for training in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train(training: Training, at_once: int) -> None:
    """Run one training in a process of its own."""
    command = training.command()
    logger.info("=== %s", training.title)
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
                    logger.info("%s: %s", training.title.split(":")[0], line.rstrip())
        status = process.returncode
    if status or not training.run_folder():
        raise InputError(f"training stopped with status {status}; the command was: {shlex.join(command)}")


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
        ARMS[arm]: load_network(comparison.run_folder(comparison.seeds[0], arm) / LAST) for arm in comparison.arms
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

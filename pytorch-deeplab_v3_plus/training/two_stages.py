"""What a regulariser is worth: the same second stage with and without it.

For each seed: stage 1 trains with partial cross-entropy alone. Stage 2 starts from its weights, twice, with the same
number of steps, rate, schedule, augmentation and seed: once with partial cross-entropy alone and once with the
regulariser. Full supervision, if asked for, runs the same two stages on the full truth. Each training is a run of
train_withdensecrfloss.py. Finished ones are skipped, and interrupted ones resume.
"""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from common.files import make_folder, write_text
from common.parallel import usable_cpus
from training.checkpoint import LAST
from training.identity import differences
from training.options import DECIDED, first_taken
from training.run_folder import final_scores, runs_in

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).resolve().parent.parent / "train_withdensecrfloss.py"
# Options of the training script that the comparison decides.
TAKEN = (*DECIDED, "--seed", "--supervision", "--eval-interval", "--no-val")
UNREGULARISED = ("--densecrfloss", "0")
BY_MACHINE = {"amp", "sync_bn"}  # settings that follow from the machine, and may change within a comparison
PARTS = ("data", "variants", "settings")  # of comparison.json, by name
LEAST_INTERVAL = 5  # epochs between two evaluations
REGULARISED = "regularised"  # the variant, where there is one without a name
ARMS = {"partial_ce": "partial CE", REGULARISED: "+ regularised loss", "full": "full supervision"}
FIRST_STAGES = {"stage1": "scribble", "stage1_full": "full"}  # name -> supervision
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # the final scores of each arm, seed by seed


class Training(NamedTuple):
    """One run of the training script, in `<root>/<data set>/<name>/`."""

    root: Path
    name: str
    title: str
    options: tuple[str, ...]


def ended_run(root: Path, name: str) -> Path | None:
    """Return the folder of the newest run `name` under `root` that has ended, else None."""
    runs = (run for parent in sorted(root.glob(f"*/{name}")) for run in runs_in(parent))
    return next((run for run in runs if final_scores(run) is not None), None)


@dataclass(frozen=True)
class Comparison:
    """Second stages that start from the same first one."""

    folder: Path  # where all runs go
    seeds: tuple[int, ...]  # each makes a first stage of its own, and the second stages from there
    stage_epochs: tuple[int, int]  # lengths of the two stages
    options: tuple[str, ...]  # of all trainings
    variants: Mapping[str, tuple[str, ...]]  # regularised second stages: name -> further options
    full: bool  # whether full supervision runs the two stages as well
    stage2_lr: float | None = None  # rate of the second stages; None: as the first
    evaluations: int = 10  # about how many during a second stage
    data: Mapping[str, Any] = field(default_factory=dict)  # what identifies the data (see training.identity)
    # What the options of each second stage mean, as a preset may change: arm -> setting -> value.
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """The second stages: name -> options."""
        scribbles = ("--supervision", "scribble")
        arms = {"partial_ce": (*scribbles, *UNREGULARISED)}
        arms |= {name: (*scribbles, *options) for name, options in self.variants.items()}
        return arms | ({"full": ("--supervision", "full", *UNREGULARISED)} if self.full else {})

    def first_stage(self) -> list[Training]:
        """Return the trainings of the first stage, which resume where they were interrupted."""
        labels = {name: label for name, label in FIRST_STAGES.items() if self.full or label != "full"}
        trainings = []
        for seed in self.seeds:
            for name, label in labels.items():
                options = ("--supervision", label, *UNREGULARISED, "--resume", "auto", "--no-val")
                trainings.append(self._training(seed, name, f"stage 1, {label} labels", 0, options))
        return trainings

    def second_stage(self) -> list[Training]:
        """Return the trainings of the second stage; the first has to have ended."""
        rate = ("--lr", str(self.stage2_lr)) if self.stage2_lr else ()
        trainings = []
        for seed in self.seeds:
            for arm, options in self.arms.items():
                start = self.run_folder(seed, "stage1_full" if arm == "full" else "stage1")
                # A variant may have its own rate.
                options = (*rate, *options, "--resume", str(start / LAST), "--ft")
                trainings.append(self._training(seed, arm, ARMS.get(arm, arm), 1, options))
        return trainings

    def run_folder(self, seed: int, name: str) -> Path | None:
        """Return the folder of a training that has ended, else None."""
        return ended_run(self.folder / f"seed_{seed}", name)

    def results(self) -> Results:
        """Return the final scores."""
        return {arm: [final_scores(self.run_folder(seed, arm)) for seed in self.seeds] for arm in self.arms}

    def _training(self, seed: int, name: str, title: str, stage: int, options: tuple[str, ...]) -> Training:
        epochs = self.stage_epochs[stage]
        interval = max(LEAST_INTERVAL, epochs // self.evaluations)
        settings = ("--seed", str(seed), "--epochs", str(epochs), "--eval-interval", str(interval))
        title = f"seed {seed}, {title}: {epochs} epochs"
        return Training(self.folder / f"seed_{seed}", name, title, (*self.options, *settings, *options))

    def train(self, jobs: int) -> None:
        """Train what has not ended before, up to `jobs` trainings at a time."""
        self._take_folder()
        train_all(self.first_stage(), jobs)
        train_all(self.second_stage(), jobs)

    def _take_folder(self) -> None:
        """Make the folder; refuse one that holds another comparison."""
        settings = {"options": self.options, "variants": dict(self.variants), "stage_epochs": self.stage_epochs}
        settings |= {"stage2_lr": self.stage2_lr, "data": dict(self.data), "settings": dict(self.settings)}
        settings = json.loads(json.dumps(settings))  # tuples become lists
        path, remedy = self.folder / "comparison.json", f"choose another --output, or delete the folder {self.folder}"
        make_folder(self.folder, "choose another --output")
        if not path.exists() and any(self.folder.glob("seed_*")):
            raise InputError(f"{path}: is missing, and says of which data and settings the runs there are; {remedy}")
        if path.exists():
            if (before := _comparison_in(path)) is None:
                raise InputError(f"{path}: is damaged; {remedy}")
            if "data" not in before:
                logger.warning("%s: an earlier version did not keep what its data were: they are not compared", path)
            if other := _what_differs(before, settings):
                what = f"this folder holds a comparison of another kind ({'; '.join(other)})"
                raise InputError(f"{path}: {what}; {remedy}")
            for part in PARTS:  # more variants may join, and others be left out
                settings[part] = before.get(part, {}) | settings[part]
        write_text(path, json.dumps(settings, indent=1) + "\n")


def _comparison_in(path: Path) -> dict[str, Any] | None:
    """Return what a comparison.json holds, None where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(part, {}), dict) for part in PARTS):
        return None
    return content if all(isinstance(one, dict) for one in content.get("settings", {}).values()) else None


def _what_differs(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in what two comparisons differ, as far as both know it.

    Of options count their values, however they are spelled; their words only where an earlier version kept no more.
    """
    told = differences({"data": before.get("data", {})}, now)
    variants, settings = (before.get(part, {}) for part in ("variants", "settings"))
    for name in ("stage_epochs", "stage2_lr", *(() if settings else ("options",))):
        if before.get(name) != now[name]:
            told.append(f"{name} were {before.get(name)} and are {now[name]}")
    for name, words in now["variants"].items():
        if name not in settings and variants.get(name, words) != words:
            told.append(f"{name} was '{shlex.join(variants[name])}' and is '{shlex.join(words)}'")
    for name, values in now["settings"].items():
        meant = {"settings": settings.get(name, {})}
        changes = differences(meant, {"settings": values}, values.keys() - BY_MACHINE)
        told += [change for change in changes if change not in told]
    return told


def check_not_taken(words: Sequence[str]) -> None:
    """Raise InputError for an option of the training script that the comparison decides."""
    if name := first_taken(words, TAKEN):
        raise InputError(f"{name} is set by the stages themselves: see the options of this script (--help)")


def train_all(trainings: Iterable[Training], jobs: int) -> None:
    """Train what has not ended before, up to `jobs` at a time. SIGTERM stops them all, each at a checkpoint.

    Raises InputError where a training failed, after waiting for the others that run; no other begins.
    """
    todo = [training for training in trainings if not ended_run(training.root, training.name)]
    at_once = max(1, min(jobs, len(todo)))
    running: set[subprocess.Popen] = set()
    failed = threading.Event()

    def train(training: Training) -> None:
        if failed.is_set():  # asked here, as a worker takes the next training before this thread hears of a failure
            return
        try:
            _train(training, at_once, running)
        except BaseException:
            failed.set()
            raise

    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(train, training) for training in todo]
        try:
            wait(futures)
            for future in futures:
                future.result()
        except BaseException:  # a signal, after which they would run on alone; of a failure's none runs any more
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)


def _train(training: Training, at_once: int, running: set[subprocess.Popen]) -> None:
    """Run one training in a process of its own, which is in `running` for that time."""
    place = ("--run-root", str(training.root), "--checkname", training.name)
    command = [sys.executable, str(SCRIPT), *place, *training.options]
    short_title = training.title.split(":")[0]
    logger.info("=== %s", training.title)
    how: dict[str, Any] = {}
    if at_once > 1:
        threads = str(max(1, usable_cpus() // at_once))
        how = {"env": {"OMP_NUM_THREADS": threads, **os.environ}, "text": True}
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(command, **how) as process:
        running.add(process)
        for line in process.stdout or ():  # all of it is in the run's log
            last.append(line)
            if line.startswith(("epoch", "WARNING", "error")):
                logger.info("%s: %s", short_title, line.rstrip())
    running.remove(process)
    if process.returncode or not ended_run(training.root, training.name):
        if last:
            logger.info("%s ended with\n%s", short_title, "".join(last))
        ended = f"stopped with status {process.returncode}"
        if process.returncode < 0:
            ended = f"was killed by signal {-process.returncode}; where memory is short, lower --jobs or --batch-size"
        raise InputError(f"training {ended}; the command was: {shlex.join(command)}")

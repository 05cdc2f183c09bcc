"""What a run is: a fingerprint of its data and settings, kept in its folder and checkpoints, and comparing two.

A fingerprint is a plain dict, fit for JSON and checkpoints:

    data      the class names, and digests of the lists, images and label maps for training and validation, and of files
              that the settings name
    settings  the options that decide what is learned, by name
    start     the file whose weights --ft started from, and their digest, or None

Where one does not know a fact, as with --no-val or in a file of an earlier version, the two do not differ in it.
"""

import contextlib
import inspect
import json
import logging
import os
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from dataloaders import Loaders
from dataloaders.datasets.pascal import Survey
from dataloaders.images import file_digest
from losses.registry import find_regulariser
from modeling.checkpoint import load_checkpoint
from training.checkpoint import BEST, BEST_OF_RUNS, newest_first
from training.options import TrainOptions
from training.run_folder import IDENTITY, best_of_other_runs

logger = logging.getLogger(__name__)

Identity = dict[str, Any]

# Options that change nothing of what is learned, or follow from the data, whose content is compared instead.
HOUSEKEEPING = {
    *("dataset", "data_root", "classes", "workers", "test_batch_size", "channels_last", "compile", "no_cuda"),
    *("gpu_ids", "checkname", "run_root", "resume", "ft", "start_epoch", "eval_interval", "save_interval", "keep"),
    *("save_steps", "log_interval", "benchmark", "no_val"),
}
# Options that may change within a run, which is said: some follow from the devices, and a run may be made longer.
CHANGEABLE = {"epochs", "steps", "lr", "lr_step", "batch_size", "accumulate", "amp", "sync_bn"}
# Options that earlier versions did not have, and what they did.
EARLIER = {"ema": None}
# What two scores must have in common to be compared.
SCORE_FACTS = {"classes", "validation list", "validation images", "validation labels", "crop_size"}


def fingerprint(options: TrainOptions, data: Mapping[str, Any], regularisers: Mapping[str, Any] = {}) -> Identity:
    """Return the fingerprint of a training from its resolved options, its data_facts, and further regularisers."""
    own = {"regularisers from Python": {name: repr(module) for name, module in regularisers.items()}}
    return {"data": {**data, **file_facts(options), **own}, "settings": _deciding(options.settings()), "start": None}


def file_facts(options: TrainOptions) -> dict[str, str]:
    """Return digests of the files that settings name: first weights, those of regularisers, and their code."""
    values = [options.pretrained, *(value for one in options.regularisers for value in one.settings.values())]
    paths = [Path(value) for value in values if isinstance(value, str)]
    facts = {f"content of {path}": file_digest(path).hex() for path in paths if path.is_file()}
    for one in options.regularisers:
        with contextlib.suppress(OSError, TypeError):  # written down in a notebook
            facts[f"code of {one.name}"] = file_digest(Path(inspect.getfile(find_regulariser(one.name)))).hex()
    return facts


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    ignored = HOUSEKEEPING if settings.get("lr_scheduler") == "step" else HOUSEKEEPING | {"lr_step"}
    kept = {name: value for name, value in settings.items() if name not in ignored}
    return json.loads(json.dumps(kept, default=str))  # tuples become lists


def data_facts(loaders: Loaders, surveys: Mapping[str, Survey]) -> dict[str, Any]:
    """Return what identifies the data: class names and digests of the splits (train, val) that were surveyed."""
    facts: dict[str, Any] = {"classes": list(loaders.class_names)}
    for split, title in (("train", "training"), ("val", "validation")):
        if split in surveys:
            facts |= {f"{title} {name}": digest for name, digest in surveys[split].digests.items()}
    return facts


def is_fingerprint(value: Any) -> bool:
    """Return whether a value, as it was found in a file, has the form of a fingerprint."""
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in ("data", "settings")):
        return False
    classes, start = value["data"].get("classes", []), value.get("start") or {"file": "", "weights": ""}
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return named and isinstance(start, dict) and start.keys() >= {"file", "weights"}


def identity_of(checkpoint: Mapping[str, Any]) -> Identity:
    """Return the fingerprint in a checkpoint; of those of earlier versions, what their settings say."""
    if is_fingerprint(checkpoint.get("identity")):
        return checkpoint["identity"]
    model, settings = checkpoint.get("model", {}), checkpoint.get("options", {})
    shape = {name: value for name, value in model.items() if name in ("backbone", "crop_size")}
    data = {"classes": list(model["class_names"])} if "class_names" in model else {}
    return {"data": data, "settings": _deciding({**shape, **settings})}


def identity_in(folder: Path) -> Identity:
    """Return the fingerprint of a run's folder; of those of earlier versions, what a checkpoint in it says."""
    with contextlib.suppress(OSError, ValueError):
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        if is_fingerprint(identity):
            return identity
    for path in (*newest_first(folder), folder / BEST):
        with contextlib.suppress(InputError):
            return identity_of(load_checkpoint(path))
    return {}


def merged(before: Identity, now: Identity) -> Identity:
    """Return the fingerprint of a run that is continued: what is known now, and what only the run knew."""
    return {**now, "data": {**before.get("data", {}), **now["data"]}, "start": before.get("start")}


def best_of_runs(folder: Path, identity: Identity, score: float) -> Path | None:
    """Return where the network of the run `folder` goes if its score is the best of all runs beside it, else None.

    Only runs whose scores are comparable count. What is there of another training, or scored higher, is set aside.
    """
    if score <= best_of_other_runs(folder, lambda run: not differences(identity_in(run), identity, SCORE_FACTS)):
        return None
    path = folder.parent / BEST_OF_RUNS
    if path.exists():
        try:
            there = load_checkpoint(path)
            other = "; ".join(differences(identity_of(there), identity, SCORE_FACTS))
            if not other and there.get("best_pred", -1) > score:
                other = f"it scored {100 * there['best_pred']:.2f}, and its run is gone"
        except InputError as error:
            other = str(error)
        if other:
            aside = path.with_name(f"model_best_before_{folder.name}.pth.tar")
            logger.warning("%s cannot be compared with this run's best (%s): it becomes %s", path, other, aside.name)
            os.replace(path, aside)
    return path


def differences(before: Identity, now: Identity, facts: Collection[str] | None = None) -> list[str]:
    """Say in which `facts` (None: all that are not CHANGEABLE) two fingerprints differ, as far as both know them."""
    told = []
    for part in ("data", "settings"):
        for name, value in now.get(part, {}).items():
            unknown = EARLIER.get(name, value) if before.get("settings") else value
            earlier = before.get(part, {}).get(name, unknown)
            if earlier != value and (name not in CHANGEABLE if facts is None else name in facts):
                told.append(_difference(part, name, earlier, value))
    if facts is None:  # a later version's
        unknown = before.get("settings", {}).keys() - now.get("settings", {}).keys() - HOUSEKEEPING - CHANGEABLE
        values = ((name.replace("_", "-"), before["settings"][name]) for name in sorted(unknown))
        told += [f"--{name} was {value} and is not known here" for name, value in values]
    return told


def _difference(part: str, name: str, before: Any, now: Any) -> str:
    if part == "settings":
        return f"--{name.replace('_', '-')} was {before} and is {now}"
    if name == "classes":
        names = (textwrap.shorten(", ".join(classes), 80, placeholder=" ...") for classes in (before, now))
        return f"the classes were {len(before)} ({next(names)}) and are {len(now)} ({next(names)})"
    return f"other {name}"

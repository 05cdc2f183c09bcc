"""A round of training on what is drawn: partial CE, then the DenseCRF loss, then masks of all images.

    folder = new_round(data, settings)      snapshot of the labels
    run_round(folder)                       or, in a process that outlives its parent, `python -m page.rounds FOLDER`

DATA/rounds/N/ holds

    round.json       settings, start, and what became of the round
    scribbles/       ID.png, the scribble maps at that moment
    drawn/           the data set that it trains on: the images with these scribbles, large ones scaled down
    runs/            the two trainings' own folders (docs/training.md)
    images.jsonl     a line for each prediction, two of each image: uncertainty, its peak, classes, changes
    predictions/     ID.png, the mask
    model.pth.tar    the network
    log.txt          what the process prints

Called again, run_round resumes where it was interrupted.
"""

import json
import logging
import math
import os
import shlex
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.arguments import check_values, number, option, switch
from common.devices import choose_device
from common.errors import InputError, exit_status
from common.files import link_or_copy, make_folder, new_folder, replace_file, write_text
from common.logs import configure_logging
from dataloaders.images import (
    check_scaled,
    check_sizes,
    image_size,
    listing,
    read_image,
    read_label,
    readable_label,
    write_label,
)
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    SCRIBBLES,
    TRUTH,
    has_lists,
    list_files,
    read_class_names,
    read_list,
    write_lists,
)
from dataloaders.transforms import resize_short_side, to_tensor
from evaluation.scores import ConfusionMatrix
from modeling.checkpoint import load_checkpoint, load_network
from page.uncertainty import most_uncertain_place, uncertainty_map
from prediction.predict import (
    keep_scribbles,
    labels_and_confidence,
    labels_on_scribbles,
    predict,
    probabilities,
    short_side,
)
from training import build_trainer
from training.checkpoint import LAST
from training.faults import Stopped, StopRequest, one_line_errors
from training.options import (
    ADAMW_RATE,
    DECIDED,
    LARGEST,
    POSITIVE,
    PRESETS,
    TrainOptions,
    first_taken,
    parse_options,
    preset_for,
)
from training.resume import Ended
from training.run_folder import runs_in

logger = logging.getLogger(__name__)

ROUNDS, RECORD, MODEL, LOG = "rounds", "round.json", "model.pth.tar", "log.txt"
TRAINED_ON, SNAPSHOT, RUNS = "scribbles", "drawn", "runs"
PREDICTIONS, PREDICTED = "predictions", "images.jsonl"
STAGES = ("partial_ce", "densecrf")
PHASES = ("partial CE", "+ DenseCRF loss")
SAVE_STEPS = 50  # steps that a killed round loses at most
LARGER = 2  # by this factor at most the photographs in a snapshot are larger than the network sees them

# Options of the training script that no setting of the page changes: they lead out of the round's folder.
TAKEN = (*DECIDED, "--dataset", "--data-root", "--classes")
PRESET = "80"
USUAL = PRESETS[PRESET]
LENGTH = {"type": number(int, 1, high=100_000), "metavar": "STEPS"}


@dataclass(frozen=True)
class RoundSettings:
    """How a round trains: as --preset 80 does, with smaller steps and a lower DenseCRF weight (docs/annotate.md)."""

    steps: int = option(100, "steps on the strokes alone (partial cross-entropy)", **LENGTH)
    crf_steps: int = option(200, "steps that also refine borders (with the DenseCRF loss)", **LENGTH)
    preset: str = option(PRESET, "where all settings come from that are not here", choices=tuple(LARGEST))
    crop_size: int = option(
        USUAL["crop_size"], "short side, in pixels, at which the network sees the images", type=number(int, 33)
    )
    batch_size: int = option(4, "images in a step", type=number(int, 2))
    lr: float = option(ADAMW_RATE, "learning rate", type=number(float, 0, above=True, high=1))
    densecrfloss: float = option(2.0, "weight of refining borders (DenseCRF loss)", type=number(float, 0))
    sigma_rgb: float = option(USUAL["sigma_rgb"], "colours that count as alike, in grey levels", type=POSITIVE)
    sigma_xy: float = option(USUAL["sigma_xy"], "distance over which they count, in pixels", type=POSITIVE)
    only_drawn: bool = switch("an image that is drawn on gets only the classes drawn there", default=True)
    seed: int = option(1, "random seed", type=number(int, 0))
    more: str = option("", "further options of train_withdensecrfloss.py")

    def __post_init__(self) -> None:
        check_values(self)
        try:
            words = shlex.split(self.more)
        except ValueError as error:
            raise InputError(f"further options: {error} in {self.more!r}") from None
        if name := first_taken(words, TAKEN):
            raise InputError(f"further options: {name} is set by the round itself")

    @classmethod
    def fitting(cls, sizes: list[tuple[int, int]]) -> "RoundSettings":
        """Return the settings for images of these sizes (width, height)."""
        name = preset_for(statistics.median(map(min, sizes))) if sizes else cls.preset
        names = {field.name for field in fields(cls)} - {"densecrfloss", "batch_size"}
        weight = min(cls.densecrfloss, PRESETS[name]["densecrfloss"])
        preset = {key: value for key, value in PRESETS[name].items() if key in names}
        return cls(preset=name, densecrfloss=weight, **preset)

    def words(self, folder: Path, stage: int, start: Path | None, run_root: Path) -> list[str]:
        """Return the options of train_withdensecrfloss.py for a stage of the round in `folder`.

        It starts from the weights in `start`, and its own folder is in `run_root`.
        """
        images, steps = len(list_files(folder / SNAPSHOT, SCRIBBLES)), (self.steps, self.crf_steps)[stage]
        words = {
            "preset": self.preset,
            "data-root": folder / SNAPSHOT,
            "run-root": run_root,
            "checkname": STAGES[stage],
            "steps": steps,
            "repeat": math.ceil(steps * self.batch_size / images),  # one epoch
            "save-steps": SAVE_STEPS,
            "log-interval": max(2, steps // 100),
            "workers": 0,
            "crop-size": self.crop_size,
            "base-size": self.crop_size,
            "batch-size": self.batch_size,
            "lr": self.lr,
            "seed": self.seed,
            "densecrfloss": self.densecrfloss if stage else 0.0,
            "sigma-rgb": self.sigma_rgb,
            "sigma-xy": self.sigma_xy,
            "resume": start or "auto",
        }
        pairs = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        return [*pairs, "--no-val", *(["--ft"] if start else []), *shlex.split(self.more)]


def rounds_in(data: Path) -> list[Path]:
    """Return the folders of a data set's rounds, the first one first."""
    found = [path for path in (data / ROUNDS).glob("*") if path.name.isdecimal() and (path / RECORD).is_file()]
    return sorted(found, key=lambda path: int(path.name))


def read_record(folder: Path) -> dict[str, Any]:
    """Return what is known of a round."""
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def start_of(folder: Path) -> Path | None:
    """Return the network that a round began with, None where it began from the bundled weights."""
    start = read_record(folder)["start"]
    return folder.parent.parent / start if start else None


def add_to_record(folder: Path, **facts: Any) -> None:
    """Add facts to the record of a round, or replace them."""
    write_text(folder / RECORD, json.dumps(read_record(folder) | facts, indent=1) + "\n")


def training_images(data: Path, drawn_in_page: set[str]) -> list[str]:
    """Return the images that a round trains on: all with scribbles.

    Of the list for validation, where there is one, only those that were drawn on in the page. Raises InputError where
    less than two classes are drawn.
    """
    images, scribbles = list_files(data, IMAGES), list_files(data, SCRIBBLES)
    held_out = set(read_list(data, "val", images)) - drawn_in_page if has_lists(data) else set()
    ids = sorted((scribbles.keys() & images.keys()) - held_out)
    names, values = read_class_names(data / CLASS_FILE), set()
    for image_id in ids:
        image, label = images[image_id], read_label(scribbles[image_id], len(names))
        check_sizes(image, image_size(image), scribbles[image_id], label)
        values |= set(np.unique(label).tolist())
    drawn = [name for value, name in enumerate(names) if value in values]
    if len(drawn) < 2:
        found = f"only those of '{drawn[0]}'" if drawn else "none"
        raise InputError(
            f"expected strokes of at least two of the classes {', '.join(names)}, found {found}: draw more"
        )
    return ids


def new_round(
    data: Path,
    settings: RoundSettings,
    start: Path | None = None,
    *,
    drawn_in_page: set[str] = frozenset(),
    **facts: Any,
) -> Path:
    """Make the folder of a round with a snapshot of what is drawn; return it.

    `start` is the network of another round, to continue from, None for the bundled weights; `facts` are kept in its
    record. Raises InputError where too little is drawn or a file cannot be read.
    """
    ids = training_images(data, drawn_in_page)
    last = max((int(path.name) for path in (data / ROUNDS).glob("*") if path.name.isdecimal()), default=0)
    folder = (data / ROUNDS / str(last + 1)).resolve()
    files = {kind: list_files(data, kind) for kind in (IMAGES, SCRIBBLES)}
    record = {"settings": asdict(settings), "phase": "starting", "images": len(ids), **facts}
    # Relative to the data set, which may be moved.
    record["start"] = start.resolve().relative_to(data.resolve()).as_posix() if start else None
    with new_folder(folder) as made:
        for name in (f"{SNAPSHOT}/{IMAGES}", f"{SNAPSHOT}/{SCRIBBLES}", TRAINED_ON, PREDICTIONS):
            make_folder(made / name)
        for image_id in ids:
            image, scribbles = files[IMAGES][image_id], files[SCRIBBLES][image_id]
            shutil.copyfile(scribbles, made / TRAINED_ON / f"{image_id}.png")  # a link would change with the scribbles
            snapshot(image, scribbles, made / SNAPSHOT, LARGER * settings.crop_size)
        shutil.copyfile(data / CLASS_FILE, made / SNAPSHOT / CLASS_FILE)
        write_lists(made / SNAPSHOT, ids, ids[:1])
        write_text(made / RECORD, json.dumps(record, indent=1) + "\n")
    return folder


def snapshot(image_file: Path, label_file: Path, folder: Path, short_side: int) -> None:
    """Put an image with its scribbles into a data set, both scaled down where its short side is longer."""
    image = read_image(image_file)  # one that is cut off is seen before the training
    if min(image.size) <= short_side:
        link_or_copy(image_file, folder / IMAGES / image_file.name)
        shutil.copyfile(label_file, folder / SCRIBBLES / label_file.name)
        return
    image = resize_short_side(image, short_side)
    image.save(folder / IMAGES / f"{label_file.stem}.png")
    write_label(folder / SCRIBBLES / label_file.name, scaled_strokes(read_label(label_file, PADDING), image.size))


def scaled_strokes(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a scribble map, uint8 (H, W), down to `size` (width, height) so that no stroke is too thin for it.

    A pixel gets the class that covers most of its place, be it little: the nearest pixel would step over thin strokes.
    """
    scaled, largest = np.full(size[::-1], UNLABELLED, np.uint8), np.zeros(size[::-1], np.float32)
    for value in np.unique(label[label < PADDING]):
        share = np.asarray(Image.fromarray((label == value).astype(np.float32)).resize(size, Image.Resampling.BOX))
        scaled[share > largest] = value
        largest = np.maximum(share, largest)
    return scaled


def run_round(folder: Path) -> None:
    """Train and predict as a round's record says; SIGTERM ends the training early, and its network predicts.

    A round that has finished stays as it is. Raises InputError as the training and the prediction do, and where the
    signal comes before the first step.
    """
    record = read_record(folder)
    if record["phase"] == "finished":
        return
    settings, begun = RoundSettings(**record["settings"]), time.time() - record.get("seconds", 0)
    start, done, scores = start_of(folder), record.get("stage", 0), {}
    with StopRequest() as asked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, StopRequest.SIGNALS)  # which page.process has blocked until here
        for stage, phase in enumerate(PHASES):
            if stage >= done:
                add_to_record(folder, stage=stage, phase=phase)
            options = parse_options(settings.words(folder, stage, start, folder / RUNS))
            trained, stopped = train(options, asked)
            if not trained.exists():
                break
            start = trained
            if stage >= done:
                replace_file(folder / MODEL, lambda temporary, start=start: save_weights(start, temporary))
                add_to_record(folder, phase="predicting", seconds=time.time() - begun)
                scores = predict_all(folder, settings.only_drawn, choose_device(options))
            if stopped := stopped or bool(asked):
                break
    if not (folder / MODEL).exists():
        raise InputError("stopped before the first step, so that there are no masks: resume the round, or train anew")
    add_to_record(folder, phase="finished", stopped=stopped, seconds=time.time() - begun, **scores)
    for checkpoint in (folder / RUNS).rglob("*.pth.tar"):
        checkpoint.unlink()


def train(options: TrainOptions, asked: StopRequest) -> tuple[Path, bool]:
    """Train, resume, or see that it is done; return the checkpoint, and whether a signal has ended it.

    There is no checkpoint where the signal, which `asked` keeps, came before the first step.
    """
    parent = Path(options.run_root) / Path(options.data.data_root).name / options.checkname
    stopped = False
    with one_line_errors(options):
        try:
            trainer = build_trainer(options)
            if asked:
                trainer.close()
                raise Stopped
            trainer.fit()
        except Stopped:
            stopped = True
        except Ended:
            pass
    return runs_in(parent)[0] / LAST, stopped


def save_weights(checkpoint: Path, path: Path) -> None:
    """Write a checkpoint without what only its own training needs."""
    content = load_checkpoint(checkpoint)
    torch.save({name: content[name] for name in ("epoch", "state_dict", "model", "identity")}, path)


def predict_all(folder: Path, only_drawn: bool, device: torch.device) -> dict[str, float | None]:
    """Predict every image with the network of a round, those that it was trained on first.

    Returns the mIoU of these and of the others, at the size of the images, None where there is no truth; and the share
    of the others' pixels that `changed` their class against the round whose network the training began with.
    """
    data, start = folder.parent.parent, start_of(folder)
    network, settings = load_network(folder / MODEL)
    network.to(device)
    size, num_classes = short_side(settings), settings["num_classes"]
    images, drawn, truth = list_files(data, IMAGES), listing(folder / TRAINED_ON, (".png",)), list_files(data, TRUTH)
    tallies = {name: ConfusionMatrix(num_classes) for name in ("miou", "miou_others")}
    before = listing(start.parent / PREDICTIONS, (".png",)) if start else {}
    changed = compared = 0
    for image_id in sorted(images, key=lambda image_id: (image_id not in drawn, image_id)):
        begun = time.monotonic()
        try:
            image = read_image(images[image_id])
            check_scaled(image.size, size, images[image_id])
            scribbles = read_label(drawn[image_id], num_classes) if image_id in drawn else None
            mask, uncertainty, place = predict_image(network, image, size, scribbles, only_drawn)
        except InputError as error:
            logger.warning("%s", error)
            continue
        replace_file(folder / PREDICTIONS / f"{image_id}.png", lambda path, mask=mask: write_label(path, mask))
        line = {"id": image_id, "uncertainty": round(uncertainty, 4), "place": place}
        line["classes"] = np.unique(mask).tolist()
        earlier = None if image_id in drawn else before.get(image_id)
        old = readable_label(images[image_id], image.size, earlier, PADDING)
        if old is not None:
            other = np.count_nonzero(old != mask)
            changed, compared = changed + other, compared + mask.size
            line["changed"] = round(other / mask.size, 4)
        line["seconds"] = round(time.monotonic() - begun, 3)
        with open(folder / PREDICTED, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        true = readable_label(images[image_id], image.size, truth.get(image_id), num_classes)
        if true is not None:
            tally = tallies["miou" if image_id in drawn else "miou_others"]
            tally.update(torch.from_numpy(true), torch.from_numpy(mask))
    scores = {name: tally.scores()["miou"] if tally.counts.any() else None for name, tally in tallies.items()}
    return scores | {"changed": changed / compared if compared else None}


@torch.inference_mode()
def predict_image(
    network: nn.Module, image: Image.Image, size: int, scribbles: np.ndarray | None, only_drawn: bool
) -> tuple[np.ndarray, float, list[int]]:
    """Return the mask of an RGB image as inference.py makes it, uint8 (H, W), and the image's uncertainty.

    The third is its pixel (x, y) around which it is highest. The network sees the image with its short side scaled to
    `size`. With `only_drawn` an image with `scribbles`, uint8 (H, W), keeps these, and has only their classes.
    """
    pixels = to_tensor(resize_short_side(image, size))
    (logits,) = predict(network, pixels[None])
    seen, full = tuple(logits.shape[2:]), (image.height, image.width)
    soft, drawn = probabilities([logits], seen)[0], None
    if scribbles is not None:
        small = scaled_strokes(scribbles, seen[::-1])
        drawn = torch.from_numpy(small < PADDING).to(soft.device)
    if scribbles is not None and only_drawn:
        soft = keep_scribbles(soft, small)
        mask = labels_on_scribbles(logits[0], full, scribbles).numpy()
    else:
        mask = labels_and_confidence(logits[0], full)[0].numpy()
    uncertainty = uncertainty_map(soft)
    place = most_uncertain_place(uncertainty, drawn)
    at = [int((place[axis] + 0.5) * image.size[axis] / seen[1 - axis]) for axis in (0, 1)]
    return mask, uncertainty.mean().item(), at


def main(argv: Sequence[str] | None = None) -> int:
    """Run the round in the folder that is named; return the exit status."""
    (folder,) = sys.argv[1:] if argv is None else argv
    configure_logging()
    os.nice(5)  # the page stays quick
    run_round(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""How much has to be drawn? mIoU against strokes and images, with and without the DenseCRF loss.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/annotation.py

Takes a data set with full truth (by default it draws the project's own), simulates scribbles on it that are shorter or
fewer, or keeps fewer images, and compares on each partial CE with the DenseCRF loss in two stages, as
train_two_stages.py does, for about the same number of steps. Further options go to train_withdensecrfloss.py. Writes
annotation.md (table) and annotation.png to --output; repeated, it keeps the trainings that have ended.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.arguments import ArgumentParser, integers, number
from common.errors import exit_status
from common.files import write_text
from common.logs import configure_logging
from dataloaders import DataOptions, make_data_loader
from dataloaders.images import read_label, value_counts
from dataloaders.labels import PADDING
from dataloaders.layout import CLASS_FILE, IMAGES, SCRIBBLES, list_files, read_class_names, read_list, write_lists
from dataloaders.synthetic import SEED, TRAIN, VAL, draw_dataset
from dataloaders.synthetic.scribbles import StrokeOptions
from figures.plotting import new_figure, save_figure
from preparation.simulation import simulate_folder
from training.identity import data_facts
from training.options import parse_options
from training.two_stages import Comparison, Results, check_not_taken
from training.two_stages_report import gains, markdown_table, mean_and_spread, percents

from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

RECIPE = ("--preset", "80", "--densecrfloss", "5")  # that of `make train-small`
STEPS = (190, 190)  # about as there
SHOWN = {"regularised": ("+ DenseCRF loss", "tab:blue"), "partial_ce": ("partial CE", "tab:orange")}
STROKES = 1  # seed of the simulated scribbles: the shorter ones are parts of the longer


@dataclass(frozen=True)
class Annotation:
    """What is annotated: how the strokes are drawn, on how many training images (None: all)."""

    title: str
    strokes: StrokeOptions = StrokeOptions()
    images: int | None = None


ANNOTATIONS = {
    "all": Annotation("every stroke"),
    "fewer": Annotation("without a fifth of the strokes", StrokeOptions(drop=0.2)),
    "half": Annotation("half of each stroke", StrokeOptions(length=0.5)),
    "quarter": Annotation("a quarter of each stroke", StrokeOptions(length=0.25)),
    "images_200": Annotation("200 images", images=200),
    "images_50": Annotation("50 images", images=50),
}


@dataclass(frozen=True)
class Outcome:
    """What came out: how much was annotated, and the scores of both networks."""

    labelled: float  # share of the pixels of the training images that are labelled, in %
    images: int  # for training
    results: Results


def listed(folder: Path, name: str) -> list[str]:
    """Return the ids of the list `name` of a data set."""
    return read_list(folder, name, list_files(folder, IMAGES))


def annotate(source: Path, target: Path, annotation: Annotation) -> None:
    """Make a copy of a data set that is annotated like that, unless it exists."""
    if not target.is_dir():
        num_classes = len(read_class_names(source / CLASS_FILE))
        simulate_folder(source, target, num_classes, STROKES, annotation.strokes)
    write_lists(target, listed(source, "train")[: annotation.images], listed(source, "val"))


def labelled_share(folder: Path, num_classes: int) -> float:
    """Return the share of the training images' pixels that have a label, in percent."""
    files = list_files(folder, SCRIBBLES)
    counts = sum(value_counts(read_label(files[image_id], num_classes)) for image_id in listed(folder, "train"))
    return 100 * counts[:PADDING].sum() / counts.sum()


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Return a Markdown table: what was annotated, val mIoU without and with the loss, and the gain."""
    rows = []
    for name, outcome in outcomes.items():
        scores = [mean_and_spread(percents(outcome.results, arm, "val")) for arm in ("partial_ce", "regularised")]
        gain = mean_and_spread(gains(outcome.results, "regularised", "val"), sign="+")
        rows.append((ANNOTATIONS[name].title, str(outcome.images), f"{outcome.labelled:.2f} %", *scores, gain))
    return markdown_table(("", "images", "labelled", "partial CE", "+ DenseCRF loss", "gain"), rows)


def draw(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Draw val mIoU against the labelled share (all images) and against the number of images (whole strokes)."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    usual = StrokeOptions()
    by_strokes = [outcomes[name] for name, one in ANNOTATIONS.items() if one.images is None]
    by_images = [outcomes[name] for name, one in ANNOTATIONS.items() if one.strokes == usual]
    curves(left, sorted((outcome.labelled, outcome.results) for outcome in by_strokes))
    curves(right, sorted((outcome.images, outcome.results) for outcome in by_images))
    left.set_xlabel("labelled pixels, %", fontsize=9)
    right.set_xlabel("training images", fontsize=9)
    left.set_ylabel("val mIoU, %", fontsize=9)
    left.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, path)


def curves(axes: Axes, points: Sequence[tuple[float, Results]]) -> None:
    """Draw one curve for each kind of training: the mean over seeds, and a dot for each seed."""
    at = [x for x, _ in points]
    for arm, (title, colour) in SHOWN.items():
        values = [percents(results, arm, "val") for _, results in points]
        axes.plot(at, [sum(seeds) / len(seeds) for seeds in values], "-", color=colour, label=title)
        for x, seeds in zip(at, values, strict=True):
            axes.plot([x] * len(seeds), seeds, "o", color=colour, alpha=0.5, markersize=5, markeredgewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{round(x, 2):g}" for x in at], fontsize=9)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit status."""
    configure_logging()
    about = __doc__.split("\n")[0]
    parser = ArgumentParser(description=about, allow_abbrev=False)
    parser.add_argument(
        "--data-root", type=Path, metavar="FOLDER", help="data set with full truth and lists of images (default: drawn)"
    )
    parser.add_argument("--seeds", type=integers, default="1,2,3", metavar="A,B,...", help="of the trainings")
    parser.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--output", type=Path, default=Path("run/annotation"), metavar="FOLDER", help="for everything")
    args, more = parser.parse_known_args(argv)
    check_not_taken(more)
    batch_size = parse_options([*RECIPE, *more], allow_abbrev=False).data.batch_size
    source = args.data_root or args.output / "drawn"
    if not args.data_root and not source.is_dir():
        draw_dataset(source, SEED, TRAIN, VAL)
    options = DataOptions(data_root=str(source), supervision="full", workers=0, batch_size=1, test_batch_size=1)
    loaders = make_data_loader(options, splits=("train", "val"))
    facts = data_facts(loaders, {"train": loaders.train.dataset.survey(), "val": loaders.val.dataset.survey()})
    outcomes = {}
    for name, annotation in ANNOTATIONS.items():
        folder = args.output / "data" / name
        annotate(source, folder, annotation)
        images = len(listed(folder, "train"))
        steps_per_epoch = math.ceil(images / batch_size)
        comparison = Comparison(
            folder=args.output / name,
            seeds=args.seeds,
            stage_epochs=tuple(max(1, round(steps / steps_per_epoch)) for steps in STEPS),
            options=(*RECIPE, "--data-root", str(folder), "--workers", "0", *more),
            variants={"regularised": ()},
            full=False,
            stage2_lr=2e-4,
            evaluations=1,
            data=facts,  # of the whole truth: what was annotated before is kept
        )
        logger.info("annotated: %s", annotation.title)
        comparison.train(args.jobs)
        outcomes[name] = Outcome(labelled_share(folder, loaders.num_classes), images, comparison.results())
        text = table(outcomes) + "\n"
        write_text(args.output / "annotation.md", text)
    draw(args.output / "annotation.png", outcomes)
    logger.info("\n%s\nresults: %s", text, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

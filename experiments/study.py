"""What is the DenseCRF loss worth, and with which settings? Studies over several seeds, judged by fill-in and val mIoU.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/study.py --study 40 --data-root FOLDER --classes FILE --jobs 2

For each seed it trains stage 1 with partial cross-entropy alone and, from those weights, second stages of equal length:
one without the DenseCRF loss and one for each of its settings. Both stages also run with full supervision, the upper
bound. Fill-in is the mIoU on the training images against their full truth, which training on scribbles never sees.
FOLDER is any data set with full truth; the numbers of epochs suit about sixty training images of 40 pixels and thirty
of 128. The studies `drawn` (for a set of dataloaders.synthetic) and `photographs` start from ImageNet weights and suit
hundreds; `losses` and `losses-photographs` compare the other regularised losses on the same data. Writes study.md
(table), study.png and study.json to --output; repeated, it keeps the trainings that have ended. docs/small_images.md,
docs/results.md and docs/losses.md show what it found.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.arguments import ArgumentParser, integers, number
from common.errors import InputError, exit_status
from common.files import write_text
from common.logs import configure_logging
from dataloaders import DataOptions, Loaders, make_data_loader
from evaluation import Protocol, evaluate_split
from figures.plotting import new_figure, save_figure
from filtering.mean_field import MeanField
from modeling.checkpoint import load_network
from training.checkpoint import LAST
from training.identity import data_facts
from training.two_stages import ARMS, Comparison, Results
from training.two_stages_report import (
    background_everywhere,
    gains,
    markdown_table,
    mean_and_spread,
    percents,
    share_of_gap,
)

logger = logging.getLogger(__name__)

COMMON = (
    *("--backbone", "mobilenet", "--out-stride", "16", "--batch-size", "8"),
    *("--ce-reduction", "mean", "--size-free", "--channels-last", "--amp", "bf16"),
)
"""Options of every training."""
RANDOM = ("--pretrained", "none", "--lr", "0.01", "--scale-range", "0.9", "1.3")
PRETRAINED = ("--pretrained", "bundled", "--optimizer", "adamw", "--scale-range", "0.75", "1.5")
NORMALISED = "--normalised-kernel"
KERNEL = ",sigma_xy=40,sigma_rgb=6"
OTHERS = {
    "normalized_cut": KERNEL,
    "kernel_cut": f"{KERNEL},crf=1,cut=0.3",  # equal gradients after stage 1
    "gated_crf": ",rloss_scale=0.5",
    "tree_energy": ",rloss_scale=0.5",
}
"""Settings of the other losses where they are not their own."""
SCORES = {"fill_in": "fill-in", "val": "val", "val_full": "val full", "boundary": "boundary", "refined": "with a CRF"}
"""Titles of the scores, of which a table has those that are known."""
SHARED = {"fill_in", "val_full"}
"""Scores for which a table also says what share of the gap to full supervision is closed."""
WHOLE = " (val full, boundary to 4 pixels and with a CRF: every pixel of whole images)"
BAND = "4"  # of the boundary mIoU, in pixels
COLOURS = {"partial_ce": "tab:orange", "full": "tab:green"}  # in the figure; others are blue


@dataclass(frozen=True)
class Study:
    """Settings of the DenseCRF loss to compare, by their names.

    Args:
        crop: side in pixels at which the network sees an image.
        variants: name -> options; a name mentions the settings in which it differs from the first.
        options: of every training, in addition to `COMMON`.
        epochs: of stage 1 and of stage 2.
        full: whether full supervision is trained too.
        stage2_lr: rate of stage 2.
        whole: whether whole images are scored too, plainly and with a mean-field CRF on top.
    """

    crop: int
    variants: Mapping[str, tuple[str, ...]]
    options: tuple[str, ...] = RANDOM
    epochs: tuple[int, int] = (150, 40)
    full: bool = True
    stage2_lr: float = 0.003
    whole: bool = False


def loss(weight: float, sigma_xy: float, sigma_rgb: float, *more: str) -> tuple[str, ...]:
    """Return the options of a DenseCRF loss."""
    return ("--densecrfloss", str(weight), "--sigma-xy", str(sigma_xy), "--sigma-rgb", str(sigma_rgb), *more)


def others(**weights: float) -> dict[str, tuple[str, ...]]:
    """Return variants of the other regularised losses, given their weights."""
    return {
        f"{name}, weight {weight:g}": ("--regulariser", f"{name}={weight:g}{OTHERS.get(name, '')}")
        for name, weight in weights.items()
    }


STUDIES = {
    "40": Study(
        65,
        {
            "weight 2, sigma xy 8, rgb 12": loss(2, 8, 12),
            "weight 0.7": loss(0.7, 8, 12),
            "weight 5": loss(5, 8, 12),
            "sigma xy 5": loss(2, 5, 12),
            "sigma xy 14": loss(2, 14, 12),
            "sigma rgb 7": loss(2, 8, 7),
            "sigma rgb 20": loss(2, 8, 20),
            "scale 0.5": loss(2, 8, 12, "--rloss-scale", "0.5"),
            "exact gradient": loss(2, 8, 12, "--exact-gradient"),
        },
    ),
    "40-stride-8": Study(
        65, {"weight 2, sigma xy 14, rgb 12": loss(2, 14, 12)}, (*RANDOM, "--out-stride", "8"), full=False
    ),
    "40-crop-49": Study(49, {"weight 2, sigma xy 10.5, rgb 12": loss(2, 10.5, 12)}, full=False),
    "128": Study(
        129,
        {
            "weight 2, sigma xy 24, rgb 12": loss(2, 24, 12),
            "sigma xy 36": loss(2, 36, 12),
            "weight 5": loss(5, 24, 12),
        },
        (*RANDOM, "--batch-size", "4"),
        (300, 40),
    ),
    "drawn": Study(
        129,
        {
            "weight 5, sigma xy 40, rgb 6": loss(5, 40, 6, NORMALISED),
            "weight 2": loss(2, 40, 6, NORMALISED),
            "sigma xy 24": loss(5, 24, 6, NORMALISED),
            "plain kernel, weight 2, sigma xy 24, rgb 12": loss(2, 24, 12),
        },
        (*PRETRAINED, "--scale-range", "0.9", "1.3"),
        (5, 5),
        stage2_lr=2e-4,
    ),
    "losses": Study(
        129,
        {
            "densecrf, normalised kernel, weight 5": loss(5, 40, 6, NORMALISED),
            "densecrf, weight 4": loss(4, 40, 6),
            **others(normalized_cut=0.3, kernel_cut=2, gated_crf=0.15, potts=2.2, tree_energy=4, size=10, entropy=1),
        },
        (*PRETRAINED, "--scale-range", "0.9", "1.3"),
        (5, 5),
        full=False,
        stage2_lr=2e-4,
    ),
    "photographs": Study(
        129,
        {"weight 3, sigma xy 40, rgb 6": loss(3, 40, 6, NORMALISED)},
        PRETRAINED,
        (6, 6),
        stage2_lr=2e-4,
        whole=True,
    ),
    "losses-photographs": Study(
        129,
        {
            "densecrf, normalised kernel, weight 3": loss(3, 40, 6, NORMALISED),
            "densecrf, weight 4": loss(4, 40, 6),
            **others(normalized_cut=0.1, kernel_cut=2, gated_crf=0.15, potts=2.2, tree_energy=1, size=10, entropy=0.25),
        },
        PRETRAINED,
        (6, 2),
        full=False,
        stage2_lr=2e-4,
    ),
    "photographs-40": Study(
        65,
        {
            "weight 1, sigma xy 20, rgb 6": loss(1, 20, 6, NORMALISED),
            "weight 0.5": loss(0.5, 20, 6, NORMALISED),
            "weight 2": loss(2, 20, 6, NORMALISED),
            "weight 5": loss(5, 20, 6, NORMALISED),
            "sigma xy 10": loss(1, 10, 6, NORMALISED),
            "sigma rgb 12": loss(1, 20, 12, NORMALISED),
        },
        PRETRAINED,
        (6, 6),
        stage2_lr=2e-4,
    ),
}
"""By the images, or their size in pixels, and what differs from the first study of that size."""
STUDIES["photographs-long"] = replace(STUDIES["photographs"], epochs=(6, 9))
STUDIES["photographs-257"] = replace(
    STUDIES["photographs"],
    crop=257,
    epochs=(3, 3),
    variants={"weight 3, sigma xy 80, rgb 6": loss(3, 80, 6, NORMALISED), "weight 4": loss(4, 80, 6, NORMALISED)},
)
STUDIES["photographs-257-long"] = replace(
    STUDIES["photographs-257"],
    epochs=(3, 6),
    variants={"weight 3, sigma xy 80, rgb 6": loss(3, 80, 6, NORMALISED)},
)
STUDIES["photographs-257-settings"] = replace(
    STUDIES["photographs-257"],
    variants={
        "weight 3, sigma xy 80, rgb 6": loss(3, 80, 6, NORMALISED),
        "weight 2": loss(2, 80, 6, NORMALISED),
        "weight 4": loss(4, 80, 6, NORMALISED),
        "weight 5": loss(5, 80, 6, NORMALISED),
        "weight 6": loss(6, 80, 6, NORMALISED),
        "sigma xy 40": loss(3, 40, 6, NORMALISED),
        "sigma rgb 10": loss(3, 80, 10, NORMALISED),
    },
    full=False,
    whole=False,
)


def table(results: Results) -> str:
    """Return a Markdown table: of every arm each score, its gain, and the share of the gap that it closes."""
    scores = [score for score in SCORES if all(score in final for finals in results.values() for final in finals)]
    shared = SHARED if "full" in results else set()
    heads = [(SCORES[score], "gain", *(["of the gap"] if score in shared else [])) for score in scores]
    rows = []
    for arm in results:
        cells = [ARMS.get(arm, arm)]
        for score in scores:
            gain = mean_and_spread(gains(results, arm, score), sign="+")
            cells += [mean_and_spread(percents(results, arm, score)), "" if arm == "partial_ce" else gain]
            if score in shared:
                cells.append("" if arm in ("partial_ce", "full") else share_of_gap(results, arm, score))
        rows.append(cells)
    return markdown_table(["", *(title for head in heads for title in head)], rows)


def final_results(comparison: Comparison, loaders: Loaders, study: Study, workers: int) -> Results:
    """Return the final scores of every arm: of crops, and of whole images where the study asks for them."""
    results = {arm: [dict(final) for final in finals] for arm, finals in comparison.results().items()}
    for arm, finals in results.items():
        for seed, final in zip(comparison.seeds, finals, strict=True):
            whole = final.pop("val_full")
            if study.whole:
                run = comparison.run_folder(seed, arm)
                final |= {"val_full": whole, "boundary": {"miou": whole["boundary"][BAND]}}
                final["refined"] = refined(run, loaders, Protocol("full", study.crop, crf=MeanField()), workers)
    return results


def refined(run: Path, loaders: Loaders, protocol: Protocol, workers: int) -> dict[str, Any]:
    """Return the scores of a run's last network by `protocol`, which are kept beside those of the training."""
    kept = run / "evaluation" / f"{protocol.name}.json"
    if not kept.is_file():
        network, _ = load_network(run / LAST)
        scores = evaluate_split(network, loaders, "val", protocol, workers).scores()
        write_text(kept, json.dumps(scores) + "\n")
    return json.loads(kept.read_text(encoding="utf-8"))


def draw(path: Path, results: Results) -> None:
    """Draw the fill-in of every arm: a dot for each seed, a bar at their mean."""
    figure = new_figure(7.5, 0.3 * len(results) + 0.9)
    axes = figure.subplots()
    for place, arm in enumerate(results):
        values = percents(results, arm, "fill_in")
        mean, colour = sum(values) / len(values), COLOURS.get(arm, "tab:blue")
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.5, markersize=6, markeredgewidth=0)
        axes.plot([mean], [place], "|", color=colour, markersize=14, markeredgewidth=2.5)
        if arm in COLOURS:
            axes.axvline(mean, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(results)), [ARMS.get(arm, arm) for arm in results], fontsize=9)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlabel("fill-in: mIoU on the training images against their full truth, %", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def build_parser() -> ArgumentParser:
    """Return the parser of the study."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--study", choices=STUDIES, required=True, help="which one: the images or their size, and what differs"
    )
    parser.add_argument("--data-root", required=True, metavar="FOLDER", help="data set with full truth")
    parser.add_argument("--classes", metavar="FILE", help="its class names (default: FOLDER/classes.txt)")
    parser.add_argument("--seeds", type=integers, default="1,2,3", metavar="A,B,...", help="of the trainings")
    parser.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--workers", type=number(int, 0), default=0, metavar="N", help="of each training")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for all runs (default: run/study_<study>)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study that the command line names; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    study = STUDIES[args.study]
    data = ("--data-root", args.data_root, "--workers", str(args.workers))
    data += ("--classes", args.classes) if args.classes else ()
    size = ("--crop-size", str(study.crop), "--base-size", str(study.crop))
    # Bad input is found here, not after hours.
    options = DataOptions(
        data_root=args.data_root, classes=args.classes, workers=0, supervision="full", batch_size=1, test_batch_size=1
    )
    loaders = make_data_loader(options)
    if loaders.fill_in is None:
        raise InputError(f"{args.data_root}: expected full truth of the training images, found none")
    drawn = make_data_loader(replace(options, supervision="scribble"), splits=("train",)).train.dataset
    facts = data_facts(loaders, {"train": drawn.survey(), "val": loaders.val.dataset.survey()})
    facts["training truth"] = loaders.train.dataset.survey().digests["labels"]
    comparison = Comparison(
        folder=args.output or Path(f"run/study_{args.study}"),
        seeds=args.seeds,
        stage_epochs=study.epochs,
        options=(*COMMON, *study.options, *size, *data),
        variants=study.variants,
        full=study.full,
        stage2_lr=study.stage2_lr,
        evaluations=1,
        data=facts,
    )
    comparison.train(args.jobs)
    results = final_results(comparison, loaders, study, args.workers)
    text = f"{heading(study, loaders, args.seeds, results)}\n\n{table(results)}\n"
    write_text(comparison.folder / "study.md", text)
    write_text(comparison.folder / "study.json", json.dumps(results, indent=1) + "\n")
    draw(comparison.folder / "study.png", results)
    logger.info("\n%s\nresults: %s", text, comparison.folder)
    return 0


def heading(study: Study, loaders: Loaders, seeds: Sequence[int], results: Results) -> str:
    """Return the line above the table: the data, the trainings, and what the numbers are."""
    protocol = "crop protocol" + (WHOLE if study.whole else "")
    return (
        f"{len(loaders.train.dataset)} training and {len(loaders.val.dataset)} validation images, crop {study.crop}; "
        f"{study.epochs[0]} epochs of partial CE, then {study.epochs[1]} of each row; mIoU in %, {protocol}, last "
        f"epoch, mean ± standard deviation over the seeds {', '.join(map(str, seeds))}; background everywhere: fill-in "
        f"{background_everywhere(results, 'fill_in'):.1f}, val {background_everywhere(results, 'val'):.1f}"
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))

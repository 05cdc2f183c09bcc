"""Which settings of the DenseCRF loss suit small images? A study over several seeds, judged by fill-in and val mIoU.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/study.py --size 40 --data-root FOLDER --classes FILE --jobs 2

For each network and seed: stage 1 of partial cross-entropy alone, then from its weights a second stage without the
DenseCRF loss and one for each of its settings, of the same length; and both stages with full supervision, the upper
bound. Fill-in is the mIoU on the training images against their full truth, which training on scribbles never sees.
Leaves study.md (tables), study.png and study.json in --output. Repeated, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.datasets.pascal import IMAGES, LISTS, SCRIBBLES, TRUTH
from dataloaders.folders import write_lists
from errors import InputError, exit_status
from training.checkpoint import replace_file
from training.figures import save_seeds
from training.monitor import configure_logging
from training.options import integers, number
from training.two_stages import ARMS, Comparison, mean_and_spread, train_all

logger = logging.getLogger(__name__)

COMMON = (
    *("--backbone", "mobilenet", "--pretrained", "none", "--out-stride", "16", "--batch-size", "8", "--lr", "0.01"),
    *("--scale-range", "0.9", "1.3", "--ce-reduction", "mean", "--size-free", "--channels-last", "--amp", "bf16"),
)
"""Options of every training; those of a network or of a loss win."""
STAGE2_LR = 0.003


@dataclass(frozen=True)
class Network:
    """Options of the network and its input, and the settings of the DenseCRF loss that are tried with it."""

    options: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """Networks to compare at one size of the images: name -> Network."""

    every: int
    """Of so many training images one is taken."""
    epochs: tuple[int, int]
    networks: Mapping[str, Network]


def loss(weight: float, sigma_xy: float, sigma_rgb: float, *more: str) -> tuple[str, ...]:
    """Return the options of a DenseCRF loss."""
    return (
        *("--densecrfloss", str(weight), "--sigma-xy", str(sigma_xy), "--sigma-rgb", str(sigma_rgb)),
        *more,
    )


def side(pixels: int) -> tuple[str, ...]:
    """Return the options of the size at which the network sees an image."""
    return ("--crop-size", str(pixels), "--base-size", str(pixels))


STUDIES = {
    "40": Study(
        every=12,
        epochs=(150, 40),
        networks={
            "crop 65": Network(
                side(65),
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
        },
    ),
    "128": Study(
        every=16,
        epochs=(150, 40),
        networks={
            "crop 129": Network(
                side(129),
                {
                    "weight 2, sigma xy 16, rgb 10": loss(2, 16, 10),
                    "scale 0.5": loss(2, 16, 10, "--rloss-scale", "0.5"),
                },
            ),
        },
    ),
}


def subset(source: Path, target: Path, every: int) -> Path:
    """Make `target` the data set `source` with every `every`-th training image, by links."""
    lists = source / LISTS / "SegmentationAug"
    try:
        train, val = ((lists / f"{name}.txt").read_text(encoding="utf-8").split() for name in ("train", "val"))
        target.mkdir(parents=True, exist_ok=True)
        for folder in (IMAGES, SCRIBBLES, TRUTH):
            if not (target / folder).exists():
                os.symlink((source / folder).resolve(strict=True), target / folder)
    except OSError as error:
        reason = f"{error.filename or source}: {error.strerror}"
        raise InputError(f"{reason}; the study needs lists and full truth") from None
    write_lists(target, train[::every], val)
    return target


def percent(results: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, score: str) -> list[float]:
    """Return the mIoU of an arm in percent, seed by seed."""
    return [100 * final[score]["miou"] for final in results[arm]]


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a Markdown table of one network: every arm's fill-in and val, gain, and share of the gap closed."""
    scores = ("fill_in", "val")
    base = {score: percent(results, "partial_ce", score) for score in scores}
    gap = {score: statistics.mean(percent(results, "full", score)) - statistics.mean(base[score]) for score in scores}
    lines = ["| | fill-in | gain | of the gap | val | gain |", "| --- | --- | --- | --- | --- | --- |"]
    for arm in results:
        values = {score: percent(results, arm, score) for score in scores}
        gains = {score: [b - a for a, b in zip(base[score], values[score], strict=True)] for score in scores}
        cells = [mean_and_spread(values["fill_in"]), "", "", mean_and_spread(values["val"]), ""]
        if arm != "partial_ce":
            cells[1], cells[4] = (mean_and_spread(gains[score], sign="+") for score in scores)
        if arm not in ("partial_ce", "full") and gap["fill_in"] > 0:
            cells[2] = f"{100 * statistics.mean(gains['fill_in']) / gap['fill_in']:.0f} %"
        lines.append(f"| {ARMS.get(arm, arm)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def background(results: Mapping[str, Sequence[Mapping[str, Any]]], score: str) -> float:
    """Return the mIoU in percent of the background everywhere."""
    frequency = results["partial_ce"][0][score]["frequency"]
    return 100 * frequency[0] / sum(share > 0 for share in frequency)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study that the command line names; return the exit status."""
    configure_logging()
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--size", choices=STUDIES, required=True, help="of the images: which study")
    parser.add_argument("--data-root", required=True, type=Path, metavar="FOLDER", help="data set with full truth")
    parser.add_argument("--classes", required=True, metavar="FILE", help="its class names")
    parser.add_argument("--seeds", type=integers, default="1,2,3", metavar="A,B,...", help="of the trainings")
    parser.add_argument("--jobs", type=number(int, 1), default=1, metavar="N", help="trainings at the same time")
    parser.add_argument("--workers", type=number(int, 0), default=0, metavar="N", help="of each training")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for all runs (default: run/study_<size>)")
    args = parser.parse_args(argv)
    study = STUDIES[args.size]
    output = args.output or Path(f"run/study_{args.size}")
    data = subset(args.data_root, output / "data", study.every)
    common = (*COMMON, "--data-root", str(data), "--classes", args.classes, "--workers", str(args.workers))
    comparisons = {
        name: Comparison(
            folder=output / name.replace(" ", "_"),
            seeds=tuple(args.seeds),
            stage_epochs=study.epochs,
            options=(*common, *network.options),
            variants=network.variants,
            full=True,
            stage2_lr=STAGE2_LR,
            evaluations=1,
        )
        for name, network in study.networks.items()
    }
    for comparison in comparisons.values():
        comparison.check_folder()
    train_all([training for comparison in comparisons.values() for training in comparison.first_stage()], args.jobs)
    train_all([training for comparison in comparisons.values() for training in comparison.second_stage()], args.jobs)
    results = {name: comparison.results() for name, comparison in comparisons.items()}
    tables = [f"### {name}\n\n{table(result)}\n" for name, result in results.items()]
    first = next(iter(results.values()))
    text = (
        "\n".join(tables)
        + "\nBackground everywhere: "
        + ", ".join(
            f"{title} {background(first, score):.1f}" for title, score in (("fill-in", "fill_in"), ("val", "val"))
        )
    )
    for path, content in (("study.md", text + "\n"), ("study.json", json.dumps(results, indent=1) + "\n")):
        replace_file(output / path, lambda temporary, content=content: temporary.write_text(content, encoding="utf-8"))
    scores = {
        name: {ARMS.get(arm, arm): percent(result, arm, "fill_in") for arm in result}
        for name, result in results.items()
    }
    save_seeds(output / "study.png", scores, "fill-in: mIoU on the training images against their full truth, %")
    logger.info("\n%s\n\nresults: %s", text, output)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

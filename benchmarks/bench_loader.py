"""How fast are training images decoded, scaled and augmented, and how long does a step wait for them?

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_loader.py --data-root FOLDER

It times the data set image by image on one core, then its loader: alone, and feeding a step of --step seconds that
leaves the cores to the workers (it sleeps, as a process does whose GPU works).
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Sequence

from common.arguments import ArgumentParser, add_options, number, options_from
from common.errors import exit_status
from common.parallel import usable_cpus
from dataloaders.loaders import make_data_loader
from dataloaders.options import DataOptions
from dataloaders.transforms import normalize

import torch

OPTIONS = ("dataset", "data_root", "classes", "workers", "crop_size", "base_size", "batch_size")


def one_core(options: DataOptions, count: int) -> None:
    """Time `count` images from their files to a batch of one, and print the mean."""
    images = make_data_loader(options, splits=("train",)).train.dataset
    times = []
    for seed in range(count):
        clock = [time.perf_counter()]
        sample = images[seed % len(images), seed]
        clock.append(time.perf_counter())
        normalize(sample["image"][None])
        clock.append(time.perf_counter())
        times.append([1000 * (end - start) for start, end in itertools.pairwise(clock)])
    load, normalise = (statistics.mean(column) for column in zip(*times, strict=True))
    print(f"crop {options.crop_size}, base {options.base_size}, images of {images.folder}")
    print(f"one core: {1000 / load:.1f} images/s; {load:.2f} ms an image, and {normalise:.2f} ms to normalise it there")


def with_workers(options: DataOptions, count: int, step: float) -> None:
    """Print the images a second of the loader alone, and the share of the time that steps of `step` seconds wait."""
    loader = make_data_loader(options, splits=("train",)).train
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    # Whole turns of the workers, whose first batches come all at once: part of a turn would take no time.
    steps = -(-max(2, count // options.batch_size) // options.workers) * options.workers
    next(batches)  # the workers are up

    def run(seconds: float) -> tuple[int, float, float]:
        images, waited, start = 0, 0.0, time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            images += len(next(batches)["name"])
            waited += time.perf_counter() - before
            time.sleep(seconds)
        return images, waited, time.perf_counter() - start

    images, _, alone = run(0)
    _, waited, total = run(step)
    print(f"  workers {options.workers}: {images / alone:7.1f} images/s, waiting {waited / total:4.0%}")


def build_parser() -> ArgumentParser:
    """Return the parser of the benchmark."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, DataOptions, only=OPTIONS)
    parser.set_defaults(batch_size=12)
    count, seconds = number(int, 1), number(float, 0)
    parser.add_argument("--images", type=count, default=200, metavar="N", help="images to load in each measurement")
    parser.add_argument("--step", type=seconds, default=0.25, metavar="SECONDS", help="how long a step computes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says."""
    args = build_parser().parse_args(argv)
    options = options_from(DataOptions, args, test_batch_size=1)
    torch.set_num_threads(1)
    one_core(options, args.images)
    print(
        f"through the loader, batches of {options.batch_size}; waiting: share of the time in steps of {args.step:g} s"
    )
    most = max(1, min(options.workers, usable_cpus()))
    if most != options.workers:
        print(f"--workers {options.workers}: the loader takes {most}, with {usable_cpus()} CPUs here")
    for workers in sorted({1, most}):
        with_workers(dataclasses.replace(options, workers=workers), args.images, args.step)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""How fast are training images decoded, scaled and augmented, and how long does a step wait for them?

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_loader.py --data-root FOLDER --classes FOLDER/classes.txt

It compares the plain route (plain_route.py) with the data set's own: image by image in turn on one core, with the same
random numbers and a check that the pixels are equal; then through a loader with its workers, alone, and feeding a step
of --step seconds that leaves the cores to them (it sleeps, as a process does whose GPU works).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, Dataset

import plain_route
from common.arguments import HelpFormatter
from common.errors import exit_status
from dataloaders.loaders import make_data_loader, usable_cpus
from dataloaders.transforms import to_device
from training.options import add_data_options, check_data_options


class Plain(Dataset):
    """The training images of `images` by the plain route."""

    def __init__(self, images: Dataset, args: argparse.Namespace) -> None:
        self.images, self.args = images, args

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        index, seed = key
        pair = plain_route.read(self.images.image_files[index], self.images.label_files[index])
        generator = torch.Generator().manual_seed(seed)
        image, label = plain_route.train_view(*pair, generator, self.args.base_size, self.args.crop_size)
        return {"image": image, "label": label}


def one_core(plain: Dataset, ours: Dataset, count: int) -> None:
    """Time both routes from files to a batch of one, in turn, and print them with their ratio."""

    def batch(images: Dataset, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        sample = images[key]
        return {name: torch.stack([sample[name]]) for name in ("image", "label")}

    times = []
    for number in range(count):
        key = number % len(ours), number
        clock = [time.perf_counter()]
        expected = batch(plain, key)
        clock.append(time.perf_counter())
        loaded = batch(ours, key)
        clock.append(time.perf_counter())
        found = to_device(loaded, torch.device("cpu"))
        clock.append(time.perf_counter())
        if not all(torch.equal(*pair) for pair in zip(found, expected.values(), strict=True)):
            raise SystemExit(f"{ours.ids[key[0]]}: the two routes give different pixels")
        times.append([1000 * (end - start) for start, end in itertools.pairwise(clock)])
    print(f"one core, {count} images, equal pixels; ms an image, mean (median)")
    names = ("plain route", "this route", "normalisation on the device, here: the core")
    columns = list(zip(*times, strict=True))
    for name, column in zip(names, columns, strict=True):
        print(f"  {name:<44}{statistics.mean(column):6.2f} ({statistics.median(column):.2f})")
    print(f"  this route is faster by{statistics.mean(columns[0]) / statistics.mean(columns[1]):27.2f}")


def with_workers(images: Dataset, sampler, workers: int, args: argparse.Namespace) -> tuple[float, float]:
    """Return images a second of the loader alone, and the share of waiting in steps of --step seconds."""
    loader = DataLoader(images, args.batch_size, sampler=sampler, num_workers=workers, persistent_workers=True)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    steps = max(2, args.images // args.batch_size)
    next(endless)  # the workers are up

    def run(seconds: float) -> tuple[float, float]:
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            next(endless)
            waited += time.perf_counter() - before
            time.sleep(seconds)
        return waited, time.perf_counter() - start

    alone = steps * args.batch_size / run(0)[1]
    waited, total = run(args.step)
    return alone, waited / total


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    add_data_options(parser)
    parser.add_argument("--crop-size", type=int, default=513, metavar="PIXELS", help="side of the training crop")
    parser.add_argument("--base-size", type=int, default=513, metavar="PIXELS", help="short side before scaling")
    parser.add_argument("--batch-size", type=int, default=12, metavar="N", help="images in a step")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="how many to load in each measurement")
    parser.add_argument("--step", type=float, default=0.25, metavar="SECONDS", help="how long a step computes")
    return parser


def main() -> int:
    """Measure as the command line says."""
    args = build_parser().parse_args()
    check_data_options(args)
    torch.set_num_threads(1)
    vars(args).update(scale_range=(0.5, 2.0), supervision="scribble", test_batch_size=1, seed=1)
    train = make_data_loader(SimpleNamespace(**{**vars(args), "workers": 0}), splits=("train",)).train
    ours, plain = train.dataset, Plain(train.dataset, args)
    print(f"crop {args.crop_size}, base {args.base_size}, images of {ours.folder}")
    one_core(plain, ours, args.images)
    print(f"through a loader, batches of {args.batch_size}; waiting: share of the time, in steps of {args.step:g} s")
    for workers in sorted({1, min(args.workers, usable_cpus())}):
        speeds = []
        for name, images in (("plain", plain), ("this", ours)):
            speed, waiting = with_workers(images, train.sampler, workers, args)
            speeds.append(speed)
            print(f"  workers {workers}, {name + ' route':<12}{speed:7.1f} images/s, waiting {100 * waiting:3.0f} %")
        print(f"  workers {workers}: faster by {speeds[1] / speeds[0]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

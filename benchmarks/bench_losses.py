"""What the regularised losses cost beside the DenseCRF loss: time and memory, forward and backward.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_losses.py

Each is evaluated with its gradient at the probabilities of a batch, at the full size of the images. The losses
alternate, so that a disturbance affects all of them. Memory is the peak beyond the inputs; on a CPU each loss runs in a
process of its own for it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from common.arguments import ArgumentParser, number
from common.errors import exit_status
from dataloaders.labels import UNLABELLED
from losses import build_regulariser, parse_regulariser
from losses.registry import apply_regulariser
from measuring import (
    CLASSES,
    IMAGES,
    LABELLED,
    Pictures,
    machine_line,
    peak_alone,
    peak_on_gpu,
    peak_resident,
    result_file,
    seconds,
    shown,
    summary,
    usable_device,
    write_json,
)

import torch
from torch import Tensor, nn
from tqdm import tqdm

FIRST = "densecrf=2e-9,sigma_xy=50"  # with which the others are compared
OTHERS = (
    "normalized_cut=1,sigma_xy=50",
    "kernel_cut=1,sigma_xy=50",
    "size=1",
    "entropy=1",
    "potts=1",
    "gated_crf=0.1",
    "gated_crf=0.1,rloss_scale=0.5",
    "tree_energy=0.4",
    "tree_energy=0.4,rloss_scale=0.5",
    "tree_energy=0.4,high_level=True",
)
FEATURES = 256  # channels of DeepLabv3+'s features, which have a quarter of the size


class Batch:
    """Images with random probabilities, scribbles and features, on a device."""

    def __init__(self, pictures: Pictures, images: int, side: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        labels = torch.randint(CLASSES, (images, side, side), generator=generator)
        labels[random(images, side, side).abs() > LABELLED] = UNLABELLED
        self.image = pictures.batch(images, side).to(device)
        self.soft = random(images, CLASSES, side, side).softmax(1).to(device).requires_grad_()
        self.region = torch.ones(images, side, side, dtype=torch.bool, device=device)
        features = random(images, FEATURES, side // 4 + 1, side // 4 + 1) / FEATURES**0.5
        self.inputs = {"labels": labels.to(device), "logits": None, "features": features.to(device).requires_grad_()}

    def run(self, regulariser: nn.Module) -> None:
        """Take the loss and its gradient."""
        loss = apply_regulariser(regulariser, self.image, self.soft, self.region, **self.inputs)
        torch.autograd.grad(loss, (self.soft, self.inputs["features"]), allow_unused=True)


def build(text: str, device: torch.device) -> nn.Module:
    """Return the regulariser that NAME=WEIGHT,... describes."""
    return build_regulariser(parse_regulariser(text), {}).to(device)


def peak_memory(text: str, images: int, side: int, device: torch.device) -> float | None:
    """Return the peak of the memory in MB beyond the inputs, None where it is not known."""
    if device.type == "cuda":
        batch = Batch(Pictures(images), images, side, device)
        return peak_on_gpu(lambda: batch.run(build(text, device)))
    return peak_alone(_peak_on_the_cpu, text, images, side, torch.get_num_threads())


def _peak_on_the_cpu(text: str, images: int, side: int, threads: int) -> float:
    torch.set_num_threads(threads)
    device, regulariser = torch.device("cpu"), build(text, torch.device("cpu"))
    Batch(Pictures(1), 1, 33, device).run(regulariser)
    batch = Batch(Pictures(images), images, side, device)
    return peak_resident(lambda: batch.run(regulariser))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--losses", nargs="+", default=list(OTHERS), metavar="NAME=WEIGHT,...", help="to compare")
    parser.add_argument("--side", type=number(int, 16), default=257, help="of the images")
    parser.add_argument("--batch", type=number(int, 1), default=12, help="images")
    parser.add_argument("--repeats", type=number(int, 2), default=5, help="timed runs of each")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    device = usable_device(args.device)
    regularisers = {text: build(text, device) for text in [FIRST, *args.losses]}
    print(machine_line())
    print(
        f"{args.batch} images of {args.side} x {args.side}, {CLASSES} classes, on {device}; {args.repeats} runs of each"
    )
    print(f"images: {IMAGES}\n")
    batch = Batch(Pictures(args.batch), args.batch, args.side, device)
    times: dict[str, list[float]] = {text: [] for text in regularisers}
    ratios: dict[str, list[float]] = {text: [] for text in regularisers}
    for repeat in tqdm(range(args.repeats + 1), desc="runs", leave=False, disable=None):
        for text, regulariser in regularisers.items():
            time = seconds(lambda regulariser=regulariser: batch.run(regulariser), device)
            if repeat:  # the first one warms up
                times[text].append(time)
                ratios[text].append(time / times[FIRST][-1])
    figures: dict[str, dict[str, Any]] = {}
    print(f"{'loss':<34} {'ms: median (quartiles)':>26} {'times densecrf':>15} {'MB':>7} {'times densecrf':>15}")
    for text in regularisers:
        memory = peak_memory(text, args.batch, args.side, device)
        found = {**summary(times[text]), "ratio": statistics.median(ratios[text]), "memory_mb": memory}
        figures[text] = found
        base = figures[FIRST]["memory_mb"]
        shares = "? ?" if memory is None else f"{memory:7.0f} {memory / base:15.2f}"
        print(f"{text:<34} {shown(found):>26} {found['ratio']:15.2f} {shares}", flush=True)
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, {"options": options, "losses": figures})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

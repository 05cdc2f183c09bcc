"""How long the refinement by a DenseCRF takes on the CPU, its parts, and how near it comes to the memory's bound.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_mean_field.py

Prints medians and quartiles in ms for one image with the default settings of `MeanField`: in C++ with both kernels,
with each alone and with none, and by tensor operations. Then the bytes that filtering by the appearance kernel has to
read and write, how many that is a second, and the same for a plain copy of memory. All are measured in turn, so that a
disturbance affects all of them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from common.arguments import ArgumentParser, number
from common.errors import exit_status
from filtering import torch_lattice
from filtering.mean_field import MeanField
from measuring import CLASSES, IMAGES, Pictures, machine_line, seconds, shown, summary

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 8  # of AVX2: a row of a pixel's or a vertex's channels is padded to a multiple of it


def rows_moved(image: Tensor, crf: MeanField) -> tuple[int, int]:
    """Return the vertices, and how many rows an iteration with the appearance kernel reads and writes at least.

    Every vertex gathers from its pixels and is written, the vertices that have a neighbour along an axis are read and
    written for it, and every pixel gathers from its vertices.
    """
    (lattice,) = torch_lattice.Lattices(image, crf.appearance_rgb, crf.appearance_xy).lattices
    absent = len(lattice.neighbours[0]) - 1  # the number of the last vertex + 1
    blurred = sum(int((axis[:, 1:] < absent).any(1).sum()) for axis in lattice.neighbours)
    incidences = image[:, 0].numel() * torch_lattice.SIDE
    return absent, (incidences + absent) + 2 * blurred + incidences


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    parser = ArgumentParser(description="Time the refinement by a DenseCRF on the CPU.")
    parser.add_argument("--side", type=number(int, 1), default=513, help="of the image, in pixels")
    parser.add_argument("--classes", type=number(int, 1), default=CLASSES, help="planes of the probabilities")
    parser.add_argument("--repeats", type=number(int, 2), default=9, help="times it is measured")
    args = parser.parse_args(argv)
    cpu, crf = torch.device("cpu"), MeanField()
    image = Pictures(1).batch(1, args.side)
    coarse = 3 * torch.randn(1, args.classes, 33, 33, generator=torch.Generator().manual_seed(0))
    soft = F.interpolate(coarse, (args.side, args.side), mode="bilinear").softmax(1)
    vertices, rows = rows_moved(image, crf)
    width = -(-args.classes // LANES) * LANES
    memory = torch.rand(2, vertices, width)
    parts = {
        "both kernels": crf,
        "appearance kernel": replace(crf, smoothness_weight=0),
        "smoothness kernel": replace(crf, appearance_weight=0),
        "neither": replace(crf, appearance_weight=0, smoothness_weight=0),
        "building the lattice": replace(crf, iterations=0, smoothness_weight=0),
    }
    actions = {name: lambda part=part: part(image, soft) for name, part in parts.items()}
    actions["both, by tensors"] = lambda: crf.by_tensors(image, soft.log())
    actions["copying vertices"] = lambda: memory[0].copy_(memory[1])
    times = {name: [] for name in actions}
    for repeat in range(args.repeats + 1):
        for name, action in actions.items():
            taken = seconds(action, cpu)
            if repeat:  # the first warms up
                times[name].append(taken)
    print(machine_line())
    print(f"image: of {IMAGES}; {args.side} px, {args.classes} classes; {args.repeats} runs each, ms")
    for name, taken in times.items():
        print(f"  {name:<22} {shown(summary(taken))}")
    median = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"  tensors / C++: {median['both, by tensors'] / median['both kernels']:.1f}")
    filtering = (median["appearance kernel"] - median["neither"] - median["building the lattice"]) / crf.iterations
    moved, copied = (count * width * 4 / 1e9 for count in (rows, 2 * vertices))
    rate, copy_rate = moved / filtering, copied / median["copying vertices"]
    print(
        f"  appearance kernel: {vertices} vertices for {args.side**2} pixels; an iteration moves {1000 * moved:.0f} MB "
        f"in {1000 * filtering:.1f} ms, {rate:.0f} GB/s; copying: {copy_rate:.0f} GB/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""How long the refinement by a DenseCRF takes on the CPU: in C++, by tensor operations, and the parts of these.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_mean_field.py

Prints medians and quartiles in ms for one image with the default settings of `MeanField`. The parts are measured in
turn, so that a disturbance affects all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from common.arguments import number
from common.errors import exit_status
from filtering import Lattice
from filtering.mean_field import MeanField, gaussian_filter
from measuring import CLASSES, IMAGES, Pictures, machine_line, seconds, shown, summary

import torch
import torch.nn.functional as F


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    parser = argparse.ArgumentParser(description="Time the refinement by a DenseCRF on the CPU.")
    parser.add_argument("--side", type=number(int, 1), default=513, help="of the image, in pixels (default: 513)")
    parser.add_argument("--classes", type=number(int, 1), default=CLASSES, help=f"(default: {CLASSES})")
    parser.add_argument("--repeats", type=number(int, 2), default=9, help="(default: 9)")
    args = parser.parse_args(argv)
    cpu, crf = torch.device("cpu"), MeanField()
    image = Pictures(1).batch(1, args.side)
    coarse = 3 * torch.randn(1, args.classes, 33, 33, generator=torch.Generator().manual_seed(0))
    soft = F.interpolate(coarse, (args.side, args.side), mode="bilinear").softmax(1)
    log_p = soft.log()
    lattice = Lattice(image, crf.appearance_rgb, crf.appearance_xy)
    parts = {
        "building the lattice": lambda: Lattice(image, crf.appearance_rgb, crf.appearance_xy),
        "one filtering": lambda: lattice.filter(soft),
        "one smoothing": lambda: gaussian_filter(soft, crf.smoothness_xy),
        "one softmax": lambda: soft.softmax(1),
        "all by tensors": lambda: crf.by_tensors(image, log_p),
        f"all {crf.iterations} iterations": lambda: crf(image, soft),
    }
    times = {name: [] for name in parts}
    for repeat in range(args.repeats + 1):
        for name, part in parts.items():
            taken = seconds(part, cpu)
            if repeat:  # the first warms up
                times[name].append(taken)
    print(machine_line())
    print(f"image: of {IMAGES}; {args.side} px, {args.classes} classes; {args.repeats} runs each, ms")
    for name, taken in times.items():
        print(f"  {name:<22} {shown(summary(taken))}")
    plainly, here = (statistics.median(taken) for taken in list(times.values())[-2:])
    print(f"  tensors / C++: {plainly / here:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

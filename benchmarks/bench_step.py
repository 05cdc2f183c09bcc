"""How long a training step takes with and without the DenseCRF loss, and what share of it the loss has.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_step.py --crop 513 --batch 12 --precision bfloat16

A step is the trainer's own: normalisation, forward, partial cross-entropy, DenseCRF loss, backward and SGD update, of a
network with random weights. The images are on the device already, so loading is not measured. Steps with and without
the loss alternate. The loss alone is its forward and backward, up to the probabilities.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.arguments import SWITCH, ArgumentParser, number
from common.errors import exit_status
from DenseCRFLoss import DenseCRFLoss
from measuring import (
    AMP,
    CLASSES,
    IMAGES,
    Pictures,
    machine_line,
    random_batch,
    result_file,
    seconds,
    shown,
    summary,
    training_step,
    usable_device,
    write_json,
)
from modeling.backbone import BACKBONES
from modeling.deeplab import DeepLab

import torch
from tqdm import tqdm

WARM_UP = 2  # steps of each kind


def build_steps(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    torch.manual_seed(0)
    batch = random_batch(Pictures(args.batch), args.batch, args.crop, device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = DeepLab(CLASSES, args.backbone).to(device, memory_format=layout)
    densecrf = DenseCRFLoss(2e-9, args.sigma_rgb, args.sigma_xy, args.scale, exact_gradient=args.exact_gradient)
    without, with_loss = (training_step(model, loss, args.precision) for loss in (None, densecrf))
    images, region = batch["image"].float(), torch.ones_like(batch["label"], dtype=torch.bool)
    probabilities = torch.rand(args.batch, CLASSES, args.crop, args.crop).softmax(1).to(device).requires_grad_()
    return {
        "step without the loss": lambda: without(batch),
        "step with the loss": lambda: with_loss(batch),
        "the loss alone": lambda: torch.autograd.grad(densecrf(images, probabilities, region), probabilities),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; where it gives no sizes, a CPU gets smaller ones than a GPU."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    gpu = torch.cuda.is_available()
    width = number(float, 0, above=True)
    parser.add_argument("--device", default="cuda" if gpu else "cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument("--backbone", choices=list(BACKBONES), default="mobilenet", help="feature network")
    parser.add_argument("--crop", type=number(int, 33), default=513 if gpu else 257, help="side of the images")
    parser.add_argument("--batch", type=number(int, 2), default=12 if gpu else 4, help="images per step")
    parser.add_argument("--scale", type=number(float, 0, above=True, high=1), default=0.5, help="of the loss's input")
    parser.add_argument("--sigma-rgb", type=width, default=15.0, help="kernel width in colour")
    parser.add_argument("--sigma-xy", type=width, default=100.0, help="kernel width in pixels of the crop")
    parser.add_argument("--precision", choices=AMP, default="float32", help="of the network")
    layout = "keep the network's tensors in channels-last memory"
    parser.add_argument("--channels-last", default=False, help=layout, **SWITCH)
    parser.add_argument("--exact-gradient", default=False, help="take the loss's exact gradient", **SWITCH)
    parser.add_argument("--steps", type=number(int, 2), default=20 if gpu else 5, help="timed steps of each kind")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    device = usable_device(args.device)
    print(machine_line())
    print(
        f"{args.backbone} on {device}, {args.precision}, {args.batch} images of {args.crop} x {args.crop}, loss at "
        f"scale {args.scale:g}, sigma_rgb {args.sigma_rgb:g}, sigma_xy {args.sigma_xy:g}; {args.steps} steps of each"
    )
    print(f"images: {IMAGES}\n")
    steps = build_steps(args, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in tqdm(range(WARM_UP + args.steps), desc="steps", leave=False, disable=None):
        for name, action in steps.items():
            time = seconds(action, device)
            if index >= WARM_UP:
                times[name].append(time)

    figures: dict[str, Any] = {name: summary(found) for name, found in times.items()}
    for name, found in figures.items():
        print(f"{name:<22} {shown(found):>24} ms")
    without, with_loss, alone = (found["median_ms"] for found in figures.values())
    shares = {"share by difference": (with_loss - without) / with_loss, "share of the loss alone": alone / with_loss}
    for name, share in shares.items():
        print(f"{name:<26} {100 * share:.1f} %")
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, {"options": options, "times": figures, **shares})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

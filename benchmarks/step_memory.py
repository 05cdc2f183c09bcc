"""The GPU memory of a training step at its peak, by size of the crop, batch, network and precision.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/step_memory.py

It is what PyTorch's tensors take in the trainer's steps with the DenseCRF loss (scale 0.5, sigmas 15 and 100) and SGD
with momentum, as torch.cuda.max_memory_allocated counts it. That includes cuDNN's workspaces, but not the CUDA context
and what the allocator keeps in reserve.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.arguments import ArgumentParser, number
from common.errors import InputError, exit_status
from common.faults import lacks_memory
from DenseCRFLoss import DenseCRFLoss
from measuring import AMP, CLASSES, PICTURES, Pictures, machine_line, random_batch, training_step
from modeling.backbone import BACKBONES
from modeling.deeplab import DeepLab

import torch

SIZES = {64: 8, 128: 16, 256: 8, 513: 4}  # crops, and for each a batch size in addition to --batches


def peak(pictures: Pictures, backbone: str, crop: int, batch: int, precision: str) -> str:
    """Return the peak memory of a step in GiB, as text; '-' where the GPU has too little."""
    try:
        step = training_step(DeepLab(CLASSES, backbone).cuda(), DenseCRFLoss(2e-9, 15, 100, 0.5), precision)
        images = random_batch(pictures, batch, crop, step.device)
        for _ in range(3):  # the first has no momentum yet
            torch.cuda.reset_peak_memory_stats()
            step(images)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        return "-"
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table in Markdown."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=["mobilenet", "resnet"])
    parser.add_argument("--crops", nargs="+", type=number(int, 33), default=list(SIZES), help="sides of the images")
    parser.add_argument("--batches", nargs="+", type=number(int, 2), default=[12], help="images per step")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise InputError("step_memory.py needs a CUDA GPU, and PyTorch finds none")
    cases = [
        (crop, batch) for crop in args.crops for batch in sorted({*args.batches, SIZES.get(crop, args.batches[0])})
    ]
    columns = [(backbone, precision) for backbone in args.backbones for precision in AMP]
    print(machine_line())
    print("GiB\n")
    print("| crop | batch | " + " | ".join(f"{backbone}, {precision}" for backbone, precision in columns) + " |")
    print("| --- " * (2 + len(columns)) + "|", flush=True)
    pictures = Pictures(PICTURES)
    for crop, batch in cases:
        row = (peak(pictures, backbone, crop, batch, precision) for backbone, precision in columns)
        print(f"| {crop} | {batch} | " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

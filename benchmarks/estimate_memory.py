"""Estimate the GPU memory of a training step from the sizes of its tensors; neither a GPU nor the memory is needed.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/estimate_memory.py

The step is that of the network, the cross-entropy and SGD with momentum, at its peak, on tensors that have sizes but no
content. Not in it: the CUDA context, the workspaces of cuDNN, what the allocator keeps in reserve, and the filter of
the DenseCRF loss (see bench_filter.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from dataloaders.labels import UNLABELLED
from errors import exit_status
from losses.cross_entropy import PartialCrossEntropy
from modeling.backbone import BACKBONES
from modeling.deeplab import DeepLab
from training.options import number

CLASSES = 21
SIZES = ((64, 8), (128, 16), (256, 8), (513, 4))  # crop and batch of the presets
PRECISIONS = ("float32", "bfloat16")


def peak(backbone: str, crop: int, batch: int, precision: str) -> int:
    """Return the peak memory of a step in bytes."""
    with FakeTensorMode():
        model = DeepLab(CLASSES, backbone)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        criterion = PartialCrossEntropy(ignore_index=UNLABELLED)

        def step(images: torch.Tensor, labels: torch.Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            # A CPU's autocast, as there is none for a GPU that is not there; it keeps the interpolation in float32.
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(images).float()
            # The square stands for a regulariser, whose backward wants the probabilities.
            (criterion(logits, labels) + logits.softmax(1).square().sum()).backward()
            optimizer.step()

        step(torch.empty(2, 3, 65, 65), torch.zeros(2, 65, 65, dtype=torch.long))  # now there is momentum
        optimizer.zero_grad(set_to_none=True)
        data = torch.empty(batch, 3, crop, crop), torch.zeros(batch, crop, crop, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *data)
        with tracker:
            step(*data)
        return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=["mobilenet", "resnet"])
    parser.add_argument("--crops", nargs="+", type=number(int, 33), help="sides of the images (default: the presets')")
    parser.add_argument("--batches", nargs="+", type=number(int, 2), default=[12], help="beside the presets' (12)")
    args = parser.parse_args(argv)
    presets = dict(SIZES)
    cases = [
        (crop, batch)
        for crop in args.crops or presets
        for batch in sorted({*args.batches, *([presets[crop]] if crop in presets else [])})
    ]
    columns = [(backbone, precision) for backbone in args.backbones for precision in PRECISIONS]
    print("GiB, estimated from the tensors' sizes\n")
    print("| crop | batch | " + " | ".join(f"{backbone}, {precision}" for backbone, precision in columns) + " |")
    print("| --- " * (2 + len(columns)) + "|", flush=True)
    for crop, batch in cases:
        row = (f"{peak(backbone, crop, batch, precision) / 2**30:.1f}" for backbone, precision in columns)
        print(f"| {crop} | {batch} | " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

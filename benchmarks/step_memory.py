"""The GPU memory of a training step at its peak: measured on a GPU, or estimated where there is none.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/step_memory.py

Measured is what PyTorch's tensors take in steps with the DenseCRF loss (scale 0.5, sigmas 15 and 100) and SGD with
momentum, as torch.cuda.max_memory_allocated counts it: cuDNN's workspaces are in it, the CUDA context and what the
allocator keeps in reserve are not. The estimate (--estimate) is that of a step on tensors that have sizes but no
content; cuDNN's workspaces and the filter are not in it.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from common import Pictures, machine_line
from dataloaders.labels import UNLABELLED
from DenseCRFLoss import DenseCRFLoss
from errors import exit_status
from losses.cross_entropy import PartialCrossEntropy
from modeling.backbone import BACKBONES
from modeling.deeplab import DeepLab
from training.options import add_switch, number

CLASSES = 21
SIZES = ((64, 8), (128, 16), (256, 8), (513, 4))  # crop and batch of the presets
PRECISIONS = ("float32", "bfloat16")


def make_step(model: nn.Module, precision: str, regularise: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    """Return a training step (images, labels) with SGD; `regularise` gets the probabilities."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    criterion = PartialCrossEntropy(ignore_index=UNLABELLED)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        # A tensor without content has a CPU's autocast, which keeps the interpolation in float32 as a GPU's does.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images).float()
        (criterion(logits, labels) + regularise(logits.softmax(1))).backward()
        optimizer.step()

    return step


def estimated(backbone: str, crop: int, batch: int, precision: str) -> int:
    """Return the peak memory of a step in bytes, from the sizes of its tensors."""
    with FakeTensorMode():
        model = DeepLab(CLASSES, backbone)
        # The square stands for a regulariser, whose backward wants the probabilities.
        step = make_step(model, precision, lambda probabilities: probabilities.square().sum())
        step(torch.empty(2, 3, 65, 65), torch.zeros(2, 65, 65, dtype=torch.long))  # now there is momentum
        model.zero_grad(set_to_none=True)
        data = torch.empty(batch, 3, crop, crop), torch.zeros(batch, crop, crop, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model, *data)
        with tracker:
            step(*data)
        return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())


def measured(pictures: Pictures, backbone: str, crop: int, batch: int, precision: str) -> int:
    """Return the peak memory of a step on the GPU in bytes."""
    torch.manual_seed(0)
    model = DeepLab(CLASSES, backbone).cuda()
    loss = DenseCRFLoss(2e-9, 15, 100, 0.5)
    picture = pictures.batch(batch, crop).cuda()
    region = torch.ones_like(picture[:, 0])
    step = make_step(model, precision, lambda probabilities: loss(picture, probabilities, region))
    labels = torch.randint(CLASSES, (batch, crop, crop), device="cuda")
    for _ in range(3):  # the first has no momentum yet
        torch.cuda.reset_peak_memory_stats()
        step(picture / 128 - 1, labels)
    return torch.cuda.max_memory_allocated()


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=["mobilenet", "resnet"])
    parser.add_argument("--crops", nargs="+", type=number(int, 33), help="sides of the images (default: the presets')")
    parser.add_argument("--batches", nargs="+", type=number(int, 2), default=[12], help="beside the presets' (12)")
    add_switch(parser, "--estimate", help="do so even where there is a GPU")
    args = parser.parse_args(argv)
    estimate = args.estimate or not torch.cuda.is_available()
    presets = dict(SIZES)
    cases = [
        (crop, batch)
        for crop in args.crops or presets
        for batch in sorted({*args.batches, *([presets[crop]] if crop in presets else [])})
    ]
    columns = [(backbone, precision) for backbone in args.backbones for precision in PRECISIONS]
    print(machine_line())
    print("GiB, " + ("estimated from the sizes of the tensors" if estimate else "measured") + "\n")
    print("| crop | batch | " + " | ".join(f"{backbone}, {precision}" for backbone, precision in columns) + " |")
    print("| --- " * (2 + len(columns)) + "|", flush=True)
    peak = estimated if estimate else functools.partial(measured, Pictures(max(batch for _, batch in cases)))
    for crop, batch in cases:
        row = (f"{peak(backbone, crop, batch, precision) / 2**30:.1f}" for backbone, precision in columns)
        print(f"| {crop} | {batch} | " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

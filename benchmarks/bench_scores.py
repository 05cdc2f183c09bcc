"""What the losses cost from a network's scores on, forward and backward: time, memory, tensors of the scores' size.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_scores.py --crop 513 --batch 12 --precision bfloat16

They are computed as the training step does, a few images at a time, and for comparison by autograd alone, on
probabilities of the whole batch. Both alternate. Memory is the peak beyond the inputs, their gradient included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

from common.arguments import SWITCH, ArgumentParser, number
from common.errors import exit_status
from dataloaders.labels import UNLABELLED
from DenseCRFLoss import DenseCRFLoss
from losses.cross_entropy import PartialCrossEntropy
from measuring import (
    AMP,
    CLASSES,
    IMAGES,
    Pictures,
    machine_line,
    peak_alone,
    peak_on_gpu,
    peak_resident,
    random_batch,
    result_file,
    seconds,
    shown,
    summary,
    synchronise,
    usable_device,
    write_json,
)
from modeling.network import Network, TrainingOutput
from training.step import TrainingStep

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

WAYS = ("in parts", "by autograd alone")


class Given(Network):
    """A network that gives the scores that it has as its parameters."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, image: Tensor, for_training: bool = False) -> TrainingOutput:
        return TrainingOutput(self.scores, self.scores, (self.scores,))


class Large(TorchDispatchMode):
    """Counts the floating-point tensors of at least some size that operations make, other than views."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        is_view = any(result.alias_info for result in function._schema.returns)
        tensors = [value for value in tree_leaves(found) if isinstance(value, Tensor) and value.is_floating_point()]
        self.count += 0 if is_view else sum(tensor.numel() >= self.size for tensor in tensors)
        return found


def build(args: argparse.Namespace, batch: int) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name: the losses and their gradient at the scores of `batch` images."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    inputs = random_batch(Pictures(2), batch, args.crop, device)
    dtype = getattr(torch, args.precision)
    scores = torch.randn(batch, CLASSES, args.crop, args.crop, dtype=dtype, device=device)
    network = Given(scores.contiguous(memory_format=torch.channels_last) if args.channels_last else scores)
    criterion, optimizer = PartialCrossEntropy(ignore_index=UNLABELLED), torch.optim.SGD(network.parameters())
    actions = {}
    for name, losses in {
        "cross-entropy": {},
        "with the DenseCRF loss": {"densecrf": DenseCRFLoss(2e-9, 15, 100, args.scale)},
    }.items():
        step = TrainingStep(network, optimizer, criterion, losses)

        def in_parts(step: TrainingStep = step) -> None:
            step.gradients(inputs)
            network.scores.grad = None

        def plainly(losses: dict[str, nn.Module] = losses) -> None:
            scores, labels = network.scores.float(), inputs["label"].long()
            loss = criterion(scores, labels)
            for densecrf in losses.values():
                loss = loss + densecrf(inputs["image"].float(), scores.softmax(1), torch.ones_like(labels))
            loss.backward()
            network.scores.grad = None

        actions |= {f"{name}, {way}": action for way, action in zip(WAYS, (in_parts, plainly), strict=True)}
    return actions


def peak(args: argparse.Namespace, name: str) -> float | None:
    """Return the peak of the memory in MB beyond the inputs, None where it is not known."""
    if args.device.startswith("cuda"):
        action = build(args, args.batch)[name]
        action()
        return peak_on_gpu(action)
    return peak_alone(_peak_on_the_cpu, args, name, torch.get_num_threads())


def _peak_on_the_cpu(args: argparse.Namespace, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    small = argparse.Namespace(**{**vars(args), "crop": 33})
    build(small, 2)[name]()
    return peak_resident(build(args, args.batch)[name])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; where it gives no sizes, a CPU gets smaller ones than a GPU."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--crop", type=number(int, 33), default=513 if gpu else 257, help="side of the images")
    parser.add_argument("--batch", type=number(int, 2), default=12, help="images")
    parser.add_argument("--scale", type=number(float, 0, above=True, high=1), default=0.5, help="of the loss's input")
    parser.add_argument("--precision", choices=AMP, default="float32", help="of the scores")
    parser.add_argument("--channels-last", default=False, help="scores in channels-last memory", **SWITCH)
    parser.add_argument("--repeats", type=number(int, 2), default=5, help="timed runs of each")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    device = usable_device(args.device)
    print(machine_line())
    size = args.batch * CLASSES * args.crop**2
    shape = f"{args.batch} x {CLASSES} x {args.crop} x {args.crop} scores"
    print(f"{shape} in {args.precision}, loss at scale {args.scale:g}, on {device}")
    print(f"images: {IMAGES}\n")
    actions = build(args, args.batch)
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in tqdm(range(args.repeats + 1), desc="runs", leave=False, disable=None):
        for name, action in actions.items():
            time = seconds(action, device)
            if repeat:  # the first one warms up
                times[name].append(time)
    rows = {}
    print(f"{'':<42} {'ms: median (quartiles)':>26} {'MB':>7} {'such tensors':>13}")
    for name, action in actions.items():
        with Large(size) as large:
            action()
        synchronise(device)
        rows[name] = {**summary(times[name]), "memory_mb": peak(args, name), "tensors": large.count}
    for name, row in rows.items():
        memory = "?" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        print(f"{name:<42} {shown(row):>26} {memory:>7} {row['tensors']:>13}")
    for ours, plain in zip(list(times)[::2], list(times)[1::2], strict=True):
        ratio = statistics.median(a / b for a, b in zip(times[ours], times[plain], strict=True))
        print(f"{ours}: {ratio:.2f} times the time of autograd alone")
    if args.json:
        write_json(args.json, {"options": {**vars(args), "json": str(args.json)}, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

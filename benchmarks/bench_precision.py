"""How long a network's training step takes on a CPU: by precision, memory layout, and what oneDNN may use.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_precision.py --size 65,8 --size 129,8 --threads 2

A step is the trainer's own with partial cross-entropy alone, of a network with random weights. All kinds of steps
alternate, each kind that limits the processor's instructions in a process of its own: PyTorch's convolutions are
oneDNN's, which then computes as on a processor without them. What PyTorch computes itself still uses them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from common.arguments import SWITCH, ArgumentParser, number
from common.devices import CPUINFO
from common.errors import InputError, exit_status
from measuring import (
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
    write_json,
)
from modeling.backbone import BACKBONES
from modeling.deeplab import DeepLab

import torch
from tqdm import tqdm

LIMIT = "ONEDNN_MAX_CPU_ISA"
ISAS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16")
ISAS += ("AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16")  # oneDNN takes another for no limit
SIZES = [(65, 8), (129, 8), (257, 4)]  # of the crop, and images


class Kind(NamedTuple):
    """A kind of step."""

    precision: str
    channels_last: bool
    limit: str = ""  # the instructions that oneDNN may use at most
    compile: bool = False

    def __str__(self) -> str:
        layout = "channels-last" if self.channels_last else "contiguous"
        return ", ".join([self.precision, layout, *filter(None, (self.limit, "compiled" * self.compile))])


def kinds(limits: Sequence[str], compiled: bool) -> list[Kind]:
    """Return what is to be compared; the first one is what the others are compared with."""
    found = [Kind(precision, last) for precision in ("float32", "bfloat16") for last in (False, True)]
    found += [Kind("bfloat16", True, limit) for limit in limits]
    return found + [Kind(precision, True, compile=True) for precision in ("float32", "bfloat16") if compiled]


def default_limits() -> list[str]:
    """Return what would be other processors to this one: without AMX, and without any instructions for bfloat16."""
    flags = CPUINFO.read_text() if CPUINFO.exists() else ""
    return ["AVX512_CORE_BF16"] * ("amx_bf16" in flags) + ["AVX512_CORE"] * ("avx512_bf16" in flags)


def work(connection: Connection, args: argparse.Namespace, some: list[Kind]) -> None:
    """Take a step of a kind, by its number, at a size as often as asked to, and answer with its seconds."""
    torch.set_num_threads(args.threads)
    steps: dict[tuple, Callable[[], object]] = {}
    pictures = Pictures(1)
    while request := connection.recv():
        index, size = request
        if request not in steps:
            steps = {key: step for key, step in steps.items() if key[1] == size}  # the others are done
            steps[request] = build_step(pictures, args.backbone, some[index], *size)
        connection.send(seconds(steps[request], torch.device("cpu")))


def build_step(pictures: Pictures, backbone: str, kind: Kind, crop: int, images: int) -> Callable[[], object]:
    """Return a step without arguments."""
    torch.manual_seed(0)
    model = DeepLab(CLASSES, backbone)
    if kind.channels_last:
        model.to(memory_format=torch.channels_last)
    batch = random_batch(pictures, images, crop, torch.device("cpu"))
    step = training_step(torch.compile(model) if kind.compile else model, None, kind.precision)
    return lambda: step(batch)


class Workers:
    """A process for each limit of the instructions."""

    def __init__(self, args: argparse.Namespace, wanted: Sequence[Kind]) -> None:
        self.connections: dict[Kind, tuple[Connection, int]] = {}
        self.processes: list[multiprocessing.Process] = []
        for limit in dict.fromkeys(kind.limit for kind in wanted):
            here, there = multiprocessing.Pipe()
            some = [kind for kind in wanted if kind.limit == limit]
            environment = {**os.environ}
            os.environ |= {LIMIT: limit} if limit else {}
            process = multiprocessing.get_context("spawn").Process(target=work, args=(there, args, some), daemon=True)
            process.start()
            os.environ.clear()
            os.environ |= environment
            self.processes.append(process)
            self.connections |= {kind: (here, index) for index, kind in enumerate(some)}
            there.close()

    def seconds(self, kind: Kind, size: tuple[int, int]) -> float:
        """Take a step."""
        connection, index = self.connections[kind]
        connection.send((index, size))
        try:
            return connection.recv()
        except EOFError:
            raise InputError(f"the process that takes steps of the kind '{kind}' has ended") from None

    def end(self) -> None:
        """Let the processes end."""
        for connection in {connection for connection, _ in self.connections.values()}:
            connection.send(None)
        for process in self.processes:
            process.join()


def size(text: str) -> tuple[int, int]:
    """Parse CROP,BATCH."""
    if not (match := re.fullmatch(r"(\d+),(\d+)", text)) or int(match[1]) < 33 or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"expected CROP,BATCH of at least 33,2, found {text!r}")
    return int(match[1]), int(match[2])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", choices=list(BACKBONES), default="mobilenet", help="feature network")
    sizes = f"side and number of the images; several times for several (default: {SIZES})"
    parser.add_argument(
        "--size", type=size, action="append", metavar="CROP,BATCH", default=argparse.SUPPRESS, help=sizes
    )
    parser.add_argument("--threads", type=number(int, 1), default=torch.get_num_threads(), help="threads")
    limits = {"nargs": "*", "choices": ISAS, "metavar": "ISA", "default": default_limits()}
    parser.add_argument("--limit", help=f"values of {LIMIT}: {', '.join(ISAS)}", **limits)
    parser.add_argument("--compile", default=False, help="also with torch.compile", **SWITCH)
    parser.add_argument("--steps", type=number(int, 2), default=9, help="timed steps of each kind")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    args.size = getattr(args, "size", SIZES)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    torch.set_num_threads(args.threads)  # for the line about the machine
    print(machine_line())
    print(f"{args.backbone}, partial cross-entropy; {args.steps} steps of each kind; ms: median (quartiles)")
    print(f"images: {IMAGES}")
    wanted = kinds(args.limit, args.compile)
    workers, rows = Workers(args, wanted), []
    for crop, images in args.size:
        times: dict[Kind, list[float]] = {kind: [] for kind in wanted}
        for index in tqdm(range(args.steps + 1), desc="steps", leave=False, disable=None):
            for kind, found in times.items():
                time = workers.seconds(kind, (crop, images))
                if index:  # the first one warms up
                    found.append(time)
        print(f"\n{images} images of {crop} x {crop}{'':>30} ms  times the first")
        for kind, found in times.items():
            ratio = statistics.median(one / first for one, first in zip(found, times[wanted[0]], strict=True))
            print(f"{kind!s:<46} {shown(summary(found)):>24} {ratio:>6.2f}", flush=True)
            rows.append({"crop": crop, "batch": images, "kind": str(kind), **summary(found), "ratio": ratio})
    workers.end()
    if args.json:
        write_json(args.json, {"backbone": args.backbone, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

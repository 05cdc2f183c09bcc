"""What another busy process costs the filter and a training step on the CPU, by how OpenMP's threads wait.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_shared.py

Each setting of the environment has a process of its own, a new one in each round, since where its memory lies changes
its times by several per cent. They take turns, with and without another process that keeps the first core busy, so that
a disturbance affects all of them. The filter is the C++ module; the step is the trainer's own, of mobilenet with random
weights and partial cross-entropy alone.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

from common.arguments import ArgumentParser, number
from common.errors import InputError, exit_status
from common.parallel import usable_cpus
from measuring import CLASSES, Pictures, machine_line, random_batch, result_file, training_step, write_json
from modeling.deeplab import DeepLab

import torch
from bilateralfilter import bilateralfilter_batch
from tqdm import tqdm

OWN = "as the scripts have it"
DEFAULT = "GOMP_SPINCOUNT=300000"  # GCC's
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SIGMA_RGB, SIGMA_XY = 15.0, 50.0  # of the filter
BATCH = 8  # of the step
CALLS = {"filter, 12 images": 5, "filter, 1 image": 20, "training step": 1}  # in one measurement
KEEP_BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(flush=True)\nwhile True: pass"


def works(side: int, crop: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, by kind."""
    torch.manual_seed(0)
    pictures, generator = Pictures(3), torch.Generator().manual_seed(0)
    step = training_step(DeepLab(CLASSES, "mobilenet"), None, "float32")
    batch = random_batch(pictures, BATCH, crop, torch.device("cpu"))

    def filter_images(count: int) -> Callable[[], object]:
        images = pictures.batch(count, side).numpy()
        values = torch.rand(count, CLASSES, side, side, generator=generator).numpy()
        out = values.copy()
        return lambda: bilateralfilter_batch(images, values, out, *values.shape, SIGMA_RGB, SIGMA_XY)

    actions = filter_images(12), filter_images(1), lambda: step(batch)
    return dict(zip(CALLS, actions, strict=True))


def serve(connection: Connection, *sizes: int) -> None:
    """Answer each kind of work that the other end sends with the seconds that a call takes."""
    actions = works(*sizes)
    for action in actions.values():
        action()
    connection.send("ready")
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            kind = connection.recv()
            connection.send(mean_seconds(actions[kind], CALLS[kind]))


def mean_seconds(action: Callable[[], object], calls: int) -> float:
    """Time several calls; return the mean."""
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls


def start(setting: str, *sizes: int) -> Connection:
    """Start a process that serves under a setting of the environment."""
    context = multiprocessing.get_context("spawn")  # as OpenMP reads the environment when it is loaded
    ours, theirs = context.Pipe()
    before = {name: os.environ.pop(name) for name in WAITING if name in os.environ}
    os.environ.update(before if setting == OWN else [setting.split("=", 1)])
    context.Process(target=serve, args=(theirs, *sizes), daemon=True).start()
    for name in WAITING:
        os.environ.pop(name, None)
    os.environ.update(before)
    theirs.close()
    return ours


@contextlib.contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """Keep the first core busy during the block, if `wanted`."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", KEEP_BUSY], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        try:
            yield
        finally:
            other.kill()


def measure(settings: Sequence[str], rounds: int, *sizes: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the seconds of each round by kind of work, by setting, and by whether the first core was busy."""
    found = {kind: {name: {"quiet": [], "shared": []} for name in settings} for kind in CALLS}
    for _ in tqdm(range(rounds), desc="rounds", leave=False, disable=None):
        servers = {name: start(name, *sizes) for name in settings}
        for server in servers.values():
            server.recv()  # it is ready
        for state in ("quiet", "shared"):
            with busy_core(state == "shared"):
                for kind, by_setting in found.items():
                    for name, times in by_setting.items():
                        servers[name].send(kind)
                        times[state].append(servers[name].recv())
        for server in servers.values():
            server.close()
        for process in multiprocessing.active_children():
            process.join()
    return found


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of a time as a multiple of another one of the same round."""
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def setting(text: str) -> str:
    """Parse NAME=VALUE."""
    if text.split("=")[0] not in WAITING or "=" not in text:
        raise argparse.ArgumentTypeError(f"expected {' or '.join(WAITING)} and =VALUE, found {text!r}")
    return text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    what = "a setting beside GCC's default and the scripts' own; repeatable (default: OMP_WAIT_POLICY=passive)"
    parser.add_argument("--setting", type=setting, action="append", metavar="NAME=VALUE", help=what)
    parser.add_argument("--side", type=number(int, 1), default=257, help="of the images to filter")
    parser.add_argument("--crop", type=number(int, 33), default=129, help="of the step's images")
    parser.add_argument("--rounds", type=number(int, 1), default=7, metavar="N", help="measurements of each")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    if usable_cpus() < 2:
        raise InputError("expected two cores or more, of which another process takes one, found one")
    print(machine_line())
    print(f"filter: {args.side} px, {CLASSES} channels; step: {BATCH} images of {args.crop} px; {args.rounds} rounds\n")
    print(f"{'':50} {'quiet, ms':>10} {'x GCC':>6} {'shared, ms':>11} {'x quiet':>8}")
    settings = (DEFAULT, OWN, *(args.setting or ["OMP_WAIT_POLICY=passive"]))
    try:
        found = measure(settings, args.rounds, args.side, args.crop)
    except EOFError:
        raise InputError("one of the processes that are timed has ended; its own message says why") from None
    for kind, by_setting in found.items():
        for name, times in by_setting.items():
            quiet, shared = (1000 * statistics.median(times[state]) for state in ("quiet", "shared"))
            cost = median_ratio(times["quiet"], by_setting[DEFAULT]["quiet"])
            slower = median_ratio(times["shared"], times["quiet"])
            print(f"{kind:<20}{name:<30} {quiet:10.1f} {cost:6.2f} {shared:11.1f} {slower:8.2f}")
    if args.json:
        write_json(args.json, {"rounds": args.rounds, "seconds": found})
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

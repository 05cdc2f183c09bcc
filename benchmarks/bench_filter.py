"""How long the bilateral filter takes, by engine: C++ for each instruction set, tensors on CPU and GPU, and Triton.

    PYTHONPATH=pytorch-deeplab_v3_plus python benchmarks/bench_filter.py --json filter.json --plot filter.png

Prints for each row of sizes the median and quartiles of the time, the medians of the phases, the peak of the working
memory beyond input and output, and the relative error against the C++; it ends with status 1 if one is above 1e-5. The
engines alternate, so that a disturbance affects all of them. C++ writes into existing memory; the time of the tensor
engines includes allocating the output.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from common.arguments import ArgumentParser, number
from common.errors import InputError, exit_status
from figures.plotting import new_figure, save_figure
from filtering import native, torch_lattice
from measuring import (
    IMAGES,
    Pictures,
    machine_line,
    peak_alone,
    peak_on_gpu,
    peak_resident,
    result_file,
    seconds,
    shown,
    summary,
    write_json,
)

import bilateralfilter
import torch
from torch import Tensor
from tqdm import tqdm

SIGMA_RGB = 15.0
PHASES = ("build", "splat", "blur", "slice")
LARGEST_ERROR = 1e-5  # relative, against the C++


class Row(NamedTuple):
    """The sizes of one measurement."""

    side: int
    images: int
    channels: int
    sigma_xy: float

    def __str__(self) -> str:
        return f"{self.side} px, {self.images} x {self.channels}, sigma_xy {self.sigma_xy:g}"


ROWS = (
    Row(257, 12, 21, 50),
    Row(513, 4, 21, 80),
    Row(128, 16, 21, 20),
    Row(16, 32, 21, 5),
    Row(513, 1, 21, 80),
    Row(257, 12, 2, 50),
    Row(257, 12, 60, 50),
)


class Engine:
    """One way to filter."""

    device = torch.device("cpu")

    def prepare(self, images: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Return what `run` takes, where it takes it."""
        return images.to(self.device), values.to(self.device)

    def run(self, sigma_xy: float, *tensors: Tensor) -> dict[str, float] | None:
        """Filter; return the seconds of the phases if they are known from the same run."""
        raise NotImplementedError

    def result(self, sigma_xy: float, *tensors: Tensor) -> Tensor:
        """Filter and return the result."""
        raise NotImplementedError


class Native(Engine):
    """The C++ module with one instruction set."""

    def __init__(self, instruction_set: str) -> None:
        self.name, self.instruction_set = f"C++ {instruction_set}", instruction_set

    def prepare(self, images: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return images, values, torch.zeros_like(values)

    def run(self, sigma_xy: float, *tensors: Tensor) -> dict[str, float]:
        found = bilateralfilter.bilateralfilter_profile(
            *(tensor.numpy() for tensor in tensors), *tensors[1].shape, SIGMA_RGB, sigma_xy, False, self.instruction_set
        )
        return {phase: found[phase] / torch.get_num_threads() for phase in PHASES}  # they are summed over the threads

    def result(self, sigma_xy: float, *tensors: Tensor) -> Tensor:
        self.run(sigma_xy, *tensors)
        return tensors[2]


class Tensors(Engine):
    """Tensor operations on one device, or what a module in place of `torch_lattice` does there."""

    def __init__(self, device: str, module: ModuleType = torch_lattice) -> None:
        self.name = f"{module.__name__.split('.')[-1].removesuffix('_lattice')} {device}"
        self.device = torch.device(device)
        self.filter, self.lattice_type = module.bilateral_filter, module.Lattice

    def run(self, sigma_xy: float, *tensors: Tensor) -> None:
        self.result(sigma_xy, *tensors)

    def result(self, sigma_xy: float, *tensors: Tensor) -> Tensor:
        return self.filter(*tensors, SIGMA_RGB, sigma_xy)

    def phases(self, sigma_xy: float, *tensors: Tensor) -> dict[str, float]:
        """Filter phase by phase, waiting for the device after each, and return their seconds."""
        found: dict[str, float] = {}
        result: list[Any] = []

        def take(phase: str, action: Callable[[], Any]) -> Any:
            found[phase] = seconds(lambda: result.append(action()), self.device)
            return result.pop()

        images, values = tensors
        settings = SIGMA_RGB, sigma_xy, self.lattice_type
        lattice = take("build", lambda: torch_lattice.build_lattice(images, values, *settings))
        vertices = take("splat", lambda: lattice.splat(values))
        vertices = take("blur", lambda: lattice.blur(vertices, range(torch_lattice.SIDE)))
        take("slice", lambda: lattice.slice(vertices))
        return found


def present_engines() -> dict[str, Engine]:
    """Return the engines that this machine can run, by name."""
    engines: list[Engine] = [Native(name) for name in bilateralfilter.instruction_sets()]
    engines.append(Tensors("cpu"))
    if torch.cuda.is_available():
        engines.append(Tensors("cuda"))
        with contextlib.suppress(ImportError):  # of Triton
            from filtering import triton_lattice

            engines.append(Tensors("cuda", triton_lattice))
    return {engine.name: engine for engine in engines}


def inputs(pictures: Pictures, row: Row) -> tuple[Tensor, Tensor]:
    """Return photo-like images and random probabilities."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(row.images, row.channels, row.side, row.side, generator=generator)
    return pictures.batch(row.images, row.side), values


def measure(engines: Sequence[Engine], pictures: Pictures, row: Row, repeats: int, tick: Callable) -> dict[str, Any]:
    """Time every engine on one row: name -> median, quartiles, phases, relative error."""
    tensors = {engine: engine.prepare(*inputs(pictures, row)) for engine in engines}
    times: dict[Engine, list[float]] = {engine: [] for engine in engines}
    phases: dict[Engine, list[dict[str, float]]] = {engine: [] for engine in engines}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for engine in engines:
                found: list[dict[str, float] | None] = []
                time = seconds(lambda e=engine, f=found: f.append(e.run(row.sigma_xy, *tensors[e])), engine.device)
                by_phase = found[0] or engine.phases(row.sigma_xy, *tensors[engine])
                if repeat:  # the first one warms up
                    times[engine].append(time)
                    phases[engine].append(by_phase)
                tick()
    expected = native.bilateral_filter(*inputs(pictures, row), SIGMA_RGB, row.sigma_xy)
    return {
        engine.name: {
            **summary(times[engine]),
            "phases_ms": {
                phase: 1000 * statistics.median(found[phase] for found in phases[engine]) for phase in PHASES
            },
            "error": error(engine, row, tensors[engine], expected),
        }
        for engine in engines
    }


def error(engine: Engine, row: Row, tensors: Sequence[Tensor], expected: Tensor) -> float:
    """Return the relative error of an engine's result."""
    return ((engine.result(row.sigma_xy, *tensors).cpu() - expected).norm() / expected.norm()).item()


# Memory


def peak_memory(engine: Engine, pictures: Pictures, row: Row) -> float | None:
    """Return the peak of the working memory in MB beyond input and output, None where it is not known."""
    if engine.device.type == "cuda":
        tensors = engine.prepare(*inputs(pictures, row))
        with torch.no_grad():
            return peak_on_gpu(lambda: engine.run(row.sigma_xy, *tensors)) - output_megabytes(row)
    return peak_alone(_peak_on_the_cpu, engine, pictures, row)  # memory that was used before would not show


def _peak_on_the_cpu(engine: Engine, pictures: Pictures, row: Row) -> float:
    with torch.no_grad():
        small = Row(16, 1, 1, 5)
        engine.run(small.sigma_xy, *engine.prepare(*inputs(pictures, small)))  # what is loaded at the first call
        tensors = engine.prepare(*inputs(pictures, row))
        peak = peak_resident(lambda: engine.run(row.sigma_xy, *tensors))
    return max(0.0, peak - (output_megabytes(row) if isinstance(engine, Tensors) else 0))


def output_megabytes(row: Row) -> float:
    """Return the size of the result in MB."""
    return row.images * row.channels * row.side**2 * 4 / 1e6


# Reports


def print_row(row: Row, results: dict[str, Any]) -> None:
    """Print the figures of every engine on one row."""
    print(f"\n{row}")
    print(
        f"  {'engine':<14} {'ms: median (quartiles)':>24}  {'build':>7} {'splat':>7} {'blur':>7} {'slice':>7} {'MB':>7}"
        f" {'error':>8}"
    )
    for name, found in results.items():
        phases = " ".join(f"{found['phases_ms'][phase]:7.2f}" for phase in PHASES)
        memory = found["memory_mb"]
        memory = "?" if memory is None else f"{memory:.0f}"
        print(f"  {name:<14} {shown(found):>24}  {phases} {memory:>7} {found['error']:8.1e}")


def draw(path: Path, sweeps: dict[str, list[dict[str, Any]]]) -> None:
    """Draw cost against pixels and against channels, with a line of slope 1 for comparison."""
    titles = {"pixels": "pixels (4 images, 21 channels)", "channels": "channels (4 images of 128 x 128)"}
    figure = new_figure(10, 4.2)
    for panel, (name, points) in zip(figure.subplots(1, 2), sweeps.items(), strict=True):
        x = [point["side"] ** 2 if name == "pixels" else point["channels"] for point in points]
        for engine in points[0]["engines"]:
            panel.loglog(x, [point["engines"][engine]["median_ms"] for point in points], ".-", label=engine)
        fastest = min(found["median_ms"] for found in points[-1]["engines"].values())
        panel.loglog(x, [0.6 * fastest * at / x[-1] for at in x], "k:", linewidth=1, label="proportional")
        panel.set(
            ylabel="ms", title=f"cost against {titles[name]}", xlabel=f"{name}{' of an image' * (name == 'pixels')}"
        )
        panel.set_xticks(x, [f"{point['side']}²" if name == "pixels" else point["channels"] for point in points])
        panel.minorticks_off()
        panel.grid(linewidth=0.3)
        panel.legend()
    save_figure(figure, path)
    print(f"plot: {path}")


# The command


def row_of(text: str) -> Row:
    """Parse SIDE,IMAGES,CHANNELS,SIGMA_XY."""
    parts = text.split(",")
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"expected SIDE,IMAGES,CHANNELS,SIGMA_XY, found {text!r}")
    return Row(*(number(int, 1)(part) for part in parts[:3]), number(float, 0, above=True)(parts[3]))


def integers(text: str) -> list[int]:
    """Parse comma-separated positive integers."""
    return [number(int, 1)(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--row",
        type=row_of,
        action="append",
        metavar="SIDE,IMAGES,CHANNELS,SIGMA_XY",
        help="sizes (default: seven rows)",
    )
    parser.add_argument(
        "--engine", action="append", metavar="NAME", help="such as 'C++ avx2' or 'torch cpu' (default: all)"
    )
    parser.add_argument("--repeats", type=number(int, 2), default=9, metavar="N", help="times each is measured")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--plot", type=result_file, metavar="FILE", help="also measure cost against pixels and channels, as PNG"
    )
    parser.add_argument("--sides", type=integers, default=[32, 64, 128, 256, 512], help="of the plot's images")
    parser.add_argument("--channels", type=integers, default=[1, 2, 4, 8, 16, 32, 64, 128], help="of the plot")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report as the command line says."""
    args = parse(argv)
    engines = present_engines()
    for name in args.engine or ():
        if name not in engines:
            raise InputError(f"--engine {name!r}: not on this machine, which has {', '.join(engines)}")
    chosen = [engines[name] for name in args.engine or engines]
    rows = args.row or ROWS
    series: dict[str, list[Row]] = {}
    if args.plot:
        series["pixels"] = [Row(side, 4, 21, side / 5) for side in args.sides]
        series["channels"] = [Row(128, 4, channels, 25) for channels in args.channels]

    print(machine_line())
    print(f"images: {IMAGES}; sigma_rgb {SIGMA_RGB:g}")
    print(f"{args.repeats} runs each; MB: peak of the working memory beyond input and output")
    pictures = Pictures(max(row.images for row in (*rows, *itertools.chain(*series.values()))))
    with tqdm(total=len(rows) * len(chosen), desc="memory", leave=False, disable=None) as bar:
        memory = {}
        for row in rows:
            for engine in chosen:
                memory[row, engine.name] = peak_memory(engine, pictures, row)
                bar.update()

    figures: dict[str, Any] = {"sigma_rgb": SIGMA_RGB, "repeats": args.repeats, "rows": []}
    for row in rows:
        with tqdm(total=(args.repeats + 1) * len(chosen), desc=str(row), leave=False, disable=None) as bar:
            results = measure(chosen, pictures, row, args.repeats, bar.update)
        for name, found in results.items():
            found["memory_mb"] = memory[row, name]
        print_row(row, results)
        figures["rows"].append({**row._asdict(), "engines": results})

    if args.plot:
        sweeps: dict[str, list[dict[str, Any]]] = {}
        for name, points in series.items():
            total = len(points) * (args.repeats + 1) * len(chosen)
            with tqdm(total=total, desc=f"cost against {name}", leave=False, disable=None) as bar:
                sweeps[name] = [
                    {**row._asdict(), "engines": measure(chosen, pictures, row, args.repeats, bar.update)}
                    for row in points
                ]
        figures["sweeps"] = sweeps
        draw(args.plot, sweeps)
    if args.json:
        write_json(args.json, figures)
    wrong = sorted(
        {
            name
            for row in figures["rows"]
            for name, found in row["engines"].items()
            if not found["error"] < LARGEST_ERROR
        }
    )
    if wrong:
        print(f"error: relative errors of {LARGEST_ERROR:g} and more: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

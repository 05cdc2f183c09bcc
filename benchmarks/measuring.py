"""What the benchmarks share: the machine's name, pictures, a training step, and how times are taken and written."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.devices import CPUINFO
from common.errors import InputError
from common.files import make_folder, write_text
from common.parallel import usable_cpus
from dataloaders.labels import UNLABELLED
from dataloaders.synthetic.scenes import draw_scene
from dataloaders.transforms import resize_short_side
from losses.cross_entropy import PartialCrossEntropy
from training.step import TrainingStep

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

PICTURES = 12
CLASSES = 21
LABELLED = 0.03  # share of the pixels
AMP = {"float32": "off", "bfloat16": "bf16"}
"""The option --amp by the precision of the network."""
IMAGES = "mosaics of 2 x 2 scenes of the synthetic data set (about as many vertices as a photograph)"


def machine() -> dict[str, Any]:
    """Return what the times depend on: processor, cores, threads, GPU, PyTorch."""
    cpu = platform.processor() or platform.machine()
    if CPUINFO.exists():
        lines = CPUINFO.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": usable_cpus(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def machine_line() -> str:
    """Return `machine()` as a line of text."""
    m = machine()
    gpu = m["gpu"] or "no CUDA GPU"
    return f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads; {gpu}; PyTorch {m['torch']}, {m['system']}"


class Pictures:
    """Photo-like pictures of any size.

    Noise would not do, because it has ten times as many vertices as a photograph, nor would a single scene scaled up,
    which is too smooth. Mosaics of four come close: about 9,000 vertices at 257 x 257 pixels, where a photograph has
    10,600 (sigma_rgb 15, sigma_xy 50).
    """

    def __init__(self, count: int) -> None:
        """Draw `count` pictures, at most PICTURES; a larger batch repeats them."""
        self.scenes = [
            [Image.fromarray(draw_scene(np.random.default_rng([picture, part]))[0]) for part in range(4)]
            for picture in tqdm(range(min(count, PICTURES)), desc="drawing pictures", leave=False, disable=None)
        ]

    def batch(self, n: int, side: int) -> Tensor:
        """Return (n, 3, side, side), float32 in 0..255."""
        half = -(-side // 2)
        pictures = []
        for scenes in self.scenes[:n]:
            picture = Image.new("RGB", (2 * half, 2 * half))
            for part, scene in enumerate(scenes):
                picture.paste(resize_short_side(scene, half), (half * (part % 2), half * (part // 2)))
            pictures.append(np.asarray(picture)[:side, :side])
        stack = np.stack([pictures[index % len(pictures)] for index in range(n)])
        return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2), dtype=np.float32))


def training_step(model: nn.Module, regulariser: nn.Module | None, precision: str) -> TrainingStep:
    """Return the trainer's step, with SGD, for a network and perhaps a regularised loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.007, momentum=0.9, weight_decay=5e-4)
    regularisers = {"densecrf": regulariser} if regulariser else {}
    return TrainingStep(
        model, optimizer, PartialCrossEntropy(ignore_index=UNLABELLED), regularisers, amp=AMP[precision]
    )


def random_batch(pictures: Pictures, n: int, side: int, device: torch.device) -> dict[str, Tensor]:
    """Return a batch as the loaders make it, on the device, with random scribbles."""
    labels = torch.randint(CLASSES, (n, side, side), dtype=torch.uint8)
    labels = labels.masked_fill(torch.rand(labels.shape) > LABELLED, UNLABELLED)
    return {"image": pictures.batch(n, side).to(torch.uint8).to(device), "label": labels.to(device)}


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Time one call, until the device has finished it."""
    synchronise(device)
    start = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - start


def usable_device(name: str) -> torch.device:
    """Return the device of that name, or raise InputError where nothing can be computed on it."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    try:
        device = torch.device(name)
        if not there.get(device.type):
            raise InputError(f"--device {name}: expected {' or '.join(one for one in there if there[one])} here")
        torch.empty(1, device=device)
        if device.type == "cuda":  # of which times, memory and the machine's name shall be
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_on_gpu(action: Callable[[], object]) -> float:
    """Return by how many MB the memory in use on the current GPU rises at most during `action`."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def peak_alone(function: Callable[..., float], *arguments: Any) -> float | None:
    """Return what a function finds with `peak_resident` in a process of its own.

    None off Linux, and where that process dies, most likely for want of memory.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("forkserver")  # one forked from here would have one thread
    context.set_forkserver_preload(["training.step", "DenseCRFLoss", "torch._dynamo"])  # the last by an optimizer
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def peak_resident(action: Callable[[], object]) -> float:
    """Return by how many MB the memory of this process rises at most during `action`; on Linux.

    In a process of its own, and after the first call of its kind, which loads things: memory that was used before does
    not show.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what glibc keeps for reuse would not show when it is used again
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _megabytes("VmRSS")
    action()
    return max(0.0, _megabytes("VmHWM") - before)


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024 / 1e6


def summary(times: list[float]) -> dict[str, float]:
    """Return median and quartiles in ms, of at least two times in s."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median_ms": 1000 * middle, "quartiles_ms": [1000 * low, 1000 * high]}


def shown(figures: dict[str, Any]) -> str:
    """Return `summary` as text: median (lower - upper quartile)."""
    low, high = figures["quartiles_ms"]
    return f"{figures['median_ms']:.1f} ({low:.1f}-{high:.1f})"


def result_file(text: str) -> Path:
    """Return the path of a file for results, whose folder is made now and not after they are measured."""
    if Path(text).is_dir():
        raise InputError(f"expected the name of a file, found the folder {text}: add a name to it")
    make_folder(Path(text).parent)
    return Path(text)


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures with the machine's name."""
    write_text(path, json.dumps({"machine": machine(), "images": IMAGES, **figures}, indent=1) + "\n")
    print(f"figures: {path}")

"""The device that a process computes on: choosing it, naming it, its memory."""

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.arguments import integers, option, switch
from common.distributed import is_launched, local_rank
from common.errors import InputError

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class DeviceOptions:
    """devices"""

    no_cuda: bool = switch("run on the CPU even where there is a GPU")
    gpu_ids: tuple[int, ...] = option(
        (0,), "GPU to use; several, separated by commas, get a process each (default: 0)", type=integers, metavar="IDS"
    )


def processes_to_launch(options: DeviceOptions, device: torch.device) -> int:
    """Return how many processes are to be started for --gpu-ids, 0 where this one is all or one of them."""
    return len(options.gpu_ids) if device.type == "cuda" and len(options.gpu_ids) > 1 and not is_launched() else 0


def choose_device(options: DeviceOptions) -> torch.device:
    """Return the device of this process that the options and the machine allow."""
    if options.no_cuda or not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # torchrun starts as many processes as its own options say, whatever --gpu-ids says.
    chosen = options.gpu_ids if len(options.gpu_ids) > 1 or not is_launched() else list(range(count))
    absent = [index for index in chosen if index >= count]
    if absent:
        raise InputError(f"--gpu-ids {absent[0]}: this machine has {count} GPU(s), numbered from 0")
    if local_rank() >= len(chosen):
        raise InputError(f"process {local_rank() + 1} of this machine has no GPU: there are {len(chosen)}")
    return torch.device("cuda", chosen[local_rank()])


def has_fast_bfloat16(cuda: bool) -> bool:
    """Return whether the GPU, or without `cuda` the CPU, has instructions for bfloat16; others are slower in it."""
    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPUINFO.read_text()) is not None
    except OSError:  # not Linux
        return False


def describe_device(device: torch.device) -> str:
    """Return a line about the device that a run uses."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB (cuda:{device.index})"
    why = "" if not torch.cuda.is_available() else ", although there is a GPU (--no-cuda)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}{why}"


def describe_precision(device: torch.device, amp: str) -> str:
    """Return a line about the number formats that a run computes in."""
    network = {"off": "float32", "bf16": "bfloat16 where safe (autocast)", "fp16": "float16 where safe (autocast)"}[amp]
    if device.type != "cuda":
        return f"{network}, losses in float32"
    convolutions, products = _tf32(torch.backends.cudnn), _tf32(torch.backends.cuda.matmul)
    return f"{network}, losses in float32; TF32 {convolutions} in convolutions, {products} in matrix products"


def _tf32(backend: Any) -> str:
    try:
        return "on" if backend.allow_tf32 else "off"
    except RuntimeError:  # set by PyTorch's newer names, which exclude the older ones
        return "as fp32_precision says"


def peak_memory(device: torch.device) -> float:
    """Return the most memory in use so far, in MiB: of the device, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale

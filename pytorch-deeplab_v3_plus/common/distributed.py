"""Several processes, one per device, on torch.distributed. Everything here works for a single process too.

`torchrun` starts the processes, on one machine or several, or `launch` does for `--gpu-ids 0,1,...`; either way each
finds its place in the environment variables RANK, LOCAL_RANK and WORLD_SIZE. One of them alone, as other programs leave
it behind, is ignored. A process group that a program of one's own has made counts too.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function

from common.errors import InputError
from common.parallel import usable_cpus

if TYPE_CHECKING:  # slow to load, and needed by `launch` alone
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

AT_ONCE = 10  # seconds within which processes fail because of each other
STOPPED = 75  # exit status of a run that a signal has stopped, saved and ready to be resumed (EX_TEMPFAIL)


def is_launched() -> bool:
    """Return whether torchrun or `launch` has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _read(name: str, otherwise: int, low: int) -> int:
    if not is_launched():
        return otherwise
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal() or int(text) < low:
        raise InputError(
            f"{name}: expected an integer of at least {low} in the environment, found '{text}': use torchrun"
        )
    return int(text)


def rank() -> int:
    """Return the number of this process among all of them, from 0."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    number, processes = _read("RANK", 0, 0), world_size()
    if number >= processes:
        raise InputError(f"RANK: expected less than WORLD_SIZE={processes} in the environment, found '{number}'")
    return number


def local_rank() -> int:
    """Return the number of this process among those of its machine, from 0."""
    return _read("LOCAL_RANK", 0, 0)


def world_size() -> int:
    """Return the number of processes: of the group, where there is one, or that torchrun has started."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return _read("WORLD_SIZE", 1, 1)


def is_main() -> bool:
    """Return whether this process writes the files and the log."""
    return rank() == 0


def launch(command: Sequence[str], processes: int) -> int:
    """Run a Python script once per device of this machine, as `torchrun --standalone` does; return its exit status.

    The first process that fails takes the others down; a signal to this process is passed on to all of them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the processes report their errors themselves
    # The filter of the DenseCRF loss uses threads; without this each process would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // processes)))
    with tempfile.TemporaryDirectory() as logs:
        one_machine = dict(min_nodes=1, max_nodes=1, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
        specs, name = DefaultLogsSpecs(log_dir=logs), str(uuid.uuid4())
        config = LaunchConfig(nproc_per_node=processes, logs_specs=specs, run_id=name, **one_machine)
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            failed, failure = _cause(error.failures)
            if failure.exitcode >= 0:
                return failure.exitcode
            print(f"error: process {failed} of {processes} was killed by signal {-failure.exitcode}", file=sys.stderr)
            return 1
        except SignalException:
            return STOPPED
    return 0


def _cause(failures: Mapping[int, "ProcessFailure"]) -> tuple[int, "ProcessFailure"]:
    """Return which process failed first, and how.

    The others fail in turn. Nearly at once: the cause is one that was killed. Or as the launcher ends them, with a
    SIGTERM, and with a SIGKILL half a minute later: those are never the cause of another failure.
    """
    first = min(failure.timestamp for failure in failures.values())

    def order(item: tuple[int, "ProcessFailure"]) -> tuple[bool, bool, int]:
        code, time = item[1].exitcode, item[1].timestamp
        return code == -signal.SIGTERM or time > first + AT_ONCE, code >= 0, time

    return min(failures.items(), key=order)


def use_cores() -> None:
    """Have this process compute on all its cores where torchrun, and not the user, has restricted it to one.

    torchrun sets OMP_NUM_THREADS=1 for several processes, without which each would take all cores. Its own environment
    tells whether the user had set it.
    """
    if not is_launched() or os.environ.get("OMP_NUM_THREADS") != "1":
        return
    with contextlib.suppress(OSError):  # not Linux
        if b"OMP_NUM_THREADS=" not in Path(f"/proc/{os.getppid()}/environ").read_bytes():
            torch.set_num_threads(usable_cpus())  # of PyTorch and of OpenMP, and so of the filter


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes for the duration of the block: NCCL between GPUs, gloo for tensors on the CPU."""
    if world_size() == 1:
        yield
        return
    use_cores()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (ValueError, dist.DistError) as error:
        what = f"RANK={rank()} and WORLD_SIZE={world_size()}, but the processes do not find each other"
        reason = str(error).split("\n")[0]
        raise InputError(f"{what} ({reason}); start with torchrun, or unset RANK and WORLD_SIZE") from None
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others


def end(status: int) -> NoReturn:
    """End this process; after an error at once, as with threads that wait for the others a regular exit aborts."""
    if status and is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of the tensors that all processes give, without gradient."""
    if world_size() > 1:
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor)
    return tensor


class DifferentiableSum(Function):
    """The sum over processes; the gradient of what each gave is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return sum_over_processes(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient.contiguous())


def any_process(flag: bool) -> bool:
    """Return whether `flag` is set in one of the processes."""
    return flag if world_size() == 1 else bool(sum_over_processes(torch.tensor(int(flag))))


def gather(value: Any) -> list[Any]:
    """Return what every process gives, in the order of their ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Return what rank 0 gives."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 run the block before the others, which then find what it has downloaded or drawn."""
    if not is_main():
        any_process(False)
    yield
    if is_main():
        any_process(False)

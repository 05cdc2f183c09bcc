"""What ends a training before its time: signals, and errors of PyTorch's, explained in one line."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import torch

from common.errors import InputError
from training.options import TrainOptions


class Stopped(Exception):
    """A signal has stopped the training; what it had done is saved."""


class StopRequest:
    """Turns SIGTERM and SIGINT, in a `with` block, into a request to stop; a second SIGINT (Ctrl-C) stops at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        """Return whether a signal has come."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        self.signal = None
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


# What PyTorch's RuntimeErrors say.
WORKER_DIED, CPU_MEMORY = "DataLoader worker (pid", "can't allocate memory"
PROCESS_DIED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process", "NCCL")


@contextlib.contextmanager
def one_line_errors(options: TrainOptions) -> Iterator[None]:
    """Raise InputError for what PyTorch raises when memory, a data worker or another process fails."""
    try:
        yield
    except RuntimeError as error:
        if line := explained(error, options):
            raise InputError(f"{line}; --resume auto continues from the last checkpoint") from None
        raise


def explained(error: RuntimeError, options: TrainOptions) -> str | None:
    """Return what an error of PyTorch's means and what to do about it, or None for an unknown one."""
    text = str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or CPU_MEMORY in text:
        what, data = "out of memory" if CPU_MEMORY in text else text.split(". ")[0], options.data
        return (
            f"{what}; lower --batch-size ({data.batch_size}), --crop-size ({data.crop_size}) or --rloss-scale "
            f"({options.rloss_scale:g}), or raise --accumulate ({options.accumulate}), which keeps the batch, or "
            f"--out-stride ({options.out_stride})" + (", or try --amp bf16" if options.amp == "off" else "")
        )
    if WORKER_DIED in text:
        return (
            "a process that loads images was killed; where memory is short, lower --workers "
            f"({options.data.workers}); in a container, give it shared memory (docker run --ipc=host)"
        )
    if any(words in text for words in PROCESS_DIED):
        return f"another process of this training has ended, and its own message says why ({text.splitlines()[0]})"
    return None

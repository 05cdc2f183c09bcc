"""What ends a training before its time: signals, and what the machine does, explained in one line."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType

from common import faults
from training.options import TrainOptions


class Stopped(Exception):
    """A signal has stopped the training; what it had done is saved."""


class StopRequest:
    """Turns SIGTERM and SIGINT, in a `with` block, into a request to stop; a second SIGINT (Ctrl-C) stops at once.

    Outside the main thread, where Python hears no signals, it is none.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        """Return whether a signal has come."""
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        self.signal = None
        mine = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
        self._previous = {number: signal.signal(number, self._receive) for number in self.SIGNALS if mine}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal != signal.SIGINT:  # of which a second one counts, whatever comes between them
            self.signal = signal.Signals(number)


def one_line_errors(options: TrainOptions) -> contextlib.AbstractContextManager:
    """Raise InputError for what is raised when memory, a data worker, another process or a disk fails in training."""
    data = options.data
    lower = (
        f"lower --batch-size ({data.batch_size}), --crop-size ({data.crop_size}) or --rloss-scale "
        f"({options.rloss_scale:g}), or raise --accumulate ({options.accumulate}), which keeps the batch"
        + (", or take --out-stride 16" if options.backbone and options.out_stride < 16 else "")
        + (", or try --amp bf16" if options.amp == "off" else "")
    )
    then = "; --resume auto continues from the last checkpoint"
    return faults.one_line_errors(lower, f"--workers ({data.workers})", then)

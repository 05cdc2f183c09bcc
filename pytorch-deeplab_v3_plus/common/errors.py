"""The one exception for what a user can put right, and how the scripts report it."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

PACKAGES = {"torch", "torchvision", "numpy", "PIL", "tqdm", "tensorboardX", "matplotlib", "contourpy"}
PACKAGES |= {"bilateralfilter"}
"""Top-level modules of what requirements.txt and the filter install."""


class InputError(Exception):
    """Bad input: one line that says what was expected, what was found, in which file, and what to do."""

    def __str__(self) -> str:
        text = super().__str__().strip()
        # A DataLoader raises a worker's error again, with the worker's traceback as its message; the last line is ours.
        if text.startswith("Caught InputError in "):
            text = text.rsplit("\n", 1)[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        return text.replace("\n", "\\n")  # in the name of a file


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the script ends as at Ctrl-C, so that no file is left half written."""


@contextlib.contextmanager
def sigterm_as_error() -> Iterator[None]:
    """Raise Terminated at SIGTERM, unless somebody else handles it.

    Not among several processes: one that waits for another would not notice, and torchrun waits for it to end.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    mine = threading.current_thread() is threading.main_thread() and not launched
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def hangup_as_sigterm() -> Iterator[None]:
    """Take SIGHUP, which comes when a terminal is closed, for SIGTERM, unless nohup or somebody else handles it."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have SIGINT and SIGTERM wait for the end of the block, in which files that belong together get their places."""
    came: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if mine else ()
    previous = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def lost_signals_again() -> Iterator[None]:
    """Send SIGINT and SIGTERM again whose exception Python drops, as it does where they come while a process forks."""

    def send_again(lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()  # after the code that loses them
        else:
            hook(lost)

    hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's `main`; 2 after one line for bad input, a package that is not installed, or a machine that fails
    (see common.faults), 130 after Ctrl-C and 143 after SIGTERM or SIGHUP.

    Other errors, such as a mistaken import in somebody's own data set or loss, keep their traceback; with RLOSS_DEBUG=1
    in the environment, all do.
    """
    from common.faults import one_line_errors  # here, since that knows InputError

    try:
        with sigterm_as_error(), hangup_as_sigterm(), lost_signals_again(), one_line_errors():
            return main()
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except (InputError, ModuleNotFoundError) as error:
        advice = ""
        if isinstance(error, ModuleNotFoundError):
            if (error.name or "").split(".")[0] not in PACKAGES:
                raise
            advice = "; is everything installed? (make setup)"
        if os.environ.get("RLOSS_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"error: {error}{advice}", file=sys.stderr)
        return 2

"""Work on many files at once."""

import os
import signal
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.queues import Queue
from threading import Thread

from tqdm import tqdm

MOST = 8  # workers at a time: each holds an image, and more of them read no faster


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1, shared with those that torchrun started beside it."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cpus // max(1, int(text) if text.isdecimal() else 1))


def in_parallel(pool_type: type[Executor], work: Callable, *items: Collection, title: str, unit: str) -> Iterator:
    """Yield work(...) for the items in turn, several at a time, with a progress bar on a terminal.

    An error cancels what has not begun. Threads are for decoding, which releases the GIL; for the rest, processes.
    """
    start = follow_the_parent if pool_type is ProcessPoolExecutor else None
    pool = pool_type(max_workers=min(MOST, usable_cpus()), initializer=start)
    try:
        results = pool.map(work, *items, chunksize=4)
        yield from tqdm(results, total=len(items[0]), desc=title, unit=unit, disable=None, leave=False)
    finally:
        pool.shutdown(cancel_futures=True)


def follow_the_parent(*_: object) -> None:
    """Leave Ctrl-C to the main process, and end when that does, even where it is killed, or would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A result that cannot be sent, for want of memory or of open files, would be dropped with a traceback.
    Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))
    Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent_process().join()
    os._exit(1)

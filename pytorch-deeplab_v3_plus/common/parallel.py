"""Work on many files at once."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import Pipe, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from threading import RLock, Thread

from tqdm import tqdm

tqdm.monitor_interval = 0  # no thread that looks after bars: one may not start, and processes are forked here
tqdm.set_lock(RLock())  # only one process has bars: none needs a semaphore, which it would leave behind when killed
# Forked, as by default before Python 3.14: work and data need no pickling, and a worker's parent is who it works for.
WORKERS = get_context("fork" if sys.platform == "linux" else None)
MOST = 8  # workers at a time: each holds an image, and more of them read no faster


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1, shared with those that torchrun started beside it."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cpus // max(1, int(text) if text.isdecimal() else 1))


def in_threads(work: Callable, *items: Collection, title: str, unit: str) -> Iterator:
    """Yield work(...) for the items in turn, several at a time, with a progress bar on a terminal.

    An error cancels what has not begun. It is for decoding, which releases the GIL.
    """
    pool = ThreadPoolExecutor(max_workers=min(MOST, usable_cpus()))
    try:
        results = pool.map(work, *items)
        yield from tqdm(results, total=len(items[0]), desc=title, unit=unit, disable=None, leave=False)
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(work: Callable, items: Collection, title: str, unit: str) -> Iterator:
    """Yield work(item) for the items in turn as in_threads does, for work that holds the GIL.

    A pool of the standard library waits for ever where one of its threads cannot start for want of memory; here, the
    main process has none. Raises BrokenProcessPool where a process is killed.
    """
    count = min(MOST, usable_cpus(), len(items))
    shares = [list(items)[number::count] for number in range(count)]
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for share in shares:
            results, sending = Pipe(duplex=False)
            worker = WORKERS.Process(target=_work, args=(sending, work, share), daemon=True)
            worker.start()
            sending.close()  # here, so that the results end with the worker
            workers.append((worker, results))
        for index in tqdm(range(len(items)), desc=title, unit=unit, disable=None, leave=False):
            try:
                fine, result = workers[index % count][1].recv()
            except (EOFError, OSError):
                raise BrokenProcessPool(title) from None
            if not fine:
                raise result
            yield result
    finally:
        for worker, results in workers:
            worker.kill()
            worker.join()
            results.close()


def _work(results: Connection, work: Callable, items: Sequence) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the main process's handler is for that alone
    try:
        follow_the_parent()
        for item in items:
            results.send((True, work(item)))
    except Exception as error:
        with contextlib.suppress(Exception):  # memory may be too short for that as well
            results.send((False, ExceptionWithTraceback(error, error.__traceback__)))


def follow_the_parent(*_: object) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, and end when that does, even where it is killed, or would wait for
    ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in the threads that follow, too
        Thread(target=_end_at_the_parents_sigterm, daemon=True).start()
    # A result that cannot be sent, for want of memory or of open files, would be dropped with a traceback.
    Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))
    Thread(target=_end_with_the_parent, daemon=True).start()


def _end_at_the_parents_sigterm() -> None:
    # SLURM and systemd send it to every process of a job, where the main one still needs its workers to stop well.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _end_with_the_parent() -> None:
    parent_process().join()
    os._exit(1)

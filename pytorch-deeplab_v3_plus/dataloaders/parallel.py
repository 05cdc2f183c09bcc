"""Work on many files at once."""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor

from tqdm import tqdm


def in_parallel(pool_type: type[Executor], work: Callable, *items: Collection, title: str, unit: str) -> Iterator:
    """Yield work(...) for the items in turn, several at a time, with a progress bar on a terminal.

    An error cancels what has not begun. Threads are for decoding, which releases the GIL; for the rest, processes.
    """
    pool = pool_type(max_workers=min(16, os.cpu_count() or 1))
    try:
        results = pool.map(work, *items, chunksize=4)
        yield from tqdm(results, total=len(items[0]), desc=title, unit=unit, disable=None, leave=False)
    finally:
        pool.shutdown(cancel_futures=True)

"""What the machine does to a script, in one line: memory that runs out, processes that die, disks that take no more."""

import contextlib
import errno
import re
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from common.errors import InputError

# What errors say that have no type of their own, or have lost it on the way from a worker process.
MEMORY = (
    *("can't allocate memory", "Cannot allocate memory", "not enough memory", "std::bad_alloc", "MemoryError"),
    *("out of memory", "Failed to allocate memory", "can't start new thread", "failed to map segment"),
    "codec configuration error when writing",  # Pillow, of a PNG
    "could not create a primitive",  # oneDNN
    "STATUS_ALLOC_FAILED",  # cuDNN, cuBLAS
)
# Settings that only the filter, of a lattice that it cannot number, and the DenseCRF loss find too small for an image.
TOO_SMALL = ("use larger sigmas", "leaves nothing of")
WORKER_DIED = "DataLoader worker (pid"
PROCESS_DIED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process")
PROCESS_DIED += ("ncclRemoteError", "NCCL communicator was aborted", "Watchdog caught collective")
# What a system refuses, and what helps.
REFUSALS = {
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "free space or choose another folder",
    errno.EIO: "check the disk, or copy the file again",
    errno.ESTALE: "check the connection to the file server",
    errno.EMFILE: "lower --workers, or raise the limit (ulimit -n)",
    errno.ENFILE: "lower --workers, or raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "shorten the name",
}


def advice(error: Exception) -> str:
    """Return what helps where a file or folder could not be written."""
    return REFUSALS.get(getattr(error, "errno", None), "free space or choose another folder")


@contextlib.contextmanager
def one_line_errors(lower: str = "", workers: str = "", then: str = "") -> Iterator[None]:
    """Raise InputError for what Python, PyTorch and the system raise when memory, a process or a disk fails, and for
    settings that are too small for an image.

    `lower` says what takes less memory, `workers` which option has processes load images, `then` how to continue.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries have types of their own for want of memory
        if isinstance(error, ValueError) and any(words in str(error) for words in TOO_SMALL):
            raise InputError(str(error)) from None
        if line := explained(error, lower, workers):
            raise InputError(line + then) from None
        raise


def lacks_memory(error: Exception) -> bool:
    """Return whether memory, of the machine or of a GPU, ran out, and nothing is wrong with a file."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY)


def explained(error: Exception, lower: str, workers: str) -> str | None:
    """Return what an error of the machine means and what to do about it, or None for another one."""
    text = str(error).strip()
    last = text.split("\n")[-1]  # of the traceback, where the error comes from a worker
    if WORKER_DIED in text or isinstance(error, BrokenProcessPool):
        remedy = f"lower {workers}" if workers else "close other programs"
        what = f"a process that loads images was killed; where memory is short, {remedy}"
        return f"{what}; in a container, give it shared memory (docker run --ipc=host)"
    if not lacks_memory(error):
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            number, reason, file = error.errno, error.strerror, error.filename
            if number is None and (found := re.search(r"\[Errno (\d+)\] ([^:]*)(?:: '(.*)')?", last)):
                number, reason, file = int(found[1]), found[2], found[3]
            return f"{file or 'a file'}: {reason}; {REFUSALS[number]}" if number in REFUSALS else None
        if isinstance(error, RuntimeError | ConnectionError) and any(words in text for words in PROCESS_DIED):
            return f"another process of this training has ended, and its own message says why ({text.splitlines()[0]})"
        if isinstance(error, RuntimeError) and "NCCL error" in text:
            cause = " ".join(text.splitlines()[1:]) or text
            return f"the GPUs cannot exchange data ({cause}); NCCL_DEBUG=INFO says more; in a container, --ipc=host"
        return None
    what = text.splitlines()[0].split(". ")[0] if text.startswith("CUDA") else "out of memory"
    return f"{what}; {lower or 'close other programs, or use smaller images'}"

"""The log of a script: plain lines on standard output, warnings marked as such."""

import contextlib
import logging
import os
import sys


class LineFormatter(logging.Formatter):
    """One line for each message, with `WARNING: ` before a warning."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno == logging.WARNING:
            record.message = f"WARNING: {record.message}"
        return super().formatMessage(record)


def configure_logging(quiet: bool = False) -> None:
    """Send the log of this process to standard output; `quiet` leaves only errors.

    What the encoding of the output lacks, or a file name that is not in UTF-8, is escaped there, as in Python's errors.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as some daemons leave it: what is written there is lost
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with contextlib.suppress(AttributeError):  # of an output that is no text stream, as in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("matplotlib").setLevel(logging.ERROR if quiet else logging.WARNING)  # it looks for fonts
    logging.raiseExceptions = False  # no tracebacks behind `| head`, which leaves a closed pipe

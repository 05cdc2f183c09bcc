"""The log of a script."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger(__name__)


def configure_logging(quiet: bool = False) -> None:
    """Send the log of this process to standard output, plainly; `quiet` leaves only errors."""
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout, force=True)
    logging.raiseExceptions = False  # no tracebacks behind `| head`, which leaves a closed pipe

"""The one exception for what a user can put right, and how the scripts report it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input: one line that says what was expected, what was found, in which file, and what to do."""

    def __str__(self) -> str:
        # A DataLoader worker raises its error anew with the worker's traceback for a message; the last line is ours.
        return super().__str__().strip().rsplit("\n", 1)[-1].removeprefix(f"{InputError.__module__}.InputError: ")


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's `main`; 2 after one line for bad input or a missing package, 130 after Ctrl-C."""
    try:
        return main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}; is everything installed? (make setup)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

"""The one exception for what a user can put right, and how the scripts report it."""

import os
import sys
import traceback
from collections.abc import Callable

PACKAGES = {"torch", "torchvision", "numpy", "PIL", "tqdm", "tensorboardX", "matplotlib", "bilateralfilter"}
"""Top-level modules of what requirements.txt and the filter install."""


class InputError(Exception):
    """Bad input: one line that says what was expected, what was found, in which file, and what to do."""

    def __str__(self) -> str:
        # A DataLoader worker raises its error again, with the worker's traceback as its message; the last line is ours.
        return super().__str__().strip().rsplit("\n", 1)[-1].removeprefix(f"{InputError.__module__}.InputError: ")


def exit_status(main: Callable[[], int]) -> int:
    """Run a script's `main`; 2 after one line for bad input or a package that is not installed, 130 after Ctrl-C.

    Other errors, such as a mistaken import in somebody's own data set or loss, keep their traceback; with RLOSS_DEBUG=1
    in the environment, all do.
    """
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
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

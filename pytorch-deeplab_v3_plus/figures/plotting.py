"""What every figure drawn with Matplotlib shares."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import replace_file
from figures.fonts import families, warn_of_missing_characters


def plain_text(draw: Callable[..., None]) -> Callable[..., None]:
    """Decorate a function to draw its texts literally, not as mathematics, in fonts of any language."""

    @functools.wraps(draw)
    def with_plain_text(*args: Any, **kwargs: Any) -> None:
        from matplotlib import rc_context  # here, because matplotlib takes a second to import

        settings = {"text.parse_math": False, "font.family": families()}
        with rc_context(settings), warnings.catch_warnings():
            show = warnings.showwarning

            def show_once(message: Warning | str, *more: Any) -> None:
                if "missing from" in str(message):
                    warn_of_missing_characters()
                else:
                    show(message, *more)

            warnings.showwarning = show_once
            draw(*args, **kwargs)

    return with_plain_text


def new_figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure as PNG."""
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))

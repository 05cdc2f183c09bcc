"""What every figure drawn with Matplotlib shares."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.files import replace_file
from figures.fonts import families, font_file, warn_of_missing_characters


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Draw texts literally, not as mathematics, in fonts of any language; a function is decorated @plain_text()."""
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
        yield


def new_figure(width: float, height: float) -> Any:
    """Return an empty Matplotlib figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def text_width(text: str, size: float) -> float:
    """Return the width in inches of a text, of its longest line, at a font size in points."""
    from PIL import ImageFont

    font = ImageFont.truetype(font_file(text), 100)
    return max(font.getlength(line) for line in text.split("\n")) / 100 * size / 72


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure as PNG."""
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))

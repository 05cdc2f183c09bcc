"""What every figure drawn with Matplotlib shares."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import replace_file
from figures.fonts import families, font_file


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """Draw texts literally, not as mathematics, in fonts of any language; a function is decorated @plain_text().

    Everything else is as Matplotlib has it, whatever the user's matplotlibrc says.
    """
    from matplotlib import rc_context, style  # here, because matplotlib takes a second to import

    with style.context("default"), rc_context({"text.parse_math": False, "font.family": families()}):
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


def wrapped(text: str, width: float, size: float) -> str:
    """Return a text in lines of about `width` inches, at a font size in points."""
    text = " ".join(text.split())
    return textwrap.fill(text, max(10, int(len(text) * width / max(width, text_width(text, size)))))


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure in the format that the file's ending names; raise InputError for one that it cannot."""
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(f"expected a picture's ending ({', '.join(sorted(known))}), found {path}: name it otherwise")
    replace_file(path, lambda temporary: figure.savefig(temporary, format=kind))

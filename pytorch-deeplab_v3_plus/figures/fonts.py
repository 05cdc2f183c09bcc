"""Fonts that have the characters of class and file names, which may be in any language."""

import contextlib
import functools
import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # comes with Matplotlib: Latin, Greek, Cyrillic and more
# Common fonts of Linux, macOS and Windows with Chinese, Japanese or Korean characters.
OTHERS = (
    *("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Hiragino Sans", "Yu Gothic", "Meiryo"),
    *("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", "Malgun Gothic"),
    *("Noto Serif CJK JP", "IPAexMincho", "IPAMincho"),
)


@functools.cache
def families() -> list[str]:
    """Return the installed font families to draw with, the preferred one first."""
    from matplotlib import font_manager  # here, because it takes a while to import

    listed = {font.fname for font in font_manager.fontManager.ttflist}
    for file in sorted(set(font_manager.findSystemFonts()) - listed):  # installed since Matplotlib made its list
        with contextlib.suppress(OSError, RuntimeError):  # one that it cannot read
            font_manager.fontManager.addfont(file)
    installed = set(font_manager.get_font_names())
    return [DEFAULT, *(name for name in OTHERS if name in installed)]


@functools.cache
def _characters(family: str) -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(font_manager.findfont(family)).get_charmap())


def font_file(text: str) -> str:
    """Return the file of the first font that has every character of `text`, or else of the best one."""
    from matplotlib import font_manager

    return font_manager.findfont(min(families(), key=lambda family: len(set(map(ord, text)) - _characters(family))))


def drawable(text: str, otherwise: str | None = None) -> str:
    """Return a text with `?` for each character that no font has, or `otherwise` in its place; warn, once, of that."""
    missing = [letter for letter in text if not any(ord(letter) in _characters(family) for family in families())]
    if not set(missing) - {"\n"}:
        return text
    warn_of_missing_characters()
    return otherwise or "".join("?" if letter in missing and letter != "\n" else letter for letter in text)


def drawable_names(class_names: Sequence[str]) -> list[str]:
    """Return class names as they can be drawn: `class 3` where no font has the characters of a name."""
    return [drawable(name, f"class {k}") for k, name in enumerate(class_names)]


@functools.cache
def warn_of_missing_characters() -> None:
    """Warn, once, that pictures show something else in place of names."""
    logger.warning(
        "no installed font has all characters of the names: pictures call such classes by their numbers; for their "
        "names install one of %s (on Ubuntu: apt-get install fonts-noto-cjk)",
        ", ".join(OTHERS[:3]),
    )

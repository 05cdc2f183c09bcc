"""Fonts that have the characters of class and file names, which may be in any language."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # comes with Matplotlib; Latin, Greek, Cyrillic and more
# Common fonts of Linux, macOS and Windows with Chinese, Japanese or Korean characters.
OTHERS = (
    *("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Hiragino Sans", "Yu Gothic", "Meiryo"),
    *("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", "Malgun Gothic"),
)


@functools.cache
def families() -> list[str]:
    """Return the font families to draw with, in this order, as far as they are installed."""
    from matplotlib import font_manager  # here, since it takes a while to import

    installed = set(font_manager.get_font_names())
    return [DEFAULT, *(name for name in OTHERS if name in installed)]


def font_file(text: str) -> str:
    """Return the file of the first font that has every character of `text`, or else the one that has the most."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    files = [font_manager.findfont(family) for family in families()]
    characters = set(map(ord, text))
    missing = [len(characters - FT2Font(file).get_charmap().keys()) for file in files]
    if min(missing):
        say_that_characters_are_missing()
    return files[missing.index(min(missing))]


@functools.cache
def say_that_characters_are_missing() -> None:
    """Say so, once."""
    logger.warning(
        "no font here has all characters of the names, and pictures show boxes in their place: install one of "
        "%s (on Ubuntu: apt-get install fonts-noto-cjk), and delete Matplotlib's list of fonts in ~/.cache/matplotlib",
        ", ".join(OTHERS[:3]),
    )

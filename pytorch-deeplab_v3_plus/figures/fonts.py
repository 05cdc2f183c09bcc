"""Fonts that have the characters of class and file names, which may be in any language."""

import functools
import logging

logger = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # comes with Matplotlib: Latin, Greek, Cyrillic and more
# Common fonts of Linux, macOS and Windows with Chinese, Japanese or Korean characters.
OTHERS = (
    *("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Hiragino Sans", "Yu Gothic", "Meiryo"),
    *("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", "Malgun Gothic"),
)


@functools.cache
def families() -> list[str]:
    """Return the installed font families to draw with, the preferred one first."""
    from matplotlib import font_manager  # here, because it takes a while to import

    installed = set(font_manager.get_font_names())
    return [DEFAULT, *(name for name in OTHERS if name in installed)]


def font_file(text: str) -> str:
    """Return the file of the first font that has every character of `text`, or else of the best one."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    files = [font_manager.findfont(family) for family in families()]
    characters = set(map(ord, text))
    missing = [len(characters - FT2Font(file).get_charmap().keys()) for file in files]
    if min(missing):
        warn_of_missing_characters()
    return files[missing.index(min(missing))]


@functools.cache
def warn_of_missing_characters() -> None:
    """Warn, once, that pictures show boxes in place of characters."""
    logger.warning(
        "no installed font has all characters of the names, and pictures show boxes in their place: install one of "
        "%s (on Ubuntu: apt-get install fonts-noto-cjk), and delete Matplotlib's list of fonts in ~/.cache/matplotlib",
        ", ".join(OTHERS[:3]),
    )

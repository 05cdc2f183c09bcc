"""Names of classes: which are one, which mean the background or no class at all, and in which order they go."""

import logging
import re
import unicodedata
from collections.abc import Sequence

from common.errors import InputError
from dataloaders.labels import PADDING

logger = logging.getLogger(__name__)

# As letters and digits alone, in lower case: "_background_" and "Back Ground" are among them.
BACKGROUND_NAMES = ("background", "bg", "背景", "배경", "фон", "hintergrund", "fond", "fondo", "sfondo")
_COMMENT = re.compile(r"\s*#(\s|$)")
_OTHER_LIST = re.compile(r"\s*([\[{]|- |0\s*[:,;=])")  # how a list in JSON, YAML or CSV begins
UNLABELLED_NAMES = ("unlabelled", "unlabeled", "unannotated", "ignore", "ignored", "void", "dontcare")


def tidy(name: str) -> str:
    """Return a name as classes.txt holds it: composed Unicode (NFC), one space between words, nothing at the ends."""
    words = (word.strip("\ufeff\u200b") for word in unicodedata.normalize("NFC", name).split())
    return " ".join(filter(None, words))


def same_name(name: str) -> str:
    """Return what two spellings of one class share: all but upper and lower case, spaces and Unicode form."""
    visible = "".join(letter for letter in tidy(name) if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", visible.casefold())


def is_background(name: str) -> bool:
    """Whether a name is one of the usual ones of the background."""
    return _letters(name) in BACKGROUND_NAMES


def is_unlabelled(name: str) -> bool:
    """Whether a name is one of the usual ones for pixels without a class."""
    return _letters(name) in UNLABELLED_NAMES


def check_form(names: Sequence[str], where: object) -> None:
    """Raise InputError for names that are comments, or how a list in another form begins."""
    others = [name for name in names if _COMMENT.match(name)] or [name for name in names[:1] if _OTHER_LIST.match(name)]
    if others:
        raise InputError(
            f"expected one class name a line, found '{others[0]}' in {where}: leave out comments, brackets and "
            "punctuation marks"
        )


def check_class_names(names: Sequence[str], where: object) -> None:
    """Raise InputError unless label maps can be numbered by a list of class names; `where` says whose it is.

    That is: 2 to 254 names, each once whatever its spelling, none for unlabelled pixels, and the background first. A
    list without one is allowed: its class 0 is a class like any other.
    """
    if not 2 <= len(names) <= PADDING:
        raise InputError(
            f"expected 2 to {PADDING} classes, found {len(names)} in {where}: one class a line, the background first"
        )
    check_form(names, where)
    known: dict[str, str] = {}
    for number, name in enumerate(names):
        if not tidy(name) or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in tidy(name)):
            raise InputError(f"expected class names that can be printed, found {name!r} in {where}: rename it")
        if is_unlabelled(name):
            raise InputError(
                f"expected classes, found '{name}' as class {number} in {where}: unlabelled pixels have the value 255, "
                "not a class; take the name out and number the label maps without it"
            )
        if is_background(name) and number:
            raise InputError(
                f"expected the background first, as class 0, found '{name}' as class {number} in {where}: move it up, "
                "and number the label maps accordingly (import_scribbles.py masks does)"
            )
        key = same_name(name)
        if key in known:
            raise InputError(
                f"expected each class once, found '{known[key]}' and '{name}' in {where}: names that differ by case, "
                "spaces or Unicode form alone are one class; rename or remove one"
            )
        known[key] = name


def arranged(names: Sequence[str], where: object) -> tuple[str, ...]:
    """Return class names in the order of the label values that will be drawn for them, and say what was changed.

    The background goes first, and names for unlabelled pixels are no classes. Raises InputError as check_class_names.
    """
    dropped = [name for name in names if is_unlabelled(name)]
    found = [tidy(name) for name in names if name not in dropped]
    kept = sorted(found, key=lambda name: not is_background(name))
    check_class_names(kept, where)
    if dropped:
        logger.info("%s: no class, but unlabelled pixels: %s", where, ", ".join(dropped))
    if kept != found:
        logger.info("%s: '%s' becomes class 0, the background", where, kept[0])
    if not is_background(kept[0]):
        logger.warning("%s: no class is called background: class 0, '%s', is a class like any other", where, kept[0])
    return tuple(kept)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))

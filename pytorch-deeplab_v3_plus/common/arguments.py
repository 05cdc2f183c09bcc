"""Options as data: dataclass fields that know how they look on a command line, and the parsers of their values."""

import argparse
import dataclasses
import difflib
import inspect
import itertools
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Any, NoReturn, TypeVar

from common.errors import InputError

Options = TypeVar("Options")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one and the help text does not name it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or "(default:" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """Show defaults in --help, and raise InputError for a command line that does not parse, or has an empty word.

    In the names of options, `_` and `-` are the same.
    """

    def __init__(self, *names: Any, formatter_class: type = HelpFormatter, **how: Any) -> None:
        super().__init__(*names, formatter_class=formatter_class, **how)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return super().parse_known_args(self._words(args), namespace)

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        return super().parse_intermixed_args(self._words(args), namespace)

    def _words(self, args: Sequence[str] | None) -> Sequence[str]:
        words = sys.argv[1:] if args is None else args
        for before, word in itertools.pairwise(["", *words]):
            if not word or re.fullmatch(r"--[^=]*=", word):
                where = before if before.startswith("--") and not word else word or "the command line"
                raise InputError(f"{where}: expected a value, found an empty word (a variable that is not set?)")
        return [self._as_declared(word) if word.startswith("--") else word for word in words]

    def _as_declared(self, word: str) -> str:
        """Return a word that begins with the name of an option, or its first letters, as the option is spelled."""
        name, equals, value = word.partition("=")
        names = [one for one in self._option_string_actions if _hyphened(one).startswith(_hyphened(name))]
        return min(names, key=len, default=name)[: len(name)] + equals + value

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        near = difflib.get_close_matches(unknown, self._option_string_actions, 1, cutoff=0.8)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"{message} ({hint}--help lists the options)")


def _hyphened(name: str) -> str:
    return name.replace("_", "-")


def option(default: Any, help: str, *names: str, **how: Any) -> Any:
    """Return a dataclass field that add_options makes an option of the command line.

    `help` is its line in --help, `names` are its spellings (by default --name-of-the-field), and `how` are further
    arguments of argparse's add_argument (type, choices, metavar, nargs, action).
    """
    return dataclasses.field(default=default, metadata={"names": names, "help": help, **how})


def switch(help: str, *names: str, default: bool | None = False) -> Any:
    """Return a boolean option that works bare and followed by True or False."""
    return option(default, help, *names, **SWITCH)


def flag(help: str) -> Any:
    """Return a boolean option that takes no value, and so may stand before a positional argument."""
    return option(False, help, action="store_true")


def add_options(parser: argparse.ArgumentParser, options: type, *, only: Collection[str] | None = None) -> None:
    """Add the options that a dataclass and its bases declare (all, or `only` those fields).

    Each class makes a group, titled by the first line of its docstring.
    """
    known = {field.name: field for field in dataclasses.fields(options)}
    for owner in reversed(options.__mro__):
        fields = [known[name] for name in inspect.get_annotations(owner) if known[name].metadata]
        fields = [field for field in fields if only is None or field.name in only]
        group = parser.add_argument_group(owner.__doc__.split("\n")[0].rstrip(".")) if fields else parser
        for field in fields:
            how = dict(field.metadata)
            names = how.pop("names") or (f"--{field.name.replace('_', '-')}",)
            group.add_argument(*names, dest=field.name, default=field.default, **how)


def options_from(options: type[Options], namespace: argparse.Namespace, **more: Any) -> Options:
    """Return the dataclass `options` with the values that were parsed for its fields, and `more` of them.

    Lists, which argparse makes of several words, become tuples.
    """
    names = {field.name for field in dataclasses.fields(options)} & vars(namespace).keys()
    values = {name: getattr(namespace, name) for name in names}
    return options(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} | more)


def check_values(options: Any) -> None:
    """Raise InputError for a field of an options dataclass whose value its command-line option would not take."""
    for field in dataclasses.fields(options):
        value, parse = getattr(options, field.name), field.metadata.get("type")
        choices = field.metadata.get("choices")
        try:
            if choices is not None and value not in choices and value != field.default:
                raise argparse.ArgumentTypeError(f"expected one of {', '.join(map(str, choices))}, found {value!r}")
            several, kind = isinstance(value, tuple | list), str(field.type)
            if "tuple" in kind and value is not None and not several:
                raise argparse.ArgumentTypeError(f"expected a tuple, found {value!r}")
            for one in value if several else (value,):
                if isinstance(one, str) and "str" not in kind:  # as which YAML reads 2e-9, for want of a point
                    raise argparse.ArgumentTypeError(f"expected a number or a truth value, found the text {one!r}")
                if parse is not None and isinstance(one, Real) and not isinstance(one, bool):
                    parse(str(one))
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--{field.name.replace('_', '-')}: {error}") from None


def boolean(text: str) -> bool:
    """Parse `True` or `False` in any spelling that people use for them."""
    value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return value


SWITCH: dict[str, Any] = {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}


def has_square(value: float) -> bool:
    """Return whether a number is 0, or its square one in single precision."""
    return value == 0 or 1e-18 <= abs(value) <= 1e18


def number(kind: type, low: float, *, above: bool = False, high: float = math.inf) -> Callable[[str], int | float]:
    """Return a parser for numbers of `kind` that are >= low (> low with `above`) and <= high.

    Integers have 63 bits. Other numbers have squares in single precision: they are 0, or within 1e-18 and 1e18.
    """
    bounds = f"{'greater than' if above else 'of at least'} {low:g}"
    bounds += f" and at most {high:g}" if high < 1e308 else ""
    what, limit = ("an integer", 2**63) if kind is int else ("a number", math.inf)

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # which lies in no range
        if not (low < value if above else low <= value) or not (value <= high and value < limit):
            raise argparse.ArgumentTypeError(f"expected {what} {bounds}, found {text!r}")
        if kind is float and not has_square(value):
            raise argparse.ArgumentTypeError(f"expected 0, or a number within 1e-18 and 1e18, found {text!r}")
        return value

    return parse


PIXELS: dict[str, Any] = {"type": number(int, 1, high=2**16), "metavar": "PIXELS"}
COUNT: dict[str, Any] = {"type": number(int, 1), "metavar": "N"}


def integers(text: str) -> tuple[int, ...]:
    """Parse comma-separated integers, each 0 or more and given once."""
    numbers = tuple(number(int, 0)(part) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"expected each number once, found {text!r}")
    return numbers

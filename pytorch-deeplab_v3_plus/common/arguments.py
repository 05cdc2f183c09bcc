"""Parsers of single command-line values, and switches."""

from __future__ import annotations

import argparse
from typing import Any


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one and the help text does not name it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or "(default:" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


def boolean(text: str) -> bool:
    """Parse `True` or `False` in any spelling that people use for them."""
    value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return value


def number(kind: type, low: float, *, above: bool = False, high: float = float("inf")):
    """Return a parser for numbers of `kind` that are >= low (> low with `above`) and <= high; integers of 63 bits."""
    bounds = f"{'greater than' if above else 'at least'} {low:g}" + (f" and at most {high:g}" if high < 1e308 else "")

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if kind is int and value is not None and value >= 2**63:
            value = None
        if value is None or not (value > low if above else value >= low) or not value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(
                f"expected {'an integer' if kind is int else 'a number'} {bounds}, found {text!r}"
            )
        return value

    return parse


def named_weight(text: str) -> tuple[str, float]:
    """Parse `NAME=WEIGHT`."""
    name, _, weight = text.partition("=")
    try:
        return name, number(float, 0)(weight)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected NAME=WEIGHT with a weight of 0 or more, found {text!r}") from None


def integers(text: str) -> list[int]:
    """Parse comma-separated integers, each 0 or more and given once."""
    numbers = [number(int, 0)(part) for part in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"expected each number once, found {text!r}")
    return numbers


def add_switch(group: Any, *names: str, help: str, default: bool | None = False) -> None:
    """Add a boolean option that works bare and with True or False behind it."""
    group.add_argument(*names, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=help)

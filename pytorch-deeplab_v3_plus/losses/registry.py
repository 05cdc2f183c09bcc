"""Regularisers by name."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import InputError

Builder = Callable[[float, Any], nn.Module]

REGULARISERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a builder `(weight, options) -> module` under `name`."""

    def decorate(builder: Builder) -> Builder:
        if name in REGULARISERS:
            raise ValueError(f"a regulariser named {name!r} is registered already")
        REGULARISERS[name] = builder
        return builder

    return decorate


def build_regulariser(name: str, weight: float, options: Any) -> nn.Module:
    """Build the regulariser called `name`, registered or in a file `losses/<name>.py`."""
    if name not in REGULARISERS and name.isidentifier() and importlib.util.find_spec(f"losses.{name}"):
        importlib.import_module(f"losses.{name}")
    if name not in REGULARISERS:
        files = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])} - {
            "cross_entropy",
            "registry",
        }
        raise InputError(
            f"no regulariser is called {name!r}; there are: {', '.join(sorted(files | set(REGULARISERS)))}"
        )
    return REGULARISERS[name](weight, options)

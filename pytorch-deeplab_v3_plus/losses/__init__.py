"""Losses: the cross-entropies, and regularisers by name.

A regulariser is any `nn.Module` called as `(image, probabilities, region_of_interest) -> scalar`, with image
(N, 3, H, W) in 0..255, probabilities (N, K, H, W) and region_of_interest (N, H, W) bool. The trainer knows nothing else
about it.
Register a builder to make one available as `--regulariser NAME=WEIGHT`:

    @register("my_loss")
    def build(weight, options):          # options: the parsed command line
        return MyLoss(weight)

A file `losses/my_loss.py` that does so is found by its name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import nn

from errors import InputError

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
    if name not in REGULARISERS and name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}"):
        importlib.import_module(f"{__name__}.{name}")
    if name not in REGULARISERS:
        files = {module.name for module in pkgutil.iter_modules(__path__)} - {"cross_entropy"}
        raise InputError(
            f"no regulariser is called {name!r}; there are: {', '.join(sorted(files | set(REGULARISERS)))}"
        )
    return REGULARISERS[name](weight, options)

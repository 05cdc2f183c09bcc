"""Regularised losses by name, each with settings of its own.

A regulariser is one file, losses/NAME.py, with one class:

    class NAME(nn.Module):
        def __init__(self, weight: float, *, radius: int = 5):
        def forward(self, image, probabilities, region_of_interest):

What its constructor takes by keyword are its settings: `--regulariser NAME=0.1,radius=3`. `forward` returns a scalar,
already weighted, a mean over images, of

    image                (N, 3, H, W), float32, RGB in 0..255
    probabilities        (N, K, H, W), float32, the softmax of the logits
    region_of_interest   (N, H, W), bool, False in the padding of the crops

and, where `forward` names them, of any of

    labels               (N, H, W), int64, 255 where there is none
    logits               (N, K, H, W), float32
    features             (N, C, h, w), what the network's classifier sees
    lattices             a dict with the `kernel`, an attribute, of regularisers that have the same one: None, or
                         what the first of them puts there for the others

A regulariser that computes on smaller probabilities than these can have two methods besides. Training then calls them
instead of `forward`, and never has the probabilities of the entire batch at full size:

    rescale(probabilities)              what of `forward` is done image by image: (n, K, H, W) of some images in,
                                        (n, ...) out
    forward_rescaled(image, rescaled, region_of_interest):
                                        what `forward` returns, for what `rescale` does to the probabilities
"""

import argparse
import importlib
import importlib.util
import inspect
import math
import pkgutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from types import SimpleNamespace
from typing import Any, get_args

from torch import Tensor, nn

import losses
from common.arguments import boolean, has_square
from common.errors import InputError

INPUTS = ("labels", "logits", "features", "lattices")  # what `forward` may name beside the three that it always gets
FIRST = ("image", "probabilities", "region_of_interest")  # those three, in this order
SETTING_TYPES = (bool, int, float, str)

OTHER_FILES = {"cross_entropy", "options", "registry"}
Rescale = Callable[[Tensor], Tensor]
FACTORIES: dict[str, Callable[..., nn.Module]] = {}


@dataclass(frozen=True)
class RegulariserOptions:
    """A regulariser that was asked for, with those of its settings that were given."""

    name: str
    weight: float
    settings: Mapping[str, Any] = field(default_factory=dict)


def register(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Return a decorator that makes a class or function available as `name`, in place of the class of losses/NAME.py.

    It is called as the class would be. A second positional parameter gets the options of the training, as attributes.
    """

    def decorate(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in FACTORIES:
            raise ValueError(f"a regulariser named {name!r} is registered already")
        FACTORIES[name] = factory
        return factory

    return decorate


def regulariser_names() -> list[str]:
    """Return the names that --regulariser takes."""
    files = {module.name for module in pkgutil.iter_modules(losses.__path__) if not module.name.startswith("_")}
    return sorted(files - OTHER_FILES | FACTORIES.keys())


def find_regulariser(name: str) -> Callable[..., nn.Module]:
    """Return what builds the regulariser `name`, or raise InputError."""
    if name not in FACTORIES:
        if name not in regulariser_names():
            raise InputError(f"regulariser: expected one of {', '.join(regulariser_names())}, found {name!r}")
        module = importlib.import_module(f"{losses.__name__}.{name}")
        if name not in FACTORIES:
            FACTORIES[name] = _only_class(module)
    return FACTORIES[name]


def _only_class(module: Any) -> type[nn.Module]:
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    modules = [value for value in own if isinstance(value, type) and issubclass(value, nn.Module)]
    classes = [value for value in modules if "weight" in inspect.signature(value).parameters]
    if len(classes) != 1:
        what = "one nn.Module whose constructor takes a weight"
        raise InputError(f"{module.__file__}: expected {what}, found {len(classes)}")
    return classes[0]


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of the regulariser `name` with their defaults."""
    return {p.name: p.default for p in _settings(name).values()}


def _settings(name: str) -> dict[str, Parameter]:
    parameters = inspect.signature(find_regulariser(name), eval_str=True).parameters
    return {p.name: p for p in parameters.values() if p.kind is p.KEYWORD_ONLY}


def parse_regulariser(text: str) -> RegulariserOptions:
    """Parse NAME=WEIGHT or NAME=WEIGHT,SETTING=VALUE,...; a value has the type of the setting's default.

    Raises InputError for an unknown name or setting, or a value of another type.
    """
    (name, _, first), *others = ([word.strip() for word in part.partition("=")] for part in text.split(","))
    weight = _value(first, float, text)
    if not 0 <= weight < float("inf"):
        raise InputError(f"expected NAME=WEIGHT with a weight of 0 or more, found {text!r}")
    known, settings = _settings(name), {}
    for setting, _, value in others:
        if setting not in known:
            names = ", ".join(known) or "none"
            there = setting in inspect.signature(find_regulariser(name)).parameters
            advice = f"; write `*,` before {setting} in its constructor, which makes it one" if there else ""
            raise InputError(f"{name} has no setting {setting!r}; it has: {names} (in {text!r}){advice}")
        if setting in settings:
            raise InputError(f"expected each setting once, found {setting} twice in {text!r}")
        settings[setting] = _value(value, _type(name, known[setting]), text)
    missing = [setting for setting, p in known.items() if p.default is p.empty and setting not in settings]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}: give {name}=WEIGHT,{missing[0]}=VALUE, found {text!r}")
    return RegulariserOptions(name, weight, settings)


def _type(name: str, setting: Parameter) -> type:
    """Return the type of a setting: that of its default; where that is None or missing, what its annotation says."""
    kinds = {type(setting.default)}
    if setting.default in (None, Parameter.empty):
        kinds = {*(get_args(setting.annotation) or [setting.annotation])} - {type(None)}  # `int | None` is an int
    if len(kinds) != 1 or not kinds <= {*SETTING_TYPES}:
        expected = ", ".join(kind.__name__ for kind in SETTING_TYPES)
        raise InputError(f"{name}: expected a setting of {expected} by its default or annotation, found `{setting}`")
    return kinds.pop()


def _value(text: str, kind: type, given: str) -> Any:
    try:
        if kind is bool:
            return boolean(text)
        value = kind(text)
        if kind is float and math.isfinite(value) and not has_square(value):
            raise InputError(f"expected 0, or a number within 1e-18 and 1e18, found {text!r} in {given!r}")
        return value
    except (ValueError, argparse.ArgumentTypeError):
        expected = {bool: "True or False", int: "an integer", float: "a number"}.get(kind, kind.__name__)
        raise InputError(f"expected {expected}, found {text!r} in {given!r}") from None


def build_regulariser(wanted: RegulariserOptions, options: Mapping[str, Any]) -> nn.Module:
    """Build a regulariser; `options`, those of the training by name, are for builders that take them (see register)."""
    factory = find_regulariser(wanted.name)
    positional = [p for p in inspect.signature(factory).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    more = [SimpleNamespace(**options)] if len(positional) > 1 and positional[1].default is Parameter.empty else []
    return factory(wanted.weight, *more, **wanted.settings)


def apply_regulariser(
    regulariser: Callable[..., Tensor], image: Tensor, probabilities: Tensor, region: Tensor, **inputs: Tensor
) -> Tensor:
    """Call a regulariser, or its `forward_rescaled`, with those of `inputs` (see INPUTS) that it names.

    Raises InputError where it takes the first three in another order, or returns something else than a scalar.
    """
    names, kind = _names(regulariser), type(getattr(regulariser, "__self__", regulariser)).__name__
    if any(name in names and names.index(name) != place for place, name in enumerate(FIRST)):
        raise InputError(f"{kind}: expected forward({', '.join(FIRST)}, ...) in this order, found ({', '.join(names)})")
    named = {name: inputs[name] for name in INPUTS if name in names[3:]}
    loss = regulariser(image, probabilities, region, **named)
    if not isinstance(loss, Tensor) or loss.dim():
        found = f"the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise InputError(f"{kind}: expected forward to return a scalar, a tensor without dimensions, found {found}")
    return loss


def takes(regulariser: Callable[..., Tensor], name: str) -> bool:
    """Return whether a regulariser names the input `name` behind the three that it is always given."""
    return name in _names(regulariser)[3:]


def _names(regulariser: Callable[..., Tensor]) -> list[str]:
    function = regulariser.forward if isinstance(regulariser, nn.Module) else regulariser
    return list(inspect.signature(function).parameters)


def in_stages(regulariser: nn.Module) -> tuple[Rescale, Callable[..., Tensor]]:
    """Return what a regulariser does with the probabilities image by image, and what it does with the result."""
    # A class derived from such a regulariser may have a `forward` of its own, which then counts.
    methods = (vars(kind).keys() & {"forward", "forward_rescaled"} for kind in type(regulariser).__mro__)
    if "forward_rescaled" in next(filter(None, methods), ()):
        return regulariser.rescale, regulariser.forward_rescaled
    return unchanged, regulariser


def unchanged(probabilities: Tensor) -> Tensor:
    """Return the probabilities."""
    return probabilities


def describe_regularisers() -> str:
    """Return a text that lists every regulariser: the docstring of its class, its settings and their defaults."""
    lines = []
    for name in regulariser_names():
        try:
            text = inspect.cleandoc(find_regulariser(name).__doc__ or "no description")
        except Exception as error:  # of somebody's own file, which must not hide the others
            lines.append(f"{name}: cannot be used: {error!r}")
            continue
        defaults = "\n".join(f"{setting}={default}" for setting, default in settings_of(name).items())
        more = "\n".join(
            [*text.splitlines()[1:], *(["", "Defaults:", textwrap.indent(defaults, "    ")] * bool(defaults))]
        )
        lines += [f"{name}: {text.splitlines()[0]}", textwrap.indent(more, "    "), ""]
    return "\n".join(lines)

"""Reading checkpoints without executing pickled code, and loading them strictly."""

import codecs
import os
import pickle
import types
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import InputError
from modeling.networks import DEFAULT_NETWORK, build_network, network_class


def _numpy_scalar(dtype: np.dtype, data: bytes) -> float:
    """Stand in for the function by which old files spell a NumPy scalar."""
    return float(np.frombuffer(data, dtype)[0])


def _named(function: Any, module: str, name: str) -> Any:
    """Return a copy of `function` that pickles under another name."""
    copy = types.FunctionType(function.__code__, function.__globals__)
    copy.__module__, copy.__name__, copy.__qualname__ = module, name, name
    return copy


# NumPy 1 and 2.
_SCALARS = [_named(_numpy_scalar, f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")]


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint, ours or one that the original's authors published, onto the CPU.

    Raises:
        InputError: the file is missing, cut off, or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    # The originals' `best_pred` is a NumPy scalar. These names only build a number: no foreign code runs.
    torch.serialization.add_safe_globals(
        [*_SCALARS, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, codecs.encode]
    )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch does not look at the check sums
                    raise ValueError("a check sum is wrong")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: expected tensors and numbers, found a damaged file or one with pickled code, which is not run"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path}: not a whole PyTorch checkpoint ({reason}); was it cut off or damaged in copying?"
        ) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{path}: expected a checkpoint with a 'state_dict', found none")
    if not all(isinstance(key, str) for key in checkpoint["state_dict"]) or not isinstance(
        checkpoint.get("model", {}), dict
    ):
        raise InputError(f"{path}: expected weights by name, and 'model' a dict of settings if anything; found others")
    prefix = "module."  # left by DataParallel in files that saved the wrapper
    checkpoint["state_dict"] = {key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items()}
    return checkpoint


def load_weights(
    model: nn.Module, state_dict: dict[str, torch.Tensor], source: Any, *, new_classifier: bool = False
) -> list[str]:
    """Load `state_dict` into `model` strictly.

    With `new_classifier`, the last layer of another class count is left as it was initialised.

    Returns:
        The keys that were left as they were.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ; `source` is named.
    """
    own = model.state_dict()
    differing = [key for key in state_dict if key in own and own[key].shape != state_dict[key].shape]
    classifier = [key for key in differing if key in model.classifier_keys]
    if classifier and classifier == differing:
        if not new_classifier:
            found, expected = (len(weights[classifier[0]]) for weights in (state_dict, own))
            raise InputError(
                f"{source}: trained for {found} classes, but {expected} are expected; --ft starts a new classifier"
            )
        state_dict = {**state_dict, **{key: own[key] for key in classifier}}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        problems = " ".join(line.strip() for line in str(error).split("\n")[1:])
        raise InputError(f"{source}: does not fit this network; is --backbone right? {shortened(problems)}") from None
    return classifier


def class_mismatch(settings: dict[str, Any], class_names: Sequence[str]) -> str | None:
    """Say which class differs from that of a network's training, as far as its settings (`model`) know them."""
    for number, (theirs, ours) in enumerate(zip(settings.get("class_names", ()), class_names, strict=False)):
        if theirs != ours:
            return f"was trained with class {number} '{theirs}', but here it is '{ours}'"
    return None


def load_network(
    path: str | os.PathLike[str],
    backbone: str | None = None,
    num_classes: int | None = None,
    output_stride: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network of a checkpoint.

    Its settings come from the checkpoint; a file without them (the original's) takes the arguments, or else a resnet at
    stride 16 with the classes that its weights have. Another stride may be asked for; another backbone or class count
    is an error.

    Returns:
        The network on the CPU, and its settings: network, backbone, num_classes, output_stride and, where the
        checkpoint has them, class_names and crop_size.
    """
    checkpoint = load_checkpoint(path)
    weights = checkpoint["state_dict"]
    settings = {"network": DEFAULT_NETWORK, **checkpoint.get("model", {})}
    classifier = network_class(settings["network"]).classifier_keys[0]
    if "num_classes" not in settings and classifier in weights:
        settings["num_classes"] = len(weights[classifier])
    for name, option, asked in (("backbone", "--backbone", backbone), ("num_classes", "--n_class", num_classes)):
        if asked is not None and settings.setdefault(name, asked) != asked:
            raise InputError(f"{path}: its {name.replace('_', ' ')} is {settings[name]}, but {option} says {asked}")
    settings = {"num_classes": 21, "backbone": "resnet", "output_stride": 16, **settings}
    model = build_network({**settings, "output_stride": output_stride or settings["output_stride"]})
    settings["output_stride"] = model.output_stride
    load_weights(model, weights, path)
    return model, settings


def shortened(text: str, length: int = 400) -> str:
    """Return `text`, cut after `length` characters."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"

"""Reading checkpoints without executing pickled code, and loading them strictly."""

import codecs
import hashlib
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.faults import lacks_memory
from common.files import why
from modeling.backbone import BACKBONES, OUTPUT_STRIDES
from modeling.caffemodel import SUFFIX
from modeling.networks import DEFAULT_NETWORK, NETWORKS, build_network, checkpoint_of_caffemodel, network_class
from modeling.weights import is_plain, not_finite


def _numpy_scalar(core: str) -> Callable[[np.dtype, bytes], float]:
    """Stand in, under its name, for the function by which old files spell a NumPy scalar."""

    def scalar(dtype: np.dtype, data: bytes) -> float:
        return float(np.frombuffer(data, dtype)[0])

    scalar.__module__, scalar.__qualname__ = f"numpy.{core}.multiarray", "scalar"
    return scalar


# The originals' `best_pred` is a NumPy scalar, of NumPy 1 or 2. These names only build a number: no foreign code runs.
SAFE_GLOBALS = [_numpy_scalar("core"), _numpy_scalar("_core"), codecs.encode]
SAFE_GLOBALS += [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]


# What wrappers put before the names of the weights: DataParallel and DistributedDataParallel, and torch.compile.
PREFIXES = ("module.", "_orig_mod.")
# Where files of others keep the weights.
OTHER_WEIGHTS = ("model_state", "model_state_dict")


Expected = tuple[str, Callable[[Any], bool]]  # in words, and as a test


def _whole(low: int, what: str) -> Expected:
    return f"{what}, at least {low}", lambda value: type(value) is int and value >= low


def _every(kind: type, what: str) -> Expected:
    return what, lambda value: isinstance(value, list | tuple) and all(isinstance(one, kind) for one in value)


def _by_name(what: str) -> Expected:
    return f"{what} by name", lambda value: isinstance(value, dict)


# What a checkpoint may hold beside the weights, in itself and under `model`.
CONTENT: dict[str, Expected] = {
    "epoch": _whole(0, "a number of epochs"),
    "step": _whole(0, "a number of steps"),
    "best_pred": ("a score of at most 1", lambda value: isinstance(value, int | float) and -math.inf < value <= 1),
    "history": _every(dict, "records of epochs"),
    "random_states": _every(dict, "states of random numbers"),
    **{name: _by_name(name) for name in ("trained", "optimizer", "options", "identity", "losses", "order")},
}
SETTINGS: dict[str, Expected] = {
    "network": (f"one of {', '.join(NETWORKS)}", lambda value: value in list(NETWORKS)),
    "backbone": (f"one of {', '.join(BACKBONES)}", lambda value: value is None or value in list(BACKBONES)),
    "num_classes": _whole(2, "a number of classes"),
    "output_stride": ("16 or 8", lambda value: value in OUTPUT_STRIDES),
    "class_names": _every(str, "names of classes"),
    "crop_size": _whole(1, "a number of pixels"),
    "short_side": _whole(0, "a number of pixels"),
}


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: ours, one that the original's authors published (also a .caffemodel), or a bare
    state dict.

    Raises InputError where the file is missing, cut off or no checkpoint, where it holds something of another type or
    range than expected, and where a weight is infinite or not a number.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected a checkpoint, found a folder; name a file in it")
    if not path.is_file():
        raise InputError(f"{path}: {why(path, FileNotFoundError('no such checkpoint file'))}")
    if path.suffix == SUFFIX:
        return checkpoint_of_caffemodel(path)
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch does not look at the check sums
                    raise ValueError("a check sum is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign files
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: expected tensors and numbers, found a damaged file or one with pickled code, which is not run"
        ) from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None
    except Exception as error:  # damaged, a file of PyTorch before 1.6 leads to nearly any
        if lacks_memory(error):
            raise
        # PyTorch's words are about its own insides, or advise to run what the file says.
        reason = why(path, error) if isinstance(error, OSError) else f"{path.stat().st_size:,} bytes"
        line = f"{path}: not an intact PyTorch checkpoint ({reason}); was it cut off or damaged in copying?"
        raise InputError(line) from None
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        checkpoint = {"state_dict": checkpoint}
    for name in OTHER_WEIGHTS:
        if isinstance(checkpoint, dict) and "state_dict" not in checkpoint and name in checkpoint:
            checkpoint = {"state_dict": checkpoint[name]}  # the rest has meanings of its own
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{path}: expected a checkpoint with a 'state_dict', found none")
    weights, settings = checkpoint["state_dict"], checkpoint.get("model", {})
    by_name = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items())
    if not by_name or not isinstance(settings, dict):
        raise InputError(f"{path}: expected weights by name, and 'model' a dict of settings if anything; found others")
    checkpoint["state_dict"] = _checked_weights(weights, path)
    _check(checkpoint, CONTENT, path)
    _check(settings, SETTINGS, path)
    _check_names(settings, path)
    return checkpoint


def _check_names(settings: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    names, classes = settings.get("class_names"), settings.get("num_classes")
    if names and classes and len(names) != classes:
        raise InputError(f"{path}: expected a name for each of {classes} classes, found {len(names)}")


def _checked_weights(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights, which must be finite numbers, without the prefixes that wrappers left in their names."""
    for key, value in weights.items():
        if not is_plain(value):
            raise InputError(f"{path}: expected plain weights, found {key} quantised, sparse or without values")
    if key := not_finite(weights):
        raise InputError(
            f"{path}: expected finite weights, found {key} infinite or not a number: its training diverged; take an "
            "earlier checkpoint"
        )
    while prefix := next((one for one in PREFIXES if any(key.startswith(one) for key in weights)), None):
        named = {key.removeprefix(prefix): value for key, value in weights.items()}
        if len(named) < len(weights):
            raise InputError(f"{path}: has weights of one name with and without '{prefix}'; leave one of them in it")
        weights = named
    return weights


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of a state dict."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check(content: dict[str, Any], expected: dict[str, Expected], path: Path) -> None:
    for name, (what, fits) in expected.items():
        if name in content and not fits(content[name]):
            found = shorten(repr(content[name]), 80, placeholder=" ...")
            raise InputError(f"{path}: expected {what} as '{name}', found {found}; was it made by another program?")


def load_weights(
    model: nn.Module, state_dict: dict[str, torch.Tensor], source: Any, *, new_classifier: bool = False
) -> list[str]:
    """Load `state_dict` into `model` strictly; return the keys that were left as they were initialised.

    Those are the last layer's, where the class count differs and a `new_classifier` is asked for. Raises InputError,
    which names `source`, where keys are missing or unexpected, or other shapes differ.
    """
    own = model.state_dict()
    if not state_dict:
        raise InputError(f"{source}: expected weights, found none; take another checkpoint")
    if not own.keys() & state_dict.keys():
        raise InputError(
            f"{source}: none of its weights ({', '.join(list(state_dict)[:2])} ...) is one of this network's; are "
            "--network and --backbone right? Weights of a backbone alone go to --pretrained"
        )
    for key, value in state_dict.items():
        if key in own and own[key].is_floating_point() and not value.is_floating_point():
            raise InputError(f"{source}: expected floating-point weights, found {key} in {value.dtype}")
    differing = [key for key in state_dict if key in own and own[key].shape != state_dict[key].shape]
    classifier = [key for key in differing if key in model.classifier_keys]
    if classifier and classifier == differing:
        if not new_classifier:
            found, expected = (_outputs(weights[classifier[0]]) for weights in (state_dict, own))
            raise InputError(
                f"{source}: trained for {found} classes, but {expected} are expected; --ft starts a new classifier"
            )
        frozen = [key for key in classifier if not model.get_parameter(key).requires_grad]
        if frozen:
            raise InputError(f"{source}: {frozen[0]} does not learn in this network; train it for these classes first")
        state_dict = {**state_dict, **{key: own[key] for key in classifier}}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        problems = " ".join(line.strip() for line in str(error).split("\n")[1:])
        if len(problems) > 400:
            problems = f"{problems[:400]}... ({len(problems)} characters)"
        hint = f"is {'--backbone' if model.has_backbone else '--network'} right?"
        if differing == classifier and 2 * len(own.keys() ^ state_dict.keys()) < len(own):
            hint = "was it changed by another program?"  # since another network differs in more than a few names
        raise InputError(f"{source}: does not fit this network; {hint} {problems}") from None
    return classifier


def _outputs(weight: Tensor) -> int:
    return len(weight) if weight.ndim else 0


def class_mismatch(settings: dict[str, Any], class_names: Sequence[str]) -> str | None:
    """Say which class differs from that of a network's training, as far as its settings (`model`) know them."""
    known = settings.get("class_names", class_names)
    for number, (theirs, ours) in enumerate(zip(known, class_names, strict=False)):
        if theirs != ours:
            return f"was trained with class {number} '{theirs}', but here it is '{ours}'"
    if len(known) != len(class_names):
        return f"was trained with {len(known)} classes, but here are {len(class_names)}"
    return None


def load_network(
    path: str | os.PathLike[str],
    backbone: str | None = None,
    num_classes: int | None = None,
    output_stride: int | None = None,
    crop_size: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, on the CPU and in evaluation mode, and its settings.

    These are network, backbone, num_classes, output_stride and, where the checkpoint has them, class_names, crop_size
    and short_side (0: images were seen at their own size). A file without settings (the original's) takes the
    arguments, or else the network whose classifier it has, a resnet at stride 16, and the classes that its weights
    have. Another stride may be asked for; another backbone or class count is an error.
    """
    checkpoint = load_checkpoint(path)
    weights = checkpoint["state_dict"]
    settings = {"network": _network_of(weights), **checkpoint.get("model", {})}
    architecture = network_class(settings["network"])
    if not architecture.has_backbone:
        settings["backbone"] = None
    classifier = architecture.classifier_keys[0]
    if classifier in weights:
        outputs = _outputs(weights[classifier])
        if outputs < 2 or outputs != settings.setdefault("num_classes", outputs):
            expected = settings.get("num_classes", "2 or more")
            raise InputError(f"{path}: expected a classifier of {expected} classes, found one of {outputs} in it")
    for name, option, asked in (("backbone", "--backbone", backbone), ("num_classes", "--n_class", num_classes)):
        if asked is not None and settings.setdefault(name, asked) != asked:
            raise InputError(f"{path}: its {name.replace('_', ' ')} is {settings[name]}, but {option} says {asked}")
    _check_names(settings, path)
    settings = {"num_classes": 21, "backbone": "resnet", "output_stride": 16, **settings}
    if crop_size:
        settings.setdefault("crop_size", crop_size)
    model = build_network({**settings, "output_stride": output_stride or settings["output_stride"]})
    settings["output_stride"] = model.output_stride
    load_weights(model, weights, path)
    return model.eval(), settings


def _network_of(weights: Mapping[str, Tensor]) -> str:
    """Return the network whose classifier is among the weights, or else the usual one."""
    # MSc-LargeFOV has the classifier of LargeFOV too.
    known = (name for name in reversed(NETWORKS) if weights.keys() >= {*NETWORKS[name].classifier_keys})
    return next(known, DEFAULT_NETWORK)

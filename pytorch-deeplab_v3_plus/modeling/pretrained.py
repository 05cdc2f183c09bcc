"""First weights of a backbone or a whole network: ImageNet's, bundled or downloaded, a file's, or none.

Every weight is filled, and everything in the file is used but ImageNet's classifier, which the segmentation network
does not have. Anything else is refused; nothing falls back to random weights. Of a whole network, what its
`optional_keys` name may be missing in the file or have the shape of other classes.
"""

import logging
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.faults import lacks_memory
from modeling.backbone import BACKBONES, backbone_class
from modeling.backbone.base import Backbone
from modeling.caffemodel import SUFFIX, read_caffemodel
from modeling.network import Network
from modeling.weights import not_finite

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "weights"  # its NOTICE.md says where they come from

logger = logging.getLogger(__name__)


def default_pretrained(backbone: str) -> str:
    """What `pretrained` means for training when nobody says: 'imagenet' where such weights exist, else 'none'."""
    return "none" if backbone_class(backbone).imagenet_url() is None else "imagenet"


def load_pretrained(model: Backbone | Network, source: str | Path) -> None:
    """Fill `model` from `source`; raise InputError if the weights cannot be fetched or read, or do not fit.

    'none' leaves it as it is; 'bundled' takes the ImageNet weights that come with this project; 'imagenet' takes the
    published ones from the torch hub folder, downloading them if they are not there; anything else is the path of a
    file with a state dict, in our names or in those of the published weights. For a whole network it may also be a
    checkpoint or a .caffemodel file.
    """
    if source == "none":
        return
    origin, weights = _read(model, source)
    optional = getattr(model, "optional_keys", ())
    if isinstance(model, Network) and isinstance(weights, dict):
        weights = weights.get("state_dict", weights)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        kind = "network" if isinstance(model, Network) else "backbone"
        raise InputError(
            f"{origin}: expected a {kind}'s state dict (names to tensors), found something else; "
            "a checkpoint of the whole network goes to --resume"
        )
    if key := not_finite(weights):
        raise InputError(f"{origin}: expected finite weights, found {key} infinite or not a number: take another file")
    own = model.state_dict()
    try:
        weights = model.from_published(weights)
        other = [key for key in optional if key in weights and weights[key].shape != own[key].shape]
        weights = {key: value for key, value in weights.items() if key not in other}
        # A plain dict has no version mark, so torch lets files pass that are older than the batch norms' counters.
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, IndexError) as error:  # sizes or dimensions differ
        details = textwrap.shorten(str(error), 1000, placeholder=" ...")
        raise InputError(f"{origin} does not fit: {details}") from error
    fresh = [key for key in missing if key in optional]
    if len(fresh) < len(missing) or unexpected:
        missing = [key for key in missing if key not in optional]
        raise InputError(
            f"{origin} does not fit {type(model).__name__}: missing {_listing(missing)}; "
            f"unexpected {_listing(unexpected)}; give weights of this very network, or --pretrained none"
        )
    if fresh:
        logger.info("%s: %s start from random weights", origin, _listing(fresh))


def _read(model: Backbone | Network, source: str | Path) -> tuple[str, Any]:
    """Return where the weights come from, and what is there."""
    origin, path = str(source), Path(source)
    if source == "imagenet":
        origin = model.imagenet_url()
        if origin is None:
            raise InputError(
                f"pretrained 'imagenet': no ImageNet weights are published for {type(model).__name__}; "
                "use 'none' or the path of a file"
            )
        path = Path(torch.hub.get_dir(), "checkpoints", origin.rsplit("/", 1)[-1])
    elif source == "bundled":
        if model.bundled is None:
            names = ", ".join(name for name, known in BACKBONES.items() if known.bundled)
            raise InputError(
                f"pretrained 'bundled': this project has weights for {names} alone, not for {type(model).__name__}; "
                "use 'imagenet', 'none' or the path of a file"
            )
        path = BUNDLED / model.bundled
        origin = str(path)
    if source != "imagenet" and not path.is_file():
        kinds = "'bundled', 'imagenet', 'none' or a file"
        raise InputError(f"pretrained weights: expected {kinds}, found no file {str(path)!r}")
    if path.suffix == SUFFIX:
        return origin, read_caffemodel(path)
    try:
        if source == "imagenet":
            how = {"map_location": "cpu", "check_hash": True, "weights_only": True}
            return origin, torch.hub.load_state_dict_from_url(origin, **how)
        return origin, torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # network, disk, checksum, unpickling: too many kinds to list
        if lacks_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if path.exists():
            what = "found a file that cannot be read as such"
            line = f"{path}: expected weights written by torch.save, {what} ({reason}); delete it or fetch it again"
        else:
            ours = "--pretrained bundled (weights that come with this project), " if model.bundled else ""
            what = f"put that file at {path}, or use {ours}--pretrained none or --pretrained FILE"
            line = f"the ImageNet weights {origin} could not be downloaded ({reason}); {what}"
        raise InputError(line) from error


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more

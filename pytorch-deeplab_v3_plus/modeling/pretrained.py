"""First weights of a backbone: ImageNet's, bundled with the project or downloaded, a file's, or none.

Every weight of the backbone is filled, and everything in the file is used but the classifier, which the segmentation
network does not have. Anything else is refused; nothing falls back to random weights.
"""

import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from modeling.backbone import BACKBONES, backbone_class
from modeling.backbone.base import Backbone

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "weights"  # its NOTICE.md says where they come from


def default_pretrained(backbone: str) -> str:
    """What `pretrained` means for training when nobody says: 'imagenet' where such weights exist, else 'none'."""
    return "none" if backbone_class(backbone).imagenet_url() is None else "imagenet"


def load_pretrained(backbone: Backbone, source: str | Path) -> None:
    """Fill `backbone` from `source`; raise InputError if the weights cannot be fetched or read, or do not fit.

    'none' leaves the backbone as it is; 'bundled' takes the ImageNet weights that come with this project; 'imagenet'
    takes the published ones from the torch hub folder, downloading them if they are not there; anything else is the
    path of a file with a backbone's state dict, in our names or in those of the published weights.
    """
    if source == "none":
        return
    origin, weights = _read(backbone, source)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(
            f"{origin}: expected a backbone's state dict (names to tensors), found something else; "
            "a checkpoint of the whole network goes to --resume"
        )
    try:
        # A plain dict has no version mark, so torch lets files pass that are older than the batch norms' counters.
        missing, unexpected = backbone.load_state_dict(backbone.from_published(weights), strict=False)
    except RuntimeError as error:  # sizes differ
        details = textwrap.shorten(str(error), 1000, placeholder=" ...")
        raise InputError(f"{origin} does not fit: {details}") from error
    if missing or unexpected:
        raise InputError(
            f"{origin} does not fit {type(backbone).__name__}: missing {_listing(missing)}; "
            f"unexpected {_listing(unexpected)}; give weights of this very backbone, or --pretrained none"
        )


def _read(backbone: Backbone, source: str | Path) -> tuple[str, Any]:
    """Return where the weights come from, and what is there."""
    origin, path = str(source), Path(source)
    if source == "imagenet":
        origin = backbone.imagenet_url()
        if origin is None:
            raise InputError(
                f"pretrained 'imagenet': no ImageNet weights are published for {type(backbone).__name__}; "
                "use 'none' or the path of a file"
            )
        path = Path(torch.hub.get_dir(), "checkpoints", origin.rsplit("/", 1)[-1])
    elif source == "bundled":
        if backbone.bundled is None:
            names = ", ".join(name for name, known in BACKBONES.items() if known.bundled)
            raise InputError(
                f"pretrained 'bundled': this project has weights for {names} alone, not for {type(backbone).__name__}; "
                "use 'imagenet', 'none' or the path of a file"
            )
        path = BUNDLED / backbone.bundled
        origin = str(path)
    if source != "imagenet" and not path.is_file():
        kinds = "'bundled', 'imagenet', 'none' or a file"
        raise InputError(f"pretrained weights: expected {kinds}, found no file {str(path)!r}")
    try:
        if source == "imagenet":
            how = {"map_location": "cpu", "check_hash": True, "weights_only": True}
            return origin, torch.hub.load_state_dict_from_url(origin, **how)
        return origin, torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # network, disk, checksum, unpickling: too many kinds to list
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if path.exists():
            what = "found a file that cannot be read as such"
            line = f"{path}: expected weights written by torch.save, {what} ({reason}); delete it or fetch it again"
        else:
            ours = "--pretrained bundled (weights that come with this project), " if backbone.bundled else ""
            what = f"put that file at {path}, or use {ours}--pretrained none or --pretrained FILE"
            line = f"the ImageNet weights {origin} could not be downloaded ({reason}); {what}"
        raise InputError(line) from error


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more

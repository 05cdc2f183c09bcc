"""The networks by name. A new one, or another head on a backbone, is a file with a `Network` class and a line here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError
from modeling.caffe import CaffeNetwork
from modeling.caffemodel import read_caffemodel
from modeling.deeplab import DeepLab
from modeling.largefov import LargeFOV
from modeling.msc_largefov import MScLargeFOV
from modeling.network import Network
from modeling.resnet101_v2 import ResNet101v2
from modeling.vgg16 import VGG16

NETWORKS: dict[str, type[Network]] = {
    "deeplabv3plus": DeepLab,
    "largefov": LargeFOV,
    "msc_largefov": MScLargeFOV,
    "vgg16": VGG16,
    "resnet101_v2": ResNet101v2,
}
DEFAULT_NETWORK = "deeplabv3plus"


def network_class(name: str) -> type[Network]:
    """Return the class of the network `name`, or raise InputError with the list of names."""
    if name not in NETWORKS:
        raise InputError(f"network: expected one of {', '.join(NETWORKS)}, found {name!r}")
    return NETWORKS[name]


def build_network(
    settings: Mapping[str, Any], *, sync_bn: bool = False, freeze_bn: bool = False, pretrained: str | Path = "none"
) -> Network:
    """Build the network that `settings` describe, with random weights but for those of `pretrained`.

    The settings are those that checkpoints hold under `model`: network (default deeplabv3plus), num_classes and, for a
    network with one, backbone and output_stride, and crop_size where it is known; others are ignored. For the rest, and
    the errors, see modeling.deeplab.DeepLab.
    """
    network = network_class(settings.get("network", DEFAULT_NETWORK))
    how = {"num_classes": settings["num_classes"], "pretrained": pretrained}
    if network.has_backbone:
        how |= {name: settings[name] for name in ("backbone", "output_stride")}
        how |= {"sync_bn": sync_bn, "freeze_bn": freeze_bn}
    built = network(**how)
    built.crop_size = settings.get("crop_size")
    return built


def checkpoint_of_caffemodel(path: Path) -> dict[str, Any]:
    """Return a .caffemodel file of one of the paper's networks as a checkpoint: `state_dict` and `model`.

    Raises InputError where the file cannot be read, or holds another network.
    """
    weights = read_caffemodel(path)
    known = {name: network for name, network in NETWORKS.items() if issubclass(network, CaffeNetwork)}
    for name, network in reversed(known.items()):  # MSc-LargeFOV has the layers of LargeFOV too
        if network.caffe_mark in weights:
            settings = {"network": name, "backbone": None, "output_stride": network.output_stride, "short_side": 0}
            return {"state_dict": network.from_published(weights), "model": settings}
    raise InputError(f"{path}: expected the layers of one of {', '.join(known)}, found {', '.join(list(weights)[:8])}")

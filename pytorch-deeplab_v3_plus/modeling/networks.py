"""The networks by name. A new one, or another head on a backbone, is a file with a class and a line here.

Such a class is an nn.Module that is built as DeepLab is, with the same keywords (those that mean nothing to it are
ignored), that turns a normalised image into logits at the image's size, and that has

    classifier_keys              the weights that depend on the number of classes, as named in its state dict
    parameter_groups(head_rate)  the optimizer's groups, each with the `lr_scale` by which it learns faster
    output_stride                input pixels per feature pixel
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import InputError
from modeling.deeplab import DeepLab

NETWORKS: dict[str, type[nn.Module]] = {"deeplabv3plus": DeepLab}
DEFAULT_NETWORK = "deeplabv3plus"


def network_class(name: str) -> type[nn.Module]:
    """Return the class of the network `name`, or raise InputError with the list of names."""
    if name not in NETWORKS:
        raise InputError(f"network: expected one of {', '.join(NETWORKS)}, found {name!r}")
    return NETWORKS[name]


def build_network(
    settings: Mapping[str, Any], *, sync_bn: bool = False, freeze_bn: bool = False, pretrained: str | Path = "none"
) -> nn.Module:
    """Build the network that `settings` describe, with random weights but for a `pretrained` backbone.

    The settings are those that checkpoints hold under `model`: network (default deeplabv3plus), backbone, num_classes
    and output_stride; others are ignored. For the rest, and the errors, see modeling.deeplab.DeepLab.
    """
    shape = {name: settings[name] for name in ("num_classes", "backbone", "output_stride")}
    network = network_class(settings.get("network", DEFAULT_NETWORK))
    return network(**shape, sync_bn=sync_bn, freeze_bn=freeze_bn, pretrained=pretrained)

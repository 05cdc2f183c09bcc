"""The backbones by name. A new one is a file with a `Backbone` class and a line here."""

from collections.abc import Callable

from torch import nn

from common.errors import InputError
from modeling.backbone.base import Backbone
from modeling.backbone.drn import DRND54
from modeling.backbone.mobilenet import MobileNetV2
from modeling.backbone.resnet import ResNet101
from modeling.backbone.xception import AlignedXception65

BACKBONES: dict[str, type[Backbone]] = {
    "mobilenet": MobileNetV2,
    "resnet": ResNet101,
    "xception": AlignedXception65,
    "drn": DRND54,
}
OUTPUT_STRIDES = (16, 8)


def backbone_class(name: str) -> type[Backbone]:
    """The class of the backbone `name`; raises InputError with the list of names for an unknown one."""
    if name not in BACKBONES:
        raise InputError(f"backbone: expected one of {', '.join(BACKBONES)}, found {name!r}")
    return BACKBONES[name]


def build_backbone(name: str, output_stride: int, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> Backbone:
    """Build the backbone `name` with random weights.

    Args:
        name: a key of `BACKBONES`.
        output_stride: 16 or 8. What the network really has is its `output_stride` (drn: always 8).
        norm_layer: makes a normalisation layer from a number of channels.

    Raises:
        InputError: for an unknown name or output stride.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output stride: expected one of {OUTPUT_STRIDES}, found {output_stride!r}")
    return backbone_class(name)(output_stride, norm_layer)

"""The backbones by name. A new one is a file with a `Backbone` class and a line here."""

from torch import nn

from common.errors import InputError
from modeling.backbone.base import Backbone
from modeling.backbone.drn import DRND54
from modeling.backbone.mobilenet import MobileNetV2
from modeling.backbone.resnet import ResNet101
from modeling.backbone.xception import AlignedXception65
from modeling.layers import NormLayer

BACKBONES: dict[str, type[Backbone]] = {
    "mobilenet": MobileNetV2,
    "resnet": ResNet101,
    "xception": AlignedXception65,
    "drn": DRND54,
}
OUTPUT_STRIDES = (16, 8)


def backbone_class(name: str) -> type[Backbone]:
    """Return the class of the backbone `name`, or raise InputError with the list of names."""
    if name not in BACKBONES:
        raise InputError(f"backbone: expected one of {', '.join(BACKBONES)}, found {name!r}")
    return BACKBONES[name]


def build_backbone(name: str, output_stride: int, norm_layer: NormLayer = nn.BatchNorm2d) -> Backbone:
    """Build the backbone `name` with random weights; raise InputError for an unknown name or output stride.

    The stride is 16 or 8. What the network really has is its `output_stride` (drn: always 8).
    """
    if output_stride not in OUTPUT_STRIDES:
        raise InputError(f"output stride: expected one of {OUTPUT_STRIDES}, found {output_stride!r}")
    return backbone_class(name)(output_stride, norm_layer)

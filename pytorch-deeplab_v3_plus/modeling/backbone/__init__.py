"""The backbones, one file each."""

from modeling.backbone.registry import BACKBONES, OUTPUT_STRIDES, backbone_class, build_backbone

__all__ = ["BACKBONES", "OUTPUT_STRIDES", "backbone_class", "build_backbone"]

"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381) with dilation in place of the last strides.

It takes torchvision's `mobilenet_v2` IMAGENET1K_V1 weights. Like the network of the published checkpoints, and unlike
torchvision's, a block zero-pads its *input*, before the 1x1 expansion: what the 3x3 convolution sees beyond the
border is the expansion of zeros, not zero.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.backbone.base import Backbone
from modeling.layers import NormLayer, initialize_convolutions

STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LOW_LEVEL_DEPTH = 4  # the first convolution and the blocks of the first two stages
PUBLISHED_HEAD = ("features.18.", "classifier.")  # the published network's last 1x1 convolution and its classifier
TORCHVISION_MARK = "features.1.conv.0.0.weight"  # only torchvision groups a block's layers by threes


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection; a shortcut where the shapes allow it."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, dilation: int, expansion: int, norm_layer: NormLayer
    ):
        super().__init__()
        width = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.dilation = dilation
        expand = [nn.Conv2d(in_channels, width, 1, bias=False), norm_layer(width), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(
            *(expand if expansion > 1 else []),
            nn.Conv2d(width, width, 3, stride=stride, dilation=dilation, groups=width, bias=False),
            norm_layer(width),
            nn.ReLU6(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=False),
            norm_layer(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(F.pad(x, [self.dilation] * 4))
        return x + out if self.has_shortcut else out


class MobileNetV2(Backbone):
    """Deep features of 320 channels, low-level features of 24 (after the second stage).

    State dicts that list the layers again as `low_level_features` and `high_level_features` load too; where their
    values differ from those under `features`, they win.
    """

    out_channels = 320
    low_level_channels = 24
    bundled = "mobilenet_v2.pth"

    def __init__(self, output_stride: int, norm_layer: NormLayer):
        super().__init__(output_stride)
        channels, current_stride, rate = 32, 2, 1
        first = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        layers = [nn.Sequential(first, norm_layer(channels), nn.ReLU6(inplace=True))]
        for expansion, out_channels, blocks, stride in STAGES:
            dilation = 1
            if current_stride == output_stride:  # no more strides: dilate from the next stage on
                dilation, rate, stride = rate, rate * stride, 1
            current_stride *= stride
            for block in range(blocks):
                block_stride = stride if block == 0 else 1
                layers.append(InvertedResidual(channels, out_channels, block_stride, dilation, expansion, norm_layer))
                channels = out_channels
        self.features = nn.Sequential(*layers)
        initialize_convolutions(self, "fan_in")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (N, 3, H, W)
        low_level = self.features[:LOW_LEVEL_DEPTH](image)  # (N, 24, H/4, W/4)
        return self.features[LOW_LEVEL_DEPTH:](low_level), low_level  # (N, 320, H/16, W/16)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in list(state_dict):
            for alias in ("low_level_features.", "high_level_features."):
                if name.startswith(prefix + alias):
                    state_dict[f"{prefix}features.{name.removeprefix(prefix + alias)}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def imagenet_url() -> str:
        from torchvision.models import MobileNet_V2_Weights

        return MobileNet_V2_Weights.IMAGENET1K_V1.url

    @staticmethod
    def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rename = _flat_name if TORCHVISION_MARK in weights else str
        return {rename(name): value for name, value in weights.items() if not name.startswith(PUBLISHED_HEAD)}


def _flat_name(name: str) -> str:
    """Return for `features.5.conv.1.0.weight` of torchvision (layer 0 of group 1) `features.5.conv.3.weight`."""
    match = re.fullmatch(r"(features\.\d+\.conv)\.(\d)(?:\.(\d))?\.(\w+)", name)
    if match is None:
        return name
    block, group, layer, kind = match.groups()
    if layer is not None:
        return f"{block}.{3 * int(group) + int(layer)}.{kind}"
    # The projection's convolution and batch norm stand alone, after one group of three in the first block, else two.
    groups = 1 if block == "features.1.conv" else 2
    return f"{block}.{int(group) + 2 * groups}.{kind}"

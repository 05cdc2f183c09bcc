"""ResNet-101 (He et al., CVPR 2016, arXiv:1512.03385) with dilation in place of the last strides.

The bottleneck has its stride in the 3x3 convolution; the names and shapes are those of torchvision's `resnet101`, whose
IMAGENET1K_V1 weights it takes. The last stage has the multi-grid 1, 2, 4 of DeepLabv3 (arXiv:1706.05587).
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from modeling.backbone.base import Backbone
from modeling.layers import NormLayer, initialize_convolutions

EXPANSION = 4  # output channels of a bottleneck for each channel of its 3x3 convolution


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut around them; the 3x3 one has the stride, or the first 1x1 one."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        norm_layer: NormLayer,
        stride_first: bool = False,
    ):
        super().__init__()
        strides = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=strides[0], bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=strides[1], padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm_layer(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = norm_layer(EXPANSION * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def bottleneck_stage(
    in_channels: int,
    width: int,
    stride: int,
    dilations: Sequence[int],
    norm_layer: NormLayer,
    stride_first: bool = False,
) -> nn.Sequential:
    """Return one bottleneck for each dilation; the first has the stride and a projection as its shortcut."""
    out_channels = EXPANSION * width
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    projection = nn.Sequential(convolution, norm_layer(out_channels))
    first = Bottleneck(in_channels, width, stride, dilations[0], projection, norm_layer, stride_first)
    rest = [Bottleneck(out_channels, width, 1, dilation, None, norm_layer) for dilation in dilations[1:]]
    return nn.Sequential(first, *rest)


def without_fc(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the ImageNet classifier `fc`."""
    return {name: value for name, value in weights.items() if not name.startswith("fc.")}


class ResNet101(Backbone):
    """Deep features of 2048 channels, low-level features of 256 (after the first stage)."""

    out_channels = 2048
    low_level_channels = 256

    def __init__(self, output_stride: int, norm_layer: NormLayer):
        super().__init__(output_stride)
        stride3, dilation3, dilation4 = {16: (2, 1, 2), 8: (1, 2, 4)}[output_stride]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = bottleneck_stage(64, 64, 1, [1] * 3, norm_layer)
        self.layer2 = bottleneck_stage(256, 128, 2, [1] * 4, norm_layer)
        self.layer3 = bottleneck_stage(512, 256, stride3, [dilation3] * 23, norm_layer)
        self.layer4 = bottleneck_stage(1024, 512, 1, [grid * dilation4 for grid in (1, 2, 4)], norm_layer)
        initialize_convolutions(self, "fan_out")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (N, 3, H, W)
        x = self.relu(self.bn1(self.conv1(image)))  # (N, 64, H/2, W/2)
        low_level = self.layer1(self.maxpool(x))  # (N, 256, H/4, W/4)
        x = self.layer2(low_level)  # (N, 512, H/8, W/8)
        x = self.layer3(x)  # (N, 1024, H/16, W/16)
        return self.layer4(x), low_level  # (N, 2048, H/16, W/16)

    @staticmethod
    def imagenet_url() -> str:
        from torchvision.models import ResNet101_Weights

        return ResNet101_Weights.IMAGENET1K_V1.url

    from_published = staticmethod(without_fc)

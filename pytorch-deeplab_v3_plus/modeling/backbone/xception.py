"""Aligned Xception with 65 layers (Chollet, arXiv:1610.02357, as modified in DeepLabv3+, arXiv:1802.02611).

Max pooling is replaced by strided separable convolutions, and batch norm follows each depthwise convolution. Names are
those of the published checkpoints. No ImageNet weights: the original never really loaded any.
"""

from torch import Tensor, nn

from modeling.backbone.base import Backbone
from modeling.layers import NormLayer, initialize_convolutions

MIDDLE_BLOCKS = range(4, 20)


class SeparableConv2d(nn.Module):
    """3x3 depthwise convolution, batch norm, 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, norm_layer: NormLayer):
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        self.bn = norm_layer(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.bn(self.conv1(x)))


class Block(nn.Module):
    """Three separable convolutions with a shortcut around them; the last of them and the shortcut have the stride."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int],
        stride: int,
        dilations: tuple[int, int, int],
        start_with_relu: bool,
        norm_layer: NormLayer,
    ):
        super().__init__()
        self.skip = None
        if stride != 1 or widths[-1] != in_channels:
            self.skip = nn.Conv2d(in_channels, widths[-1], 1, stride=stride, bias=False)
            self.skipbn = norm_layer(widths[-1])
        layers: list[nn.Module] = []
        for width, conv_stride, dilation in zip(widths, (1, 1, stride), dilations, strict=True):
            separable = SeparableConv2d(in_channels, width, conv_stride, dilation, norm_layer)
            layers += [nn.ReLU(inplace=True), separable, norm_layer(width)]
            in_channels = width
        self.rep = nn.Sequential(*(layers if start_with_relu else layers[1:]))

    def forward(self, x: Tensor) -> Tensor:
        out = self.rep(x)  # a leading ReLU works in place: from here on x is rectified, for the shortcut too
        if self.skip is not None:
            x = self.skipbn(self.skip(x))
        return out + x


class AlignedXception65(Backbone):
    """Deep features of 2048 channels, low-level features of 128 (after the first block)."""

    out_channels = 2048
    low_level_channels = 128

    def __init__(self, output_stride: int, norm_layer: NormLayer):
        super().__init__(output_stride)
        stride3, dilation, exit_dilation = {16: (2, 1, 2), 8: (1, 2, 4)}[output_stride]
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm_layer(32)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = norm_layer(64)
        self.block1 = Block(64, (128, 128, 128), 2, (1, 1, 1), False, norm_layer)
        self.block2 = Block(128, (256, 256, 256), 2, (1, 1, 1), False, norm_layer)
        self.block3 = Block(256, (728, 728, 728), stride3, (1, 1, 1), True, norm_layer)
        for number in MIDDLE_BLOCKS:
            self.add_module(f"block{number}", Block(728, (728,) * 3, 1, (dilation,) * 3, True, norm_layer))
        # The last convolution of block20 is not dilated, at either output stride.
        self.block20 = Block(728, (728, 1024, 1024), 1, (dilation, dilation, 1), True, norm_layer)
        self.conv3 = SeparableConv2d(1024, 1536, 1, exit_dilation, norm_layer)
        self.bn3 = norm_layer(1536)
        self.conv4 = SeparableConv2d(1536, 1536, 1, exit_dilation, norm_layer)
        self.bn4 = norm_layer(1536)
        self.conv5 = SeparableConv2d(1536, 2048, 1, exit_dilation, norm_layer)
        self.bn5 = norm_layer(2048)
        initialize_convolutions(self, "fan_out")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (N, 3, H, W)
        x = self.relu(self.bn1(self.conv1(image)))  # (N, 32, H/2, W/2)
        x = self.relu(self.bn2(self.conv2(x)))  # (N, 64, H/2, W/2)
        low_level = self.relu(self.block1(x))  # (N, 128, H/4, W/4)
        x = self.block2(low_level)  # (N, 256, H/8, W/8)
        x = self.block3(x)  # (N, 728, H/16, W/16)
        for number in MIDDLE_BLOCKS:
            x = self.get_submodule(f"block{number}")(x)  # (N, 728, H/16, W/16)
        x = self.relu(self.block20(x))  # (N, 1024, H/16, W/16)
        x = self.relu(self.bn3(self.conv3(x)))  # (N, 1536, H/16, W/16)
        x = self.relu(self.bn4(self.conv4(x)))  # (N, 1536, H/16, W/16)
        return self.relu(self.bn5(self.conv5(x))), low_level  # (N, 2048, H/16, W/16)

"""Atrous spatial pyramid pooling: one feature map seen at several scales (Chen et al., arXiv:1706.05587)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers import NormLayer, initialize_convolutions

OUT_CHANNELS = 256


class ASPPBranch(nn.Module):
    """Dilated convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, kernel_size: int, dilation: int, norm_layer: NormLayer):
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.atrous_conv = nn.Conv2d(in_channels, OUT_CHANNELS, kernel_size, 1, padding, dilation, bias=False)
        self.bn = norm_layer(OUT_CHANNELS)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.atrous_conv(x)))


class ASPP(nn.Module):
    """A 1x1 convolution, three dilated 3x3 convolutions and the image mean, side by side, projected to 256 channels.

    The 3x3 convolutions are dilated by `rates`. In training mode the branch of the image mean has one value per image
    and channel, so its batch norm needs a batch of at least two images.
    """

    def __init__(self, in_channels: int, rates: Sequence[int], norm_layer: NormLayer):
        super().__init__()
        self.aspp1 = ASPPBranch(in_channels, 1, 1, norm_layer)
        self.aspp2, self.aspp3, self.aspp4 = (ASPPBranch(in_channels, 3, rate, norm_layer) for rate in rates)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, OUT_CHANNELS, 1, bias=False),
            norm_layer(OUT_CHANNELS),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(5 * OUT_CHANNELS, OUT_CHANNELS, 1, bias=False)
        self.bn1 = norm_layer(OUT_CHANNELS)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        initialize_convolutions(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:  # (N, in_channels, h, w)
        mean = self.global_avg_pool(x)  # (N, 256, 1, 1)
        mean = F.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=True)  # (N, 256, h, w)
        x = torch.cat((self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), mean), dim=1)  # (N, 1280, h, w)
        return self.dropout(self.relu(self.bn1(self.conv1(x))))  # (N, 256, h, w)

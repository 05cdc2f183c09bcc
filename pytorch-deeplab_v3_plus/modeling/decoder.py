"""The decoder of DeepLabv3+: sharpens the pyramid's output with early features (Chen et al., arXiv:1802.02611)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling import aspp
from modeling.layers import NormLayer, initialize_convolutions

LOW_LEVEL_WIDTH = 48
WIDTH = 256


class Decoder(nn.Module):
    """Joins the pyramid's output, enlarged, with the backbone's low-level features, and classifies every position."""

    def __init__(self, low_level_channels: int, num_classes: int, norm_layer: NormLayer):
        super().__init__()
        self.conv1 = nn.Conv2d(low_level_channels, LOW_LEVEL_WIDTH, 1, bias=False)
        self.bn1 = norm_layer(LOW_LEVEL_WIDTH)
        self.relu = nn.ReLU()
        self.last_conv = nn.Sequential(
            nn.Conv2d(aspp.OUT_CHANNELS + LOW_LEVEL_WIDTH, WIDTH, 3, padding=1, bias=False),
            norm_layer(WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            norm_layer(WIDTH),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        initialize_convolutions(self, "fan_in")

    def forward(self, x: Tensor, low_level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last features (N, 256, H/4, W/4) and their logits (N, num_classes, H/4, W/4).

        `x` is the pyramid's output, (N, 256, h, w), and `low_level` is (N, low_level_channels, H/4, W/4).
        """
        low_level = self.relu(self.bn1(self.conv1(low_level)))  # (N, 48, H/4, W/4)
        x = F.interpolate(x, size=low_level.shape[2:], mode="bilinear", align_corners=True)  # (N, 256, H/4, W/4)
        features = self.last_conv[:-1](torch.cat((x, low_level), dim=1))
        return features, self.last_conv[-1](features)

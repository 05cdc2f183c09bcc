"""DRN-D-54, a dilated residual network (Yu, Koltun, Funkhouser, CVPR 2017, arXiv:1705.09914).

Names, shapes and weights are those of `drn_d_54` in github.com/fyu/drn. It has been dilated from the start: its
output is always 8 times smaller than the image. The last two stages, plain convolutions of falling dilation, remove
the gridding that dilation leaves behind.
"""

from torch import Tensor, nn

from modeling.backbone.base import Backbone
from modeling.backbone.resnet import bottleneck_stage, without_fc
from modeling.layers import NormLayer, initialize_convolutions


class DRND54(Backbone):
    """Deep features of 512 channels, low-level features of 256 (after the first stage of bottlenecks)."""

    out_channels = 512
    low_level_channels = 256

    def __init__(self, output_stride: int, norm_layer: NormLayer):
        super().__init__(output_stride=8)

        def plain(in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int) -> nn.Sequential:
            padding = dilation * (kernel_size // 2)
            return nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
                norm_layer(out_channels),
                nn.ReLU(inplace=True),
            )

        self.layer0 = plain(3, 16, kernel_size=7, stride=1, dilation=1)
        self.layer1 = plain(16, 16, kernel_size=3, stride=1, dilation=1)
        self.layer2 = plain(16, 32, kernel_size=3, stride=2, dilation=1)
        self.layer3 = bottleneck_stage(32, 64, 2, [1] * 3, norm_layer)
        self.layer4 = bottleneck_stage(256, 128, 2, [1] * 4, norm_layer)
        self.layer5 = bottleneck_stage(512, 256, 1, [2] * 6, norm_layer)
        self.layer6 = bottleneck_stage(1024, 512, 1, [4] * 3, norm_layer)
        self.layer7 = plain(2048, 512, kernel_size=3, stride=1, dilation=2)
        self.layer8 = plain(512, 512, kernel_size=3, stride=1, dilation=1)
        initialize_convolutions(self, "fan_out")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # (N, 3, H, W)
        x = self.layer2(self.layer1(self.layer0(image)))  # (N, 32, H/2, W/2)
        low_level = self.layer3(x)  # (N, 256, H/4, W/4)
        x = self.layer4(low_level)  # (N, 512, H/8, W/8)
        x = self.layer6(self.layer5(x))  # (N, 2048, H/8, W/8)
        return self.layer8(self.layer7(x)), low_level  # (N, 512, H/8, W/8)

    @staticmethod
    def imagenet_url() -> str:
        return "http://dl.yf.io/drn/drn_d_54-0e0534ff.pth"

    from_published = staticmethod(without_fc)

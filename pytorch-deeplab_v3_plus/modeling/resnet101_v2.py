"""DeepLab-ResNet101, the second version (Chen et al., TPAMI 2017, arXiv:1606.00915), at three scales.

The image at its own size, three quarters and half of it passes through the same ResNet-101 and four dilated
classifiers, whose scores are added; the scores of the three are scaled to the first one's size, and the highest counts.
The cross-entropy is taken on the highest, and on the scores of each scale.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.backbone.resnet import bottleneck_stage, without_fc
from modeling.caffe import GREY_LEVELS, STRIDE, CaffeNetwork, for_bgr, initialize
from modeling.layers import initialize_convolutions
from modeling.pretrained import load_pretrained

DILATIONS = (6, 12, 18, 24)
BRANCH = {"branch1": "downsample.0", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
NORM = {"branch1": "downsample.1", "branch2a": "bn1", "branch2b": "bn2", "branch2c": "bn3"}


class ResNetTrunk(nn.Module):
    """ResNet-101 with torchvision's names; the first 1x1 convolution of a stage has its stride, as in Caffe's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = bottleneck_stage(64, 64, 1, [1] * 3, nn.BatchNorm2d)
        self.layer2 = bottleneck_stage(256, 128, 2, [1] * 4, nn.BatchNorm2d, stride_first=True)
        self.layer3 = bottleneck_stage(512, 256, 1, [2] * 23, nn.BatchNorm2d)
        self.layer4 = bottleneck_stage(1024, 512, 1, [4] * 3, nn.BatchNorm2d)
        initialize_convolutions(self, "fan_in")
        self.conv1.weight.data /= GREY_LEVELS
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            nn.init.constant_(block.bn3.weight, 0.2)  # as these norms stay, random weights would make signals explode

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, H, W)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 2048, H/8, W/8)


class ResNet101v2(CaffeNetwork):
    """Trunk with frozen batch norms, four classifiers, three scales."""

    classifier_keys = tuple(f"fc1.{i}.{kind}" for i in range(len(DILATIONS)) for kind in ("weight", "bias"))
    optional_keys = head_keys = classifier_keys
    caffe_mark = "res2a_branch1.weight"
    score_strides = (STRIDE, STRIDE, STRIDE, 2 * STRIDE)  # of the highest, of 1, 3/4 (enlarged) and 1/2
    grid = 4 * STRIDE  # 3/4 and 1/2 of it are multiples of 8 too
    freeze_bn = True

    def __init__(self, num_classes: int = 21, pretrained: str | Path = "none") -> None:
        super().__init__()
        self.trunk = ResNetTrunk()
        self.fc1 = nn.ModuleList(nn.Conv2d(2048, num_classes, 3, padding=rate, dilation=rate) for rate in DILATIONS)
        initialize(self.fc1, 0.01)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        load_pretrained(self, pretrained)
        self.train()

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return sum(classifier(features) for classifier in self.fc1), features

    def training_scores(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        whole, features = self._scores(x)
        height, width = x.shape[2:]
        three_quarters = scaled(x, (3 * (height - 1) // 4 + 1, 3 * (width - 1) // 4 + 1))
        half = scaled(x, ((height - 1) // 2 + 1, (width - 1) // 2 + 1))
        size = whole.shape[2:]
        three_quarters, half = scaled(self._scores(three_quarters)[0], size), self._scores(half)[0]
        highest = whole.maximum(three_quarters).maximum(scaled(half, size))
        return (highest, whole, three_quarters, half), features

    @staticmethod
    def imagenet_url() -> str:
        from torchvision.models import ResNet101_Weights

        return ResNet101_Weights.IMAGENET1K_V1.url

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under our names.

        Torchvision's ResNet-101 has the strides in its 3x3 convolutions; the weights are taken as they are.
        """
        if "layer1.0.conv1.weight" in weights:
            ours = {f"trunk.{name}": value for name, value in without_fc(weights).items()}
            if "trunk.conv1.weight" in ours and "trunk.bn1.running_mean" in ours:
                ours["trunk.conv1.weight"], added = for_bgr(ours["trunk.conv1.weight"])
                ours["trunk.bn1.running_mean"] = ours["trunk.bn1.running_mean"] - added
            return ours
        return {from_caffe(name): value for name, value in weights.items()}


def scaled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale a tensor (N, C, h, w) bilinearly with aligned corners."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def from_caffe(name: str) -> str:
    """Return our name for a weight of a Caffe layer, such as `trunk.layer3.4.bn2.bias` for `scale4b4_branch2b.bias`."""
    if match := re.match(r"fc1(?:_\w+)?_c(\d)\.(\w+)$", name):
        return "fc1.{}.{}".format(*match.groups())
    if match := re.match(r"(conv1|bn_conv1|scale_conv1)\.(\w+)$", name):
        return f"trunk.{'conv1' if match[1] == 'conv1' else 'bn1'}.{match[2]}"
    if match := re.match(r"(res|bn|scale)([2-5])([a-z])(\d*)_(branch\w+)\.(\w+)$", name):
        kind, stage, letter, number, branch, weight = match.groups()
        block = int(number or ord(letter) - ord("a"))
        layer = (BRANCH if kind == "res" else NORM).get(branch, branch)
        return f"trunk.layer{int(stage) - 1}.{block}.{layer}.{weight}"
    return name

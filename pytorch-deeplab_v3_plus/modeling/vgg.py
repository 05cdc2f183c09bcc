"""VGG-16 (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556) as DeepLab dilates it, up to and with its fc7.

The layers are called as in the Caffe definitions. Pooling is 3x3; the last two poolings have no stride, and the
convolutions between them and behind are dilated.
"""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.caffe import GREY_LEVELS, for_bgr, initialize

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and number of 3x3 convolutions
FC_CHANNELS = 1024
EVERY = FC_CHANNELS // 256  # of torchvision's 4096 channels in fc6 and fc7


class VGGTrunk(nn.Sequential):
    """The convolutions, from BGR minus mean (N, 3, H, W) to (N, 512, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for stage, (width, depth) in enumerate(STAGES, 1):
            dilation = 2 if stage == 5 else 1
            for number in range(1, depth + 1):
                layer = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
                self.add_module(f"conv{stage}_{number}", layer)
                self.add_module(f"relu{stage}_{number}", nn.ReLU(inplace=True))
                channels = width
            self.add_module(f"pool{stage}", nn.MaxPool2d(3, stride=2 if stage < 4 else 1, padding=1))
        initialize(self)
        self.conv1_1.weight.data /= GREY_LEVELS

    def pooled(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the five poolings, at 1/2, 1/4, 1/8, 1/8 and 1/8 of the size of `x`."""
        outputs = []
        for layer in self:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                outputs.append(x)
        return outputs


class FullyConnected(nn.Module):
    """VGG's fully connected layers as convolutions: fc6 (3x3, dilated), fc7 and the classifier fc8 (1x1)."""

    def __init__(self, num_classes: int, dilation: int) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(STAGES[-1][0], FC_CHANNELS, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        self.fc8 = nn.Conv2d(FC_CHANNELS, num_classes, 1)
        initialize(self)
        initialize(self.fc8, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (N, 512, h, w)
        """Return the scores (N, num_classes, h, w), and the features (N, 1024, h, w) that they classify."""
        for layer in (self.fc6, self.fc7):
            x = F.dropout(F.relu(layer(x), inplace=True), 0.5, self.training)
        return self.fc8(x), x


def vgg16_url() -> str:
    """Return where torchvision publishes its weights of VGG-16."""
    from torchvision.models import VGG16_Weights

    return VGG16_Weights.IMAGENET1K_V1.url


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's weights of VGG-16 as `trunk.*` and `head.*`, and what it does not know as it is.

    Of fc6 every third row and column, and of fc6 and fc7 every fourth channel are kept, as DeepLab subsamples them.
    Its classifier of ImageNet's classes is left out.
    """
    names = [f"conv{stage}_{i + 1}" for stage, (_, depth) in enumerate(STAGES, 1) for i in range(depth)]
    numbers = sorted({int(found[1]) for found in map(re.compile(r"features\.(\d+)\.").match, weights) if found})
    known = {f"features.{number}": f"trunk.{name}" for number, name in zip(numbers, names, strict=False)}
    known |= {"classifier.0": "head.fc6", "classifier.3": "head.fc7"}
    ours = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        if layer != "classifier.6":
            ours[f"{known[layer]}.{kind}" if layer in known else name] = value
    if "classifier.0.weight" in weights and "classifier.3.weight" in weights:
        fc6 = ours["head.fc6.weight"].unflatten(1, (STAGES[-1][0], 7, 7))
        ours["head.fc6.weight"] = fc6[::EVERY, :, ::3, ::3]
        ours["head.fc7.weight"] = ours["head.fc7.weight"][::EVERY, ::EVERY, None, None]
        ours["head.fc6.bias"], ours["head.fc7.bias"] = (ours[f"head.{fc}.bias"][::EVERY] for fc in ("fc6", "fc7"))
    first = "trunk.conv1_1"
    if f"{first}.weight" in ours and f"{first}.bias" in ours:
        ours[f"{first}.weight"], added = for_bgr(ours[f"{first}.weight"])
        ours[f"{first}.bias"] = ours[f"{first}.bias"] + added
    return ours


def from_caffe(name: str) -> str:
    """Return our name for a weight of a Caffe layer: `trunk.conv1_1.weight`, `head.fc6.weight`; others stay."""
    if re.match(r"conv\d_\d\.", name):
        return f"trunk.{name}"
    return re.sub(r"^(fc[67]|fc8)(?:_[A-Za-z]\w*)?\.", r"head.\1.", name)

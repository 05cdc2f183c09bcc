"""DeepLab-VGG16, the second version (Chen et al., TPAMI 2017, arXiv:1606.00915): VGG-16 with a spatial pyramid.

Four heads, whose fc6 is dilated by 6, 12, 18 and 24, see the same features; their scores are added.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modeling import vgg
from modeling.caffe import CaffeNetwork
from modeling.pretrained import load_pretrained

DILATIONS = (6, 12, 18, 24)


class VGG16(CaffeNetwork):
    """Trunk and four heads."""

    classifier_keys = tuple(f"heads.{i}.fc8.{kind}" for i in range(len(DILATIONS)) for kind in ("weight", "bias"))
    optional_keys = head_keys = classifier_keys
    caffe_mark = "fc6_1.weight"

    def __init__(self, num_classes: int = 21, pretrained: str | Path = "none") -> None:
        super().__init__()
        self.trunk = vgg.VGGTrunk()
        self.heads = nn.ModuleList(vgg.FullyConnected(num_classes, dilation) for dilation in DILATIONS)
        load_pretrained(self, pretrained)
        self.train()

    def training_scores(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        x = self.trunk(x)
        scores, features = zip(*(head(x) for head in self.heads), strict=True)
        return (torch.stack(scores).sum(0),), torch.cat(features, dim=1)  # (N, 4096, H/8, W/8)

    imagenet_url = staticmethod(vgg.vgg16_url)

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under our names; those of a single head go to all four."""
        if "features.0.weight" in weights:
            weights = vgg.from_torchvision(weights)
        ours = {}
        for name, value in weights.items():
            own = re.sub(
                r"^(fc\d)(?:_[A-Za-z]\w*)?_(\d)\.", lambda match: f"heads.{int(match[2]) - 1}.{match[1]}.", name
            )
            own = vgg.from_caffe(own)
            names = [own.replace("head.", f"heads.{i}.") for i in range(len(DILATIONS))] if "head." in own else [own]
            ours |= dict.fromkeys(names, value)
        return ours

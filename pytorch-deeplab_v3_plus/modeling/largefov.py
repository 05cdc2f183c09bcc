"""DeepLab-LargeFOV (Chen et al., ICLR 2015, arXiv:1412.7062): VGG-16 with fc6 dilated by 12."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from modeling import vgg
from modeling.caffe import CaffeNetwork
from modeling.pretrained import load_pretrained


class LargeFOV(CaffeNetwork):
    """Trunk, average pooling that counts its padding, fc6, fc7 and fc8."""

    classifier_keys = ("head.fc8.weight", "head.fc8.bias")
    optional_keys = head_keys = classifier_keys
    caffe_mark = "fc6.weight"

    def __init__(self, num_classes: int = 21, pretrained: str | Path = "none") -> None:
        super().__init__()
        self._build(num_classes)
        load_pretrained(self, pretrained)
        self.train()

    def _build(self, num_classes: int) -> None:
        self.trunk = vgg.VGGTrunk()
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1)
        self.head = vgg.FullyConnected(num_classes, dilation=12)

    def training_scores(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        scores, features = self.head(self.pool5a(self.trunk(x)))
        return (scores,), features

    imagenet_url = staticmethod(vgg.vgg16_url)

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "features.0.weight" in weights:
            return vgg.from_torchvision(weights)
        return {vgg.from_caffe(name): value for name, value in weights.items()}

"""DeepLab-MSc-LargeFOV (Chen et al., ICLR 2015, arXiv:1412.7062): LargeFOV with scores from finer features.

Five branches, on the image and on four poolings, add their scores to those of a LargeFOV that is trained already and
stays as it is. In the training graph they have strides, so that all scores are at an eighth of the image's size; in the
test graph they have none, and the scores are enlarged before they are added.
"""

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from modeling.caffe import STRIDE, enlarge, initialize
from modeling.largefov import LargeFOV

BRANCHES = {"data": (3, 1), "pool1": (64, 2), "pool2": (128, 4), "pool3": (256, 8), "pool4": (512, 8)}
WIDTH = 128


class Branch(nn.Module):
    """Scores of features that are `reduction` times smaller than the image: 3x3, 1x1 and 1x1 convolution."""

    def __init__(self, channels: int, reduction: int, num_classes: int, fc_std: float) -> None:
        super().__init__()
        self.reduction = reduction
        self.conv = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.fc = nn.Conv2d(WIDTH, WIDTH, 1)
        self.ms = nn.Conv2d(WIDTH, num_classes, 1)
        for layer, std in ((self.conv, 0.001), (self.fc, fc_std), (self.ms, 0.01)):
            initialize(layer, std)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """Return scores (N, num_classes, h / stride, w / stride) of features (N, channels, h, w)."""
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride, padding=1)
        x = F.dropout(F.relu(x, inplace=True), 0.5, self.training)
        x = F.dropout(F.relu(self.fc(x), inplace=True), 0.5, self.training)
        return self.ms(x)


class MScLargeFOV(LargeFOV):
    """A frozen LargeFOV and the five branches, which alone learn."""

    classifier_keys = (
        *LargeFOV.classifier_keys,
        *(f"branches.{name}.ms.{kind}" for name in BRANCHES for kind in ("weight", "bias")),
    )
    optional_keys = tuple(
        f"branches.{name}.{layer}.{kind}"
        for name in BRANCHES
        for layer in ("conv", "fc", "ms")
        for kind in ("weight", "bias")
    )
    head_keys = ()
    caffe_mark = "data_ms.weight"

    @classmethod
    def default_pretrained(cls) -> str:
        """Raise InputError: ImageNet's weights are no LargeFOV."""
        raise InputError(
            "--network msc_largefov trains branches beside a trained LargeFOV, which it does not change: give that "
            "network's checkpoint with --pretrained FILE"
        )

    @staticmethod
    def imagenet_url() -> None:
        """Return None, for the same reason."""

    def _build(self, num_classes: int) -> None:
        super()._build(num_classes)
        self.requires_grad_(False)
        self.branches = nn.ModuleDict()
        for name, (channels, reduction) in BRANCHES.items():
            self.branches[name] = Branch(channels, reduction, num_classes, 0.005 if name == "pool4" else 0.001)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, list[tuple[Branch, Tensor]]]:
        """Return scores and features of LargeFOV, and what each branch sees."""
        pooled = self.trunk.pooled(x)
        scores, features = self.head(self.pool5a(pooled[-1]))
        return scores, features, list(zip(self.branches.values(), (x, *pooled), strict=False))

    def training_scores(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        scores, features, inputs = self._features(x)
        for branch, seen in inputs:
            scores = scores + branch(seen, stride=STRIDE // branch.reduction)
        return (scores,), features

    def test_scores(self, x: Tensor) -> Tensor:
        scores, _, inputs = self._features(x)
        scores = enlarge(scores, STRIDE)
        for branch, seen in inputs:
            scores = scores + enlarge(branch(seen, stride=1), branch.reduction)
        return scores

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layers = {re.sub(r"^(data|pool\d)_(conv|fc|ms)\.", r"branches.\1.\2.", name): weights[name] for name in weights}
        return super().from_published(layers)

"""What the paper's networks of 2018 have in common, as their Caffe definitions have it.

They take BGR minus a mean colour, classify at an eighth of the input's size, learn at the rate of each layer (biases at
twice it and without weight decay) and keep batch norms as they are. Sizes are those of Caffe, which aligns corners
when it scales: an eighth of 8 k + 1 pixels is k + 1. Other sizes are padded up to that with the mean colour, at the
right and bottom, as the authors pad their test images to 513.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers import IMAGENET_MEAN, IMAGENET_STD, initialize_convolutions
from modeling.network import Network, TrainingOutput

MEAN_BGR = (104.008, 116.669, 122.675)
GREY_LEVELS = 58.0  # standard deviation of the input: of ImageNet's colours in 0-255
STRIDE = 8


class CaffeNetwork(Network):
    """One of these networks; a derived class builds its layers, initialises them and ends with `load_pretrained`."""

    output_stride = STRIDE
    score_strides = (STRIDE,)
    has_backbone = False
    takes_batch_statistics = False
    bundled = None  # no weights come with the project
    caffe_mark: str  # a weight by which the authors' files of this network are known
    optional_keys: tuple[str, ...]  # the weights that files of first weights may lack
    head_keys: tuple[str, ...]  # those that learn at the rate of the head
    grid = STRIDE  # sides are padded to a multiple of this plus 1

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
        # Not in the state dict, as these are no weights.
        self.register_buffer("scale", std, persistent=False)
        self.register_buffer("shift", mean - torch.tensor(MEAN_BGR[::-1]).view(3, 1, 1), persistent=False)

    @classmethod
    def default_pretrained(cls) -> str:
        """Return 'imagenet': torchvision publishes such weights."""
        return "imagenet"

    @staticmethod
    def imagenet_url() -> str | None:
        """Return where torchvision publishes ImageNet weights of this network."""
        raise NotImplementedError

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return torchvision's weights, or those of a .caffemodel file, under this network's names; its own stay."""
        raise NotImplementedError

    def training_scores(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the training graph's scores, the fused ones first, and the features for an input of `grid` k + 1."""
        raise NotImplementedError

    def test_scores(self, x: Tensor) -> Tensor:
        """Return the test graph's scores at the size of the input: by default the training graph's, enlarged."""
        return enlarge(self.training_scores(x)[0][0], STRIDE)

    def forward(self, image: Tensor, for_training: bool = False) -> Tensor | TrainingOutput:
        """Return the test graph's logits of a normalised image (N, 3, H, W), or what the training graph gives."""
        height, width = image.shape[2:]
        x = (image * self.scale + self.shift).flip(1)
        x = F.pad(x, (0, (1 - width) % self.grid, 0, (1 - height) % self.grid))
        if not for_training:
            return self.test_scores(x)[:, :, :height, :width]
        scores, features = self.training_scores(x)
        return TrainingOutput(enlarge(scores[0], STRIDE)[:, :, :height, :width], features, scores)

    def parameter_groups(self, head_rate: float = 10.0) -> list[dict[str, Any]]:
        """Return weights and biases of the body and of the head; biases learn twice as fast and do not decay."""
        groups = []
        for rate, in_head in ((1.0, False), (head_rate, True)):
            learning = [
                (name, parameter)
                for name, parameter in self.named_parameters()
                if parameter.requires_grad and (name in self.head_keys) == in_head
            ]
            weights = [parameter for name, parameter in learning if not name.endswith(".bias")]
            biases = [parameter for name, parameter in learning if name.endswith(".bias")]
            groups.append({"params": weights, "lr_scale": rate})
            groups.append({"params": biases, "lr_scale": 2 * rate, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]


def enlarge(scores: Tensor, factor: int) -> Tensor:
    """Return scores (N, K, h, w) enlarged bilinearly with aligned corners, to factor * (h - 1) + 1 and the like."""
    if factor == 1:
        return scores
    size = [factor * (side - 1) + 1 for side in scores.shape[2:]]
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=True)


def initialize(module: nn.Module, std: float | None = None) -> None:
    """Draw the weights of a module's convolutions from a Gaussian of this standard deviation; biases are 0.

    None is for layers that the authors start from ImageNet's weights: see initialize_convolutions.
    """
    if std is None:
        initialize_convolutions(module, "fan_in")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
            if std is not None:
                nn.init.normal_(layer.weight, std=std)


def for_bgr(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turn torchvision's first convolution into one of these networks'; return its weight and what it adds.

    Torchvision's takes RGB normalised by ImageNet's mean and deviation: the channels are reversed and divided by the
    deviations in grey levels. Its mean differs from the one here by up to a grey level: the output of the new
    convolution plus the second tensor (C,) is the old one's, except at the border, where either pads with its own mean.
    """
    mean, std = (255 * torch.tensor(values).flip(0) for values in (IMAGENET_MEAN, IMAGENET_STD))
    weight = weight.flip(1) / std[:, None, None]
    return weight, (weight.sum((2, 3)) * (torch.tensor(MEAN_BGR) - mean)).sum(1)

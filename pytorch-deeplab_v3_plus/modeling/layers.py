"""What networks and their parts share: their input, the kind of their norms, the first weights of convolutions."""

from collections.abc import Callable

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values in [0, 1], by which the input of every network is normalised."""

NormLayer = Callable[[int], nn.Module]
"""Makes a normalisation layer from a number of channels. Batch norms keep torch's first weights: scale 1, shift 0."""


def initialize_convolutions(module: nn.Module, mode: str) -> None:
    """Draw every convolution weight of `module` from a normal distribution (He et al., ICCV 2015).

    With kernels of k x k, its standard deviation is sqrt(2 / (k * k * in_channels / groups)) for the mode `fan_in` and
    sqrt(2 / (k * k * out_channels)) for `fan_out`.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")

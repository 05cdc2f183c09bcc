"""What all parts of a network share: the kind of their norms, and the first weights of their convolutions."""

from collections.abc import Callable

from torch import nn

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

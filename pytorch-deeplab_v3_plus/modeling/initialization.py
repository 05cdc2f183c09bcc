"""Initial weights of the convolutions. Batch norms keep torch's own: scale 1, shift 0."""

from torch import nn


def initialize_convolutions(module: nn.Module, mode: str) -> None:
    """Draw every convolution weight of `module` from a normal distribution (He et al., ICCV 2015).

    Args:
        mode: 'fan_in' for the standard deviation sqrt(2 / (k * k * in_channels / groups)),
            'fan_out' for sqrt(2 / (k * k * out_channels)), where k is the kernel size.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")

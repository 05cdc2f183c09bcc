"""The moving average of a network's weights, which often does better on new images than the weights themselves."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The exponential moving average of a network's weights and statistics, from those after the first step on.

    As torch.optim.swa_utils.AveragedModel makes it, without its counter, for which each step would wait for a GPU.
    Integer buffers take their values of the last step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.begun = False
        self._lerp = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        pairs = list(zip(*([*one.parameters(), *one.buffers()] for one in (self.network, network)), strict=True))
        for mean, value in pairs:
            if not (self.begun and mean.is_floating_point()):
                mean.copy_(value)
        if self.begun:
            means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
            self._lerp(means, values, None)
        self.begun = True

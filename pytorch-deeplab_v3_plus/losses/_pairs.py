"""Energies over pairs of pixels at given offsets: sum_ij w_ij (1 - S_i . S_j), with its gradient.

A pair is written as its first pixel and an offset (rows, columns) to the second, which is after it in row order. Tables
(O, H, W) hold a value for each offset and first pixel, 0 where the second would lie outside the image.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from filtering.autograd import never_twice

Offset = tuple[int, int]


def half_window(radius: int) -> list[Offset]:
    """Return the offsets of at most `radius` rows and columns, one for each pair of opposite ones."""
    reach = range(-radius, radius + 1)
    return [(rows, columns) for rows in range(radius + 1) for columns in reach if (rows, columns) > (0, 0)]


def fitting(offsets: Sequence[Offset], values: Tensor) -> list[Offset]:
    """Return those offsets at which pixels of `values` (..., H, W) make pairs."""
    height, width = values.shape[-2:]
    return [(rows, columns) for rows, columns in offsets if rows < height and abs(columns) < width]


def both_ends(values: Tensor, offset: Offset) -> tuple[Tensor, Tensor]:
    """Return views of `values` (..., H, W) at the first and at the second pixels of all pairs with a fitting offset."""
    rows, columns = offset
    height, width = values.shape[-2] - rows, values.shape[-1] - abs(columns)
    first = values[..., :height, max(0, -columns) :][..., :width]
    return first, values[..., rows:, max(0, columns) :][..., :width]


def over_pairs(function: Callable[[Tensor, Tensor], Tensor], values: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Return the table of `function`, of both ends of `values` (C, H, W), which gives (h, w)."""
    table = values.new_zeros(len(offsets), *values.shape[1:])
    for row, offset in zip(table, offsets, strict=True):
        both_ends(row, offset)[0].copy_(function(*both_ends(values, offset)))
    return table


def squared_distance(here: Tensor, there: Tensor) -> Tensor:
    """Return |here - there|^2 over the channels, (h, w)."""
    return (here - there).square_().sum(0)


def similarity(exponents: Tensor) -> Tensor:
    """Return e to the power of `exponents`, in their place; 0 for denormal numbers, with which processors are slow."""
    return F.threshold_(exponents.exp_(), 1e-20, 0.0)


def pair_sums(values: Tensor, offsets: Sequence[Offset], tables: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return sum_j w_ij values_j for values (N, K, H, W), and the sum of w_ij over all pairs, float64.

    The weights are those at fitting offsets, a table for each image.
    """
    width = values.shape[3]
    steps = [rows * width + columns for rows, columns in offsets]
    sums, total = torch.zeros_like(values), torch.zeros((), dtype=torch.float64, device=values.device)
    # One channel fits into a processor's cache; a GPU takes all channels at once.
    at_once = 1 if values.device.type == "cpu" else values.shape[1]
    for image_values, image_sums, table in zip(values.flatten(2), sums.flatten(2), tables, strict=True):
        weights = [row[:-step] for row, step in zip(table.flatten(1), steps, strict=True)]
        for value, result in zip(image_values.split(at_once), image_sums.split(at_once), strict=True):
            for weight, step in zip(weights, steps, strict=True):
                result[:, :-step].addcmul_(weight, value[:, step:])
                result[:, step:].addcmul_(weight, value[:, :-step])
        total += table.sum(dtype=torch.float64)
    return sums, total


class PairEnergy(Function):
    """sum over images and pairs of w_ij (1 - S_i . S_j); its gradient at S_i is -sum_j w_ij S_j."""

    @staticmethod
    def forward(ctx, probabilities: Tensor, sum_pairs: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Return a scalar for probabilities (N, K, H, W); `sum_pairs` gives what `pair_sums` returns for them."""
        values = probabilities.detach().contiguous()
        sums, energy = sum_pairs(values)
        for image_values, image_sums in zip(values, sums, strict=True):
            # Where neighbours agree, the difference of two large sums.
            energy -= (image_values * image_sums).sum(dtype=torch.float64) / 2
        ctx.save_for_backward(sums)
        return energy.to(probabilities.dtype)

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor):
        (sums,) = ctx.saved_tensors
        return sums * -grad_output, None

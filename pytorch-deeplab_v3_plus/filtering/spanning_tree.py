"""Minimum spanning trees of the pixels of images, and filters whose weights are products along the trees' paths.

Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019. Everything is tensor
operations on any device, for all images of a batch at once: their trees are one forest over M = N H W pixels.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable


@dataclass(frozen=True)
class Forest:
    """Rooted trees over M pixels, in an order in which all children of a pixel come before it.

    `pixels` (M,), int64, are the pixels in this order, and `places` (M,) where each pixel stands in it. `parents` (M,)
    are the places of the parents by place; a root is its own. `bounds` divides the order into levels of pixels that are
    not related; the last are the roots, which are the trees' centres, so that there are few levels.
    """

    pixels: Tensor
    places: Tensor
    parents: Tensor
    bounds: list[int]

    @property
    def levels(self) -> list[slice]:
        """The places of each level but the last."""
        return [slice(*pair) for pair in zip(self.bounds[:-2], self.bounds[1:-1], strict=True)]


def minimum_spanning_forest(features: Tensor) -> Forest:
    """Return the minimum spanning trees of the 4-connected grids of images (N, C, H, W), one tree an image.

    An edge weighs |f_i - f_j|^2; of equal ones the first in row order counts as lighter, those to the right before
    those below.
    """
    n, _, h, w = features.shape
    pixels = torch.arange(n * h * w, device=features.device).view(n, h, w)
    right = features[..., 1:] - features[..., :-1]
    below = features[..., 1:, :] - features[..., :-1, :]
    first = torch.cat([pixels[:, :, :-1].flatten(), pixels[:, :-1].flatten()])
    second = torch.cat([pixels[:, :, 1:].flatten(), pixels[:, 1:].flatten()])
    weights = torch.cat([difference.square_().sum(1).flatten() for difference in (right, below)])
    taken = _boruvka(first, second, weights.float(), n * h * w)
    return _rooted(first[taken], second[taken], n * h * w)


def _boruvka(first: Tensor, second: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return the numbers of the edges that make the minimum spanning forest of `count` nodes, int64.

    Borůvka's algorithm: every component takes the lightest edge that leaves it, all at once, until none leaves any.
    """
    # Weights that are 0 or more are in the order of their bits; the number of the edge makes every key different.
    numbers = torch.arange(len(weights), device=weights.device)
    keys = (weights.view(torch.int32).long() << 32) | numbers
    ends = torch.stack([first, second])  # the components at the ends of the edges that join two
    nodes = torch.arange(count, device=weights.device)
    component = nodes
    taken = []
    while len(keys):
        none = torch.iinfo(torch.int64).max
        lightest = torch.full((count,), none, device=keys.device)
        lightest.scatter_reduce_(0, ends.flatten(), keys.repeat(2), "amin")
        joining = (lightest != none).nonzero().squeeze(1)
        edges = lightest[joining] & 0xFFFFFFFF
        taken.append(edges)
        parent = nodes.clone()
        parent[joining] = component[first[edges]] + component[second[edges]] - joining  # the component at the other end
        # Two components may have taken the same edge: the first becomes the root.
        parent = torch.where((parent[parent] == nodes) & (nodes < parent), nodes, parent)
        while not torch.equal(grandparent := parent[parent], parent):
            parent = grandparent
        component = parent[component]
        ends = parent[ends]
        left = (ends[0] != ends[1]).nonzero().squeeze(1)
        ends, keys = ends[:, left], keys[left]
    return torch.cat(taken).unique() if taken else numbers


def _rooted(first: Tensor, second: Tensor, count: int) -> Forest:
    """Return the forest of `count` nodes with these edges, by taking away leaves again and again."""
    ends, others = torch.cat([first, second]), torch.cat([second, first])
    degree = torch.zeros(count, dtype=torch.int64, device=first.device).index_add_(0, ends, torch.ones_like(ends))
    neighbours = torch.zeros_like(degree).index_add_(0, ends, others)  # their sum: at a leaf, its only neighbour
    pixels = torch.arange(count, device=first.device)
    parents, levels = pixels.clone(), []
    leaves = (degree == 1).nonzero().squeeze(1)
    while len(leaves):
        parent = neighbours[leaves]
        inner = (degree[parent] > 1) | (leaves > parent)  # of the last two the first is the root
        leaves, parent = leaves[inner], parent[inner]
        parents[leaves] = parent
        levels.append(leaves)
        degree[leaves] = 0
        degree.index_add_(0, parent, torch.full_like(parent, -1))
        neighbours.index_add_(0, parent, -leaves)
        leaves = parent[degree[parent] == 1].unique()
    levels.append((parents == pixels).nonzero().squeeze(1))
    order = torch.cat(levels)
    places = torch.empty_like(order).scatter_(0, order, pixels)
    bounds = [0, *itertools.accumulate(map(len, levels))]
    return Forest(order, places, places[parents[order]], bounds)


class TreeFilter(Function):
    """y_i = sum_j x_j prod of the weights along the path from i to j, over the tree of i; j = i included."""

    @staticmethod
    def forward(ctx, values: Tensor, weights: Tensor, forest: Forest) -> Tensor:
        """Filter values (M, K) by pixel; weights (M,) are by place, those of the edges to the parents, 0 at a root."""
        inward, result = _passes(values, weights, forest)
        ctx.forest = forest
        ctx.save_for_backward(weights, *((inward, result) if ctx.needs_input_grad[1] else ()))
        return result.index_select(0, forest.places)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        forest, (weights, *saved) = ctx.forest, ctx.saved_tensors
        inward_gradient, gradient = _passes(grad_output, weights, forest)
        of_weights = None
        if saved:
            # Paths through an edge join what is below it to what is beyond it, in both directions.
            inward, result = saved
            weight = weights[:, None]
            beyond = result.index_select(0, forest.parents) - weight * inward
            beyond_gradient = gradient.index_select(0, forest.parents) - weight * inward_gradient
            of_weights = (inward_gradient * beyond + inward * beyond_gradient).sum(1)
            of_weights[forest.bounds[-2] :] = 0
        return gradient.index_select(0, forest.places), of_weights, None


def _passes(values: Tensor, weights: Tensor, forest: Forest) -> tuple[Tensor, Tensor]:
    """Return for each place the sums over the pixels below it, and over all of its tree, (M, K) each."""
    inward, weights = values.index_select(0, forest.pixels), weights[:, None]
    for level in forest.levels:
        inward.index_add_(0, forest.parents[level], inward[level] * weights[level])
    result = inward * (1 - weights**2)  # the parent's sum will have the part from below a pixel already
    for level in reversed(forest.levels):
        result[level].addcmul_(weights[level], result.index_select(0, forest.parents[level]))
    return inward, result

"""Minimum spanning trees of the pixels of images, and filters whose weights are products along the trees' paths.

Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019. On a CPU the C++ module
does the work. Elsewhere everything is tensor operations for all images of a batch at once: their trees are one forest
over M = N H W pixels.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function

from filtering import native
from filtering.autograd import never_twice


def tree_filter(features: Tensor, values: Tensor, sigma: float) -> Tensor:
    """Return the means of values (N, K, H, W) along the minimum spanning trees of features (N, C, H, W).

    y_i = sum_j w_ij x_j / sum_j w_ij, w_ij = prod exp(-|f_u - f_v|^2 / sigma) along the path of edges uv from i to j.
    Differentiable in both; the trees are taken for constant.
    """
    if native.can_filter(values, "SpanningForest"):
        distances = EdgeDistances.apply(features)
        forest = native.SpanningForest(distances.detach(), *features.shape[2:])
        return NativeTreeFilter.apply(values, torch.exp(distances / -sigma), forest)
    rows = values.permute(0, 2, 3, 1).flatten(0, 2)
    forest = minimum_spanning_forest(features.detach())
    weights = edge_weights(features, forest, sigma)
    sums = TreeFilter.apply(torch.ones_like(rows[:, :1]), weights, forest)
    means = TreeFilter.apply(rows, weights, forest) / sums
    return means.view(values.movedim(1, 3).shape).movedim(3, 1)


def differences(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return what features (N, C, H, W) differ by from pixel to pixel: to the right, and to the one below."""
    return features[..., 1:] - features[..., :-1], features[..., 1:, :] - features[..., :-1, :]


class EdgeDistances(Function):
    """|f_i - f_j|^2 of the edges of grids, (N, H (W-1) + (H-1) W): in row order to the right, then to those below."""

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        """Return them for features (N, C, H, W)."""
        ctx.save_for_backward(features)
        return torch.cat([step.square_().sum(1).flatten(1) for step in differences(features)], 1)

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        n, _, height, width = features.shape
        gradient, first = torch.zeros_like(features), height * (width - 1)
        right, below = differences(features)
        right *= 2 * grad_output[:, :first].view(n, 1, height, width - 1)
        below *= 2 * grad_output[:, first:].view(n, 1, height - 1, width)
        gradient[..., 1:] += right
        gradient[..., :-1] -= right
        gradient[..., 1:, :] += below
        gradient[..., :-1, :] -= below
        return gradient


class NativeTreeFilter(Function):
    """The means of values (N, K, H, W) along trees, for the weights (N, E) of all edges of the grids, on the CPU."""

    @staticmethod
    def forward(ctx, values: Tensor, weights: Tensor, forest: native.SpanningForest) -> Tensor:
        """Return them, (N, K, H, W)."""
        means, masses = forest.filter(values, weights)
        ctx.forest = forest
        ctx.save_for_backward(weights, masses, *((values, means) if ctx.needs_input_grad[1] else ()))
        return means

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor):
        forest, (weights, masses, *saved) = ctx.forest, ctx.saved_tensors
        of_weights = None
        if saved:
            values, means = saved
            of_sums = grad_output / masses
            of_masses = (of_sums * means).sum(1, keepdim=True)
            of_weights = forest.edge_gradient(values, weights, of_sums)
            of_weights -= forest.edge_gradient(torch.ones_like(of_masses), weights, of_masses)
        return forest.filter_transposed(grad_output, weights, masses), of_weights, None


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
    first = torch.cat([pixels[:, :, :-1].flatten(), pixels[:, :-1].flatten()])
    second = torch.cat([pixels[:, :, 1:].flatten(), pixels[:, 1:].flatten()])
    weights = torch.cat([difference.square_().sum(1).flatten() for difference in differences(features)])
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


def edge_weights(features: Tensor, forest: Forest, sigma: float) -> Tensor:
    """Return exp(-|f_i - f_j|^2 / sigma) of the edges from each pixel i, by place, to its parent j, and 0 at a root."""
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, forest.pixels)
    weights = torch.exp((rows - rows.index_select(0, forest.parents)).square().sum(1) / -sigma)
    roots = torch.arange(len(weights), device=weights.device) >= forest.bounds[-2]
    return weights.masked_fill(roots, 0)


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
    @never_twice
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

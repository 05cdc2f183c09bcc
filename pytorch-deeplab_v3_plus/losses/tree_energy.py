"""The tree energy loss: labels spread along minimum spanning trees."""

import torch
from torch import Tensor, nn

from common.errors import InputError
from dataloaders.labels import UNLABELLED
from dataloaders.transforms import normalize
from filtering.spanning_tree import Forest, TreeFilter, minimum_spanning_forest
from losses._inputs import at_least_float32, check_settings, resized, scaled_size


class TreeEnergy(nn.Module):
    """A pixel without a label should be predicted like those that the image's minimum spanning tree puts near it.

    L = 1/|U| sum_{i in U} |S_i - Y_i|_1,  Y = F_low S, with high_level Y = F_high F_low S
    F_ij = prod exp(-|f_u - f_v|^2 / sigma) along the path of edges uv from i to j, divided by its sum over j

    in the minimum spanning tree of the 4-connected grid of pixels by |f_u - f_v|^2, with f the colours as the network
    sees them (low) or its features (high, sigma 1), and U the pixels without a label of all images of the batch.
    Liang, Wang, Zhang, Sun and Shen, "Tree Energy Loss: Towards Sparsely Annotated Semantic Segmentation", CVPR 2022,
    arXiv:2203.10739.

    Args:
        sigma: of the colours, in squared standard deviations of ImageNet's colours.
        high_level: also filter along the tree of the network's features; the loss is evaluated at their size.
        rloss_scale: in (0, 1], size at which the loss is evaluated without high_level, relative to the input.
    """

    def __init__(
        self, weight: float, *, sigma: float = 0.02, high_level: bool = False, rloss_scale: float = 1.0
    ) -> None:
        super().__init__()
        check_settings("tree_energy", positive=[("sigma", sigma)], shares=[("rloss_scale", rloss_scale)])
        if high_level and rloss_scale != 1:
            raise InputError(
                "regulariser tree_energy: with high_level the features have the size; leave out rloss_scale"
            )
        self.weight, self.sigma, self.high_level, self.rloss_scale = weight, sigma, high_level, rloss_scale

    def forward(
        self, image: Tensor, probabilities: Tensor, region_of_interest: Tensor, labels: Tensor, features: Tensor
    ) -> Tensor:
        """Return the weighted loss, a scalar; arguments as in losses.registry."""
        size = features.shape[2:] if self.high_level else scaled_size(image, self.rloss_scale)
        unlabelled = region_of_interest & (labels == UNLABELLED)
        image, soft, (unlabelled,) = resized(size, image, at_least_float32(probabilities), unlabelled)
        rows = soft.permute(0, 2, 3, 1).flatten(0, 2)
        filtered = tree_filter(normalize(image).to(soft.dtype), rows, self.sigma)
        if self.high_level:
            filtered = tree_filter(features.to(soft.dtype), filtered, 1.0)
        unlabelled = unlabelled.flatten()
        distance = (rows - filtered).abs().sum(1) * unlabelled
        return self.weight * distance.sum() / unlabelled.sum().clamp_min(1)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, sigma={self.sigma:g}, high_level={self.high_level}, "
            f"rloss_scale={self.rloss_scale:g}"
        )


def tree_filter(features: Tensor, rows: Tensor, sigma: float) -> Tensor:
    """Return F of the class's docstring, of features (N, C, H, W), times rows (N H W, K); differentiable in both."""
    forest = minimum_spanning_forest(features.detach())
    weights = edge_weights(features, forest, sigma)
    sums = TreeFilter.apply(torch.ones_like(rows[:, :1]), weights, forest)
    return TreeFilter.apply(rows, weights, forest) / sums


def edge_weights(features: Tensor, forest: Forest, sigma: float) -> Tensor:
    """Return exp(-|f_i - f_j|^2 / sigma) of the edges from each pixel i, by place, to its parent j, and 0 at a root."""
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, forest.pixels)
    weights = torch.exp((rows - rows.index_select(0, forest.parents)).square().sum(1) / -sigma)
    roots = torch.arange(len(weights), device=weights.device) >= forest.bounds[-2]
    return weights.masked_fill(roots, 0)

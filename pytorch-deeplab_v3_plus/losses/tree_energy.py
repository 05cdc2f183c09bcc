"""The tree energy loss: labels spread along minimum spanning trees."""

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

from common.errors import InputError
from dataloaders.labels import UNLABELLED
from dataloaders.transforms import normalize
from filtering.autograd import never_twice
from filtering.bilateral import check_tensors
from filtering.spanning_tree import tree_filter
from losses._inputs import at_least_float32, check_inputs, check_settings, resized, scaled_size


class Distance(Function):
    """sum_i R_i |S_i - Y_i|_1; takes image by image, and keeps the signs in a byte each, to save memory."""

    @staticmethod
    def forward(ctx, one: Tensor, other: Tensor, region: Tensor) -> Tensor:
        """Return a scalar for S and Y (N, K, H, W) and R (N, H, W), bool."""
        signs = torch.empty(one.shape, dtype=torch.int8, device=one.device)
        total = torch.zeros((), dtype=torch.float64, device=one.device)
        for here, there, inside, sign in zip(one, other, region, signs, strict=True):
            difference = (here - there).mul_(inside)
            total += difference.norm(1, 0).sum(dtype=torch.float64)  # millions of numbers
            sign.copy_(difference.sign_())
        ctx.save_for_backward(signs)
        return total.to(one.dtype)

    @staticmethod
    @never_twice
    def backward(ctx, grad_output: Tensor):
        (signs,) = ctx.saved_tensors
        gradient = signs.to(grad_output.dtype).mul_(grad_output)
        return gradient, -gradient, None


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
        self,
        image: Tensor,
        probabilities: Tensor,
        region_of_interest: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted loss, a scalar; arguments as in losses.registry, features only for `high_level`."""
        check_inputs(self, image, probabilities, region_of_interest, labels)
        if features is not None:
            check_tensors(features=features)
        if self.high_level and (features is None or features.dim() != 4 or len(features) != len(image)):
            found = None if features is None else tuple(features.shape)
            raise ValueError(f"features must be ({len(image)}, C, h, w) for high_level, found {found}")
        size = features.shape[2:] if self.high_level else scaled_size(image, self.rloss_scale)
        unlabelled = region_of_interest & (labels == UNLABELLED)
        image, soft, (unlabelled,) = resized(size, image, at_least_float32(probabilities), unlabelled)
        filtered = tree_filter(normalize(image).to(soft.dtype), soft, self.sigma)
        if self.high_level:
            filtered = tree_filter(features.to(soft.dtype), filtered, 1.0)
        return self.weight * Distance.apply(soft, filtered, unlabelled) / unlabelled.sum().clamp_min(1)

    def extra_repr(self) -> str:
        return (
            f"weight={self.weight:g}, sigma={self.sigma:g}, high_level={self.high_level}, "
            f"rloss_scale={self.rloss_scale:g}"
        )

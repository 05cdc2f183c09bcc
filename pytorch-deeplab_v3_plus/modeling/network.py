"""What training and prediction need to know of a network."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class TrainingOutput(NamedTuple):
    """What a network gives to the losses for N images (N, 3, H, W)."""

    logits: Tensor  # (N, K, H, W), of which the regularised losses see the softmax
    features: Tensor  # (N, C, h, w), what the last layer classifies
    scores: tuple[Tensor, ...]  # (N, K, h, w) each, on all of which the cross-entropy is taken; the main ones first


class Network(nn.Module):
    """Turns a normalised image (N, 3, H, W) into logits (N, num_classes, H, W).

    A network is built with `num_classes` and `pretrained` (its first weights, see modeling.pretrained) and, where it
    `has_backbone`, with `backbone`, `output_stride`, `sync_bn` and `freeze_bn` (see modeling.deeplab.DeepLab).
    """

    classifier_keys: tuple[str, ...]  # the weights that depend on the number of classes, as named in its state dict
    output_stride: int  # input pixels per feature pixel
    score_strides: tuple[int, ...] = (1,)  # input pixels per pixel of each of TrainingOutput.scores
    has_backbone = True  # whether it is built on one of modeling.backbone
    takes_batch_statistics = True  # whether it has batch norms that do: a batch then needs two images
    freeze_bn = False  # whether the batch norms stay in evaluation, through training too
    crop_size: int | None = None  # side of the crops that it is trained on, where it is known
    whole_grid = 1  # the sides of whole images, which are no crops, are padded to this times k plus 1

    @classmethod
    def default_pretrained(cls) -> str:
        """Return what `pretrained` means for training when nobody says, for a network without a backbone."""
        return "none"

    def forward(self, image: Tensor, for_training: bool = False) -> Tensor | TrainingOutput:
        """Return the logits of a normalised image, or all that the losses want of it."""
        raise NotImplementedError

    def whole(self, image: Tensor) -> Tensor:
        """Return the logits of a normalised whole image (N, 3, H, W), padded with its last pixels by `whole_grid`."""
        grid, (height, width) = self.whole_grid, image.shape[2:]
        image = F.pad(image, (0, (1 - width) % grid, 0, (1 - height) % grid), mode="replicate")
        return self(image)[:, :, :height, :width]

    def parameter_groups(self, head_rate: float = 10.0) -> list[dict[str, Any]]:
        """Return the optimizer's groups, each with the `lr_scale` by which it learns faster than the learning rate.

        `head_rate` is that of the head. A group may have a `weight_decay` of its own. What never learns is left out.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Network":
        """Switch between training and evaluation; with `freeze_bn` the batch norms stay in evaluation."""
        super().train(mode)
        for module in self.modules() if self.freeze_bn else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

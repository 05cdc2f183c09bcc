"""DeepLabv3+ (Chen et al., ECCV 2018, arXiv:1802.02611): backbone, atrous spatial pyramid pooling, decoder.

Parameter names are those of github.com/jfzhang95/pytorch-deeplab-xception, on which the published checkpoints of the
regularised losses are built: their state dicts load with strict=True.
"""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.aspp import ASPP
from modeling.backbone import build_backbone
from modeling.decoder import Decoder
from modeling.network import Network, TrainingOutput
from modeling.pretrained import load_pretrained

ASPP_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # by the backbone's output stride


class DeepLab(Network):
    """The segmentation network: a normalised image in, one logit per class and pixel out, at the image's size.

    Args:
        num_classes: number of classes, background included.
        backbone: a name in `modeling.backbone.BACKBONES`.
        output_stride: 16 or 8, how much smaller than the image the backbone's output is (drn: always 8).
        sync_bn: take the batch norms' statistics over all processes of a distributed run.
        freeze_bn: keep the batch norms' running statistics fixed through training; scale and shift are still trained.
        pretrained: the backbone's first weights: 'none' (random), 'bundled', 'imagenet', or a file (see
            `modeling.pretrained`).

    Raises:
        InputError: an unknown backbone or output stride, or pretrained weights that cannot be had or do not fit.
    """

    classifier_keys = ("decoder.last_conv.8.weight", "decoder.last_conv.8.bias")

    def __init__(
        self,
        num_classes: int = 21,
        backbone: str = "mobilenet",
        output_stride: int = 16,
        sync_bn: bool = False,
        freeze_bn: bool = False,
        pretrained: str | Path = "none",
    ):
        super().__init__()
        norm_layer = nn.SyncBatchNorm if sync_bn else nn.BatchNorm2d
        self.backbone = build_backbone(backbone, output_stride, norm_layer)
        load_pretrained(self.backbone, pretrained)
        self.aspp = ASPP(self.backbone.out_channels, ASPP_RATES[self.backbone.output_stride], norm_layer)
        self.decoder = Decoder(self.backbone.low_level_channels, num_classes, norm_layer)
        self.freeze_bn = freeze_bn
        self.output_stride = self.backbone.output_stride
        self.train()

    def forward(self, image: Tensor, for_training: bool = False) -> Tensor | TrainingOutput:
        """Return the logits (N, num_classes, H, W) of a normalised image (N, 3, H, W).

        The features for the losses are (N, 256, H/4, W/4); the cross-entropy is taken on the logits.
        """
        x, low_level = self.backbone(image)  # (N, out_channels, H/16, W/16), (N, low_level_channels, H/4, W/4)
        features, logits = self.decoder(self.aspp(x), low_level)
        logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=True)
        return TrainingOutput(logits, features, (logits,)) if for_training else logits

    @property
    def whole_grid(self) -> int:
        """The stride, as scaling features with aligned corners is exact for sides of a multiple of it plus 1 alone.

        Others are stretched: by 7 % where 172 pixels have features at 0, 16, ... 160. 1 for a network that has learned
        from stretched crops.
        """
        stretched = self.crop_size and (self.crop_size - 1) % self.output_stride
        return 1 if stretched else self.output_stride

    def parameter_groups(self, head_rate: float = 10.0) -> list[dict[str, Any]]:
        """Return the optimizer's groups: the backbone, and all else at `head_rate` times the learning rate."""
        head = [*self.aspp.parameters(), *self.decoder.parameters()]
        backbone = {"params": list(self.backbone.parameters()), "lr_scale": 1.0}
        return [backbone, {"params": head, "lr_scale": head_rate}]

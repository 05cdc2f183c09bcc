"""What the network needs to know of a backbone."""

from collections.abc import Mapping

from torch import Tensor, nn


class Backbone(nn.Module):
    """Turns an image into deep features and early, finer ones.

    Attributes:
        out_channels: channels of the deep features.
        low_level_channels: channels of the low-level features, which are 4 times smaller than the image.
        output_stride: how many times smaller than the image the deep features are.
    """

    out_channels: int
    low_level_channels: int
    output_stride: int

    def __init__(self, output_stride: int):
        super().__init__()
        self.output_stride = output_stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (deep features, low-level features) of a normalised image (N, 3, H, W)."""
        raise NotImplementedError

    @staticmethod
    def imagenet_url() -> str | None:
        """Where the ImageNet weights are published, or None where there are none."""
        return None

    @staticmethod
    def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A plain dict of published weights under this backbone's names, without their classifier; our names stay."""
        return dict(weights)

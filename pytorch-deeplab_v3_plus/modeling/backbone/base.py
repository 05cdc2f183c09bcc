"""What the network needs to know of a backbone."""

from collections.abc import Mapping

from torch import Tensor, nn


class Backbone(nn.Module):
    """Turns an image into deep features and early, finer ones."""

    out_channels: int  # of the deep features
    low_level_channels: int  # of the low-level features, which are 4 times smaller than the image
    output_stride: int  # how many times smaller than the image the deep features are
    bundled: str | None = None  # the file of data/weights/ with ImageNet weights, where there is one

    def __init__(self, output_stride: int):
        super().__init__()
        self.output_stride = output_stride

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (deep features, low-level features) of a normalised image (N, 3, H, W)."""
        raise NotImplementedError

    @staticmethod
    def imagenet_url() -> str | None:
        """Return where the ImageNet weights are published, or None where there are none."""
        return None

    @staticmethod
    def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under this backbone's names, without their classifier; our own names stay."""
        return dict(weights)

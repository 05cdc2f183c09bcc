"""Run a network over images of any size: scaled, in batches, in overlapping tiles where they are large; and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.errors import InputError
from dataloaders.transforms import IMAGENET_MEAN, IMAGENET_STD, centre_square, resize_short_side
from DenseCRFLoss import DenseCRFLoss

INTERPOLATIONS = ("bilinear", "bicubic")


class RawRGB(nn.Module):
    """A network behind its normalisation: RGB (N, 3, H, W) in 0-255 in, logits (N, K, H, W) out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.network((image / 255 - self.mean) / self.std)


class View:
    """What the network sees of an image: its short side scaled to `size` (0: not scaled).

    With `centre`, the centre square of the scaled image, which is then the picture that the result fits.
    """

    def __init__(self, size: int, centre: bool = False) -> None:
        self.size, self.centre = size, centre

    def __call__(self, image: Image.Image, source: object = "memory") -> tuple[Image.Image, Tensor]:
        """Return the picture to be segmented, RGB, and the network's input, uint8 (3, h, w).

        Raises InputError, naming `source`, where the input were too large: a sliver of an image would be scaled to
        gigabytes. The limit is Pillow's for reading images.
        """
        if self.size * self.size * max(image.size) / min(image.size) > Image.MAX_IMAGE_PIXELS:
            raise InputError(
                f"expected an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels when its short side is scaled to "
                f"{self.size}, found {image.width}x{image.height} in {source}; lower --crop_size"
            )
        scaled = resize_short_side(image, self.size) if self.size else image
        if self.centre:
            image = scaled = centre_square(scaled)
        return image, torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


@torch.inference_mode()
def predict(model: RawRGB, inputs: Sequence[Tensor], tile: int = 0, batch_size: int = 1) -> list[Tensor]:
    """Return the logits (K, h, w), on the model's device, of RGB images (3, h, w) in 0-255, of any sizes.

    A side longer than `tile` (0: never) is cut into tiles that overlap by a quarter or more; their logits are averaged
    with weights that fall off linearly towards a tile's edges, where the network sees least around it. Images and
    tiles of one size are run together, at most `batch_size` at a time. The model is a RawRGB in evaluation mode.
    """
    device = next(model.parameters()).device
    views: dict[tuple[int, int], list[tuple[int, int, int]]] = {}  # size -> (image, top, left)
    for index, image in enumerate(inputs):
        height, width = image.shape[1:]
        h, w = (min(height, tile), min(width, tile)) if tile else (height, width)
        places = [(index, top, left) for top in tile_starts(height, h) for left in tile_starts(width, w)]
        views.setdefault((h, w), []).extend(places)

    sums: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}  # of the images in tiles
    for (h, w), places in views.items():
        weight = (_ramp(h)[:, None] * _ramp(w)).to(device)
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            batch = torch.stack([inputs[i][:, top : top + h, left : left + w] for i, top, left in some])
            for (i, top, left), logits in zip(some, model(batch.to(device)), strict=True):
                size = inputs[i].shape[1:]
                if (h, w) == size:
                    sums[i] = logits
                    continue
                if i not in sums:
                    sums[i], weights[i] = logits.new_zeros(len(logits), *size), logits.new_zeros(size)
                sums[i][:, top : top + h, left : left + w] += weight * logits
                weights[i][top : top + h, left : left + w] += weight
    return [sums[i] / weights[i] if i in weights else sums[i] for i in range(len(inputs))]


def tile_starts(length: int, tile: int) -> list[int]:
    """Return where the tiles of a side begin: evenly from end to end, overlapping by a quarter of a tile or more."""
    if length <= tile:
        return [0]
    overlap = tile // 4
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(length: int) -> Tensor:
    """Return the weights along a tile's side: 1 in the middle, falling linearly over a quarter at each end."""
    to_edge = torch.arange(1, length + 1).minimum(torch.arange(length, 0, -1))
    return (to_edge / (length // 4 + 1)).clamp(max=1)


def scaled_back(logits: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Iterator[Tensor]:
    """Yield the logits (K, h, w) class by class at an image's own size (height, width)."""
    for plane in logits:
        if plane.shape == (height, width):
            yield plane
        else:
            yield F.interpolate(plane[None, None], size=(height, width), mode=interpolation, align_corners=True)[0, 0]


@torch.inference_mode()
def labels_and_confidence(
    logits: Tensor, height: int, width: int, interpolation: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Return each pixel's class, uint8 (height, width), and its softmax probability, float32, both on the CPU.

    Class by class, so that a large photograph needs three planes at its own size and not one for each class.
    """
    planes = scaled_back(logits, height, width, interpolation)
    best = next(planes).clone()
    log_sum = best.clone()
    labels = torch.zeros(height, width, dtype=torch.uint8, device=logits.device)
    for k, plane in enumerate(planes, start=1):
        labels[plane > best] = k
        best = best.maximum(plane)
        log_sum = log_sum.logaddexp(plane)
    return labels.cpu(), (best - log_sum).exp().cpu()


@torch.inference_mode()
def probabilities(logits: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Return the softmax probabilities (K, height, width) float32."""
    return torch.stack(list(scaled_back(logits, height, width, interpolation))).softmax(0)


def densecrf_gradient(loss: DenseCRFLoss, inputs: Tensor, logits: Tensor) -> tuple[float, Tensor]:
    """Return the DenseCRF loss of logits (K, h, w) over their input, RGB (3, h, w), and its gradient (K, h, w).

    The gradient is with respect to the probabilities.
    """
    image = inputs.to(logits.device).float()[None]
    soft = logits.softmax(0)[None].requires_grad_()
    value = loss(image, soft, torch.ones_like(image[:, 0]))
    value.backward()
    return value.item(), soft.grad[0].cpu()

"""The plain route from an image to a sample, which the faster transforms must equal to the last bit.

It composes the original's steps as they are written down: each on the whole image, with Pillow, then float32 and
normalisation in NumPy.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDING = 254


def train_view(
    image: Image.Image,
    label: Image.Image,
    generator: torch.Generator,
    base_size: int,
    crop_size: int,
    scale_range: tuple[float, float] = (0.5, 2.0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, scale, pad, crop, blur; return the normalised image, float32 (3, H, W), and the label, int64 (H, W)."""

    def uniform() -> float:
        return torch.rand((), generator=generator).item()

    def integer(lowest: float, highest: float) -> int:
        return int(torch.randint(int(lowest), int(highest) + 1, (), generator=generator))

    if uniform() < 0.5:
        image, label = ImageOps.mirror(image), ImageOps.mirror(label)
    short_side = integer(base_size * scale_range[0], base_size * scale_range[1])
    image, label = _scale(image, label, short_side)
    border = (0, 0, max(crop_size - image.width, 0), max(crop_size - image.height, 0))
    image, label = ImageOps.expand(image, border, fill=0), ImageOps.expand(label, border, fill=PADDING)
    left, top = integer(0, image.width - crop_size), integer(0, image.height - crop_size)
    box = (left, top, left + crop_size, top + crop_size)
    image, label = image.crop(box), label.crop(box)
    if uniform() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(radius=uniform()))
    return _tensors(image, label)


def eval_view(image: Image.Image, label: Image.Image, crop_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Short side to the crop size, centre square; results as train_view's."""
    image, label = _scale(image, label, crop_size)
    left, top = round((image.width - crop_size) / 2), round((image.height - crop_size) / 2)
    box = (left, top, left + crop_size, top + crop_size)
    return _tensors(image.crop(box), label.crop(box))


def _scale(image: Image.Image, label: Image.Image, short_side: int) -> tuple[Image.Image, Image.Image]:
    width, height = image.size
    if width < height:
        size = (short_side, int(1.0 * height * short_side / width))
    else:
        size = (int(1.0 * width * short_side / height), short_side)
    return image.resize(size, Image.Resampling.BILINEAR), label.resize(size, Image.Resampling.NEAREST)


def _tensors(image: Image.Image, label: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    array = np.array(image).astype(np.float32)
    array /= 255.0
    array -= MEAN
    array /= STD
    array = np.ascontiguousarray(array.transpose(2, 0, 1))
    return torch.from_numpy(array), torch.from_numpy(np.array(label).astype(np.int64))

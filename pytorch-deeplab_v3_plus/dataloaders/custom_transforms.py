"""Joint transforms of an image and its label map, as in the original (PIL based, same order, same rounding).

All randomness comes from the torch.Generator that is handed in, so a sample depends on its seed alone, never on which
worker draws it.
"""

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from dataloaders.labels import PADDING

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values in [0, 1]: what the pretrained backbones expect."""


class TrainTransform:
    """Random flip, scale, crop and blur, then normalisation.

    With probability 1/2 mirror; scale the short side to an integer drawn uniformly from `scale_range` (the original's:
    0.5 to 2) times base_size, both ends included (image bilinear, label nearest); pad at the right and bottom to the
    crop size (image 0, label 254); cut a random square of crop_size; with probability 1/2 blur with a Gaussian of
    radius uniform in [0, 1].
    """

    def __init__(self, base_size: int, crop_size: int, scale_range: tuple[float, float] = (0.5, 2.0)) -> None:
        self.shortest, self.longest = (int(base_size * scale) for scale in scale_range)
        self.crop_size = crop_size

    def __call__(
        self, image: Image.Image, label: Image.Image, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform one pair.

        Args:
            image: mode RGB.
            label: mode L (values, not colours), of the same size.
            generator: source of all randomness; None takes torch's global one.

        Returns:
            Normalised image, float32 (3, crop_size, crop_size), and label, int64 (crop_size, crop_size).
        """
        if _uniform(generator) < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        short_side = _integer(self.shortest, self.longest, generator)
        image = resize_short_side(image, short_side, Image.Resampling.BILINEAR)
        label = resize_short_side(label, short_side, Image.Resampling.NEAREST)
        border = (0, 0, max(self.crop_size - image.width, 0), max(self.crop_size - image.height, 0))
        image, label = ImageOps.expand(image, border, fill=0), ImageOps.expand(label, border, fill=PADDING)
        left = _integer(0, image.width - self.crop_size, generator)
        top = _integer(0, image.height - self.crop_size, generator)
        box = (left, top, left + self.crop_size, top + self.crop_size)
        image, label = image.crop(box), label.crop(box)
        if _uniform(generator) < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(radius=_uniform(generator)))
        return to_tensor(image), label_to_tensor(label)


class EvalTransform:
    """The original's validation view: short side scaled to the crop size, centre square, normalisation."""

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size

    def __call__(self, image: Image.Image, label: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform one pair; arguments and results as TrainTransform's."""
        image = resize_short_side(image, self.crop_size, Image.Resampling.BILINEAR)
        label = resize_short_side(label, self.crop_size, Image.Resampling.NEAREST)
        return to_tensor(centre_square(image)), label_to_tensor(centre_square(label))


def resize_short_side(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Scale so that the short side has ``size`` pixels; the long side is rounded down, as in the original."""
    width, height = image.size
    if width < height:
        return image.resize((size, int(1.0 * height * size / width)), resample)
    return image.resize((int(1.0 * width * size / height), size), resample)


def centre_square(image: Image.Image) -> Image.Image:
    """Cut the largest square from the middle."""
    side = min(image.size)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as a normalised float32 tensor (3, H, W)."""
    array = np.asarray(image).astype(np.float32)  # (H, W, 3)
    array /= 255.0
    array -= IMAGENET_MEAN
    array /= IMAGENET_STD
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def label_to_tensor(label: Image.Image) -> torch.Tensor:
    """Return the values of a label map of mode L or P as an int64 tensor (H, W)."""
    return torch.from_numpy(np.asarray(label).astype(np.int64))


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation: float (..., 3, H, W) in, the same shape, dtype and device in [0, 255] out."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images * std + mean) * 255.0


def _uniform(generator: torch.Generator | None) -> float:
    return torch.rand((), generator=generator).item()


def _integer(lowest: int, highest: int, generator: torch.Generator | None) -> int:
    """Draw from [lowest, highest], both included."""
    return int(torch.randint(lowest, highest + 1, (), generator=generator))

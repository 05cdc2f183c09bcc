"""Joint transforms of an image and its label map, as in the original (PIL based, same order, same rounding).

All randomness comes from the torch.Generator that is passed in, so that a sample depends on its seed alone, not on the
worker that loads it. Samples stay uint8; a batch is normalised on the device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from dataloaders.labels import PADDING
from dataloaders.sizes import scaled_size
from modeling.caffe import MEAN_BGR
from modeling.layers import IMAGENET_MEAN, IMAGENET_STD

Tensors = tuple[torch.Tensor, torch.Tensor]  # image and label
PADDING_COLOURS = {"black": (0, 0, 0), "mean": tuple(round(value) for value in reversed(MEAN_BGR))}  # RGB
BLUR_PASSES = 3  # of Pillow's Gaussian blur along each axis; up to radius 1 each reaches one pixel further


class TrainTransform:
    """Random flip, scale, crop and blur.

    With probability 1/2 mirror; scale the short side to an integer drawn uniformly from `scale_range` (the original's:
    0.5 to 2) times base_size, both ends included (image bilinear, label nearest); pad at the right and bottom to the
    crop size (image 0, label 254); cut a random square of crop_size; with probability 1/2 blur with a Gaussian of
    radius uniform in [0, 1]. Of an image that is enlarged, hardly any pixels outside the crop are computed.

    A base_size of None stands for the image's own short side, `scales` are factors of which one is drawn instead of a
    size in `scale_range`, `blur` False leaves that out, and `padding` is a name in PADDING_COLOURS.
    """

    def __init__(
        self,
        base_size: int | None,
        crop_size: int,
        scale_range: tuple[float, float] = (0.5, 2.0),
        *,
        scales: Sequence[float] | None = None,
        blur: bool = True,
        padding: str = "black",
    ) -> None:
        self.base_size, self.crop_size, self.scale_range = base_size, crop_size, scale_range
        self.scales, self.blur, self.colour = scales, blur, PADDING_COLOURS[padding]

    def __call__(self, image: Image.Image, label: Image.Image, generator: torch.Generator | None = None) -> Tensors:
        """Transform an image, mode RGB, and its label map, mode L (values, not colours), of the same size.

        `generator` is the source of all randomness; None takes torch's global one. Returns the image, uint8
        (3, crop_size, crop_size), and the label, uint8 (crop_size, crop_size).
        """
        crop = self.crop_size
        if _uniform(generator) < 0.5:
            image, label = ImageOps.mirror(image), ImageOps.mirror(label)
        base = self.base_size or min(image.size)
        if self.scales:
            short_side = round(base * self.scales[_integer(0, len(self.scales) - 1, generator)])
        else:
            short_side = _integer(*(int(base * scale) for scale in self.scale_range), generator)
        width, height = scaled_size(image.size, max(1, short_side))
        left, top = (_integer(0, max(length - crop, 0), generator) for length in (width, height))
        box = (left, top, min(left + crop, width), min(top + crop, height))
        pixels, values = np.full((crop, crop, 3), self.colour, np.uint8), np.full((crop, crop), PADDING, np.uint8)
        inside = np.s_[: box[3] - top, : box[2] - left]
        pixels[inside] = resized_part(image, (width, height), box)
        values[inside] = label.resize((width, height), Image.Resampling.NEAREST).crop(box)
        if self.blur and _uniform(generator) < 0.5:
            # The padding counts as its colour, but only its edge can change.
            near = np.s_[: box[3] - top + BLUR_PASSES, : box[2] - left + BLUR_PASSES]
            pixels[near] = blurred(pixels[near], radius=_uniform(generator))
        return to_tensor(pixels), to_tensor(values)


class EvalTransform:
    """The original's validation view: short side scaled to the crop size, centre square."""

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size

    def __call__(self, image: Image.Image, label: Image.Image, generator: torch.Generator | None = None) -> Tensors:
        """Transform one pair; arguments and results as TrainTransform's, though nothing here is random."""
        size = scaled_size(image.size, self.crop_size)
        box = centre_box(size)
        part = label.resize(size, Image.Resampling.NEAREST).crop(box)
        return to_tensor(resized_part(image, size, box)), to_tensor(part)


def resize_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scale an image bilinearly so that its short side has ``size`` pixels; 0: leave it as it is."""
    if not size:
        return image
    return image.resize(scaled_size(image.size, size), Image.Resampling.BILINEAR)


def centre_square(image: Image.Image) -> Image.Image:
    """Cut the largest square from the middle."""
    return image.crop(centre_box(image.size))


def centre_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest square in the middle of a (width, height) as (left, top, right, bottom)."""
    side = min(size)
    left, top = (round((length - side) / 2) for length in size)
    return left, top, left + side, top + side


def resized_part(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Return ``image.resize(size, BILINEAR).crop(box)``, the same pixels for less work; `box` lies within `size`.

    To enlarge, Pillow scales along x, rounds to 8 bits and scales along y. Here x takes only the rows that the part is
    made of, and y only its columns. (Pillow's own ``resize(size, box=...)`` rounds the box to single precision, which
    gives other pixels.)
    """
    left, top, right, bottom = box
    if size[0] < image.width or size[1] < image.height:
        return image.resize(size, Image.Resampling.BILINEAR).crop(box)
    scale = image.height / size[1]
    first = max(math.floor((top + 0.5) * scale) - 2, 0)  # one row for the filter, one for rounding
    last = min(math.ceil((bottom - 0.5) * scale) + 2, image.height)
    rows = image.crop((0, first, image.width, last)).resize((size[0], last - first), Image.Resampling.BILINEAR)
    # Beyond its edges an image crops as black: rows that do not count.
    columns = rows.crop((left, -first, right, image.height - first))
    return columns.resize((right - left, size[1]), Image.Resampling.BILINEAR).crop((0, top, right - left, bottom))


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Return ``image.filter(ImageFilter.GaussianBlur(radius))``, the same pixels in half the time, for radii up to 1.

    Pillow blurs by passes, along x and then along y, each of which adds the neighbours on both sides (at an edge the
    pixel itself) in fixed point and rounds to 8 bits (Gwosdek et al., "Theoretical Foundations of Gaussian Convolution
    by Extended Box Filtering", 2011). Here a pass takes all pixels of some rows at once. `pixels` are uint8 (H, W, 3);
    `radius` is the standard deviation in pixels.
    """
    # Pillow computes in single precision.
    variance = np.float32(radius) * np.float32(radius) / np.float32(BLUR_PASSES)
    side = np.float32(-3) * variance / (np.float32(6) * (variance - np.float32(1)))
    centre = np.uint32(np.float32(2**24) / (side * np.float32(2) + np.float32(1)))
    side = np.uint32((2**24 - int(centre)) // 2)
    out = np.empty_like(pixels)
    rows_at_once = 32  # what fits into the cache
    before, after = np.s_[:-1], np.s_[1:]
    for top in range(0, len(pixels), rows_at_once):
        first = max(top - BLUR_PASSES, 0)
        rows = pixels[first : top + rows_at_once + BLUR_PASSES].astype(np.uint32)
        sums = np.empty_like(rows)
        for axis in [1] * BLUR_PASSES + [0] * BLUR_PASSES:
            a, s = rows.swapaxes(0, axis), sums.swapaxes(0, axis)
            s[0] = a[0]
            s[after] = a[before]
            s[before] += a[after]
            s[-1] += a[-1]
            sums *= side
            rows *= centre
            rows += sums
            rows += np.uint32(2**23)
            rows >>= np.uint32(24)
        out[top : top + rows_at_once] = rows[top - first :][:rows_at_once]
    return out


def to_tensor(pixels: np.ndarray | Image.Image) -> torch.Tensor:
    """Return an RGB image (H, W, 3) as uint8 (3, H, W), and a label map (H, W), mode L, as uint8 (H, W)."""
    tensor = torch.from_numpy(np.require(pixels, requirements="W"))
    return tensor.permute(2, 0, 1) if tensor.dim() == 3 else tensor


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Normalise RGB in 0..255, (..., 3, H, W) of any dtype, for the network: float32, on the same device.

    Mean and deviation apply in double precision, as they did in the original's NumPy code: equal to the last bit.
    """
    scaled = images.to(torch.float32) / 255
    channels = zip(scaled.double().unbind(-3), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([((x - mean).float().double() / std).float() for x, mean, std in channels], dim=-3)


def _uniform(generator: torch.Generator | None) -> float:
    return torch.rand((), generator=generator).item()


def _integer(lowest: int, highest: int, generator: torch.Generator | None) -> int:
    """Draw from [lowest, highest], both included."""
    return int(torch.randint(lowest, highest + 1, (), generator=generator))

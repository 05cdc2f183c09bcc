"""Label maps as pictures: in the palette's colours, over an image, and against the truth."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dataloaders.labels import PADDING, UNLABELLED, voc_palette


def colour(labels: np.ndarray) -> np.ndarray:
    """Return the VOC colours (H, W, 3) uint8 of a label map (H, W); unlabelled pixels are white."""
    palette = voc_palette()
    palette[UNLABELLED] = 255
    return palette[labels]


def _faded(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").convert("RGB")).astype(np.float32)
    return (0.45 * grey + 0.55 * 255).astype(np.uint8)


def scribble_picture(image: Image.Image, scribble: np.ndarray | None) -> np.ndarray | None:
    """Draw scribbles (H, W), 255 where there are none, over a faded grey version of their image; None without any."""
    if scribble is None:
        return None
    picture = _faded(image)
    drawn = scribble < PADDING
    picture[drawn] = colour(scribble)[drawn]
    return picture


def error_picture(image: Image.Image, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw wrongly predicted pixels red over a faded grey version of the image, and unlabelled ones white."""
    picture = _faded(image)
    picture[(prediction != truth) & (truth < PADDING)] = (214, 39, 40)
    picture[truth >= PADDING] = 255
    return picture

"""Label maps as pictures: in the palette's colours, over an image, and against the truth."""

import numpy as np
from PIL import Image

from dataloaders.labels import PADDING, UNLABELLED, voc_palette

WRONG = (214, 39, 40)  # red
LARGE = 640  # pixels of a long side; sheets skip lines of images beyond it


def colour(labels: np.ndarray) -> np.ndarray:
    """Return the VOC colours, uint8 with a last axis of RGB, of labels of any shape; unlabelled pixels are white."""
    palette = voc_palette()
    palette[UNLABELLED] = 255
    return palette[labels]


def light(colours: np.ndarray) -> np.ndarray:
    """Return colours, uint8, lightened: VOC's are dark, and hardly seen over dark photographs."""
    return np.minimum(64 + 0.96 * colours, 255).round().astype(np.uint8)


def classes_in(*maps: np.ndarray | None) -> set[int]:
    """Return the classes that occur in label maps."""
    return {int(label) for labels in maps if labels is not None for label in np.unique(labels) if label < PADDING}


def faded(image: Image.Image) -> np.ndarray:
    """Return a pale grey version, uint8 (H, W, 3), of an image."""
    return blended(image.convert("L"), 255, 0.55)


def blended(image: Image.Image, colours: np.ndarray | int, opacity: float) -> np.ndarray:
    """Lay colours, (H, W, 3) or one grey level, over an image; return uint8 (H, W, 3)."""
    picture = np.asarray(image.convert("RGB")).astype(np.float32)
    return ((1 - opacity) * picture + opacity * colours).astype(np.uint8)


def mask_picture(image: Image.Image, labels: np.ndarray) -> np.ndarray:
    """Draw a label map (H, W) in the palette's colours over its image in grey, which shows where the borders are."""
    return blended(image.convert("L"), colour(labels), 0.65)


def widened(scribble: np.ndarray, pixels: int) -> np.ndarray:
    """Return scribbles (H, W), 255 where there are none, grown by so many pixels on all sides."""
    wide, grown = scribble.copy(), 0
    while grown < pixels:
        shift = min(grown + 1, pixels - grown)  # farther, and gaps would stay
        for lines in (wide, wide.T):
            for to, source in ((lines[shift:], lines[:-shift]), (lines[:-shift], lines[shift:])):
                np.copyto(to, source.copy(), where=to == UNLABELLED)
        grown += shift
    return wide


def scribble_picture(image: Image.Image, scribble: np.ndarray | None) -> np.ndarray | None:
    """Draw scribbles (H, W), 255 where there are none, over a pale version of their image; None without scribbles.

    On large images the strokes are drawn wider, so that thin ones are seen where the picture is shown small.
    """
    if scribble is None:
        return None
    picture, scribble = blended(image, 255, 0.4), widened(scribble, max(image.size) // LARGE)
    drawn = scribble < PADDING
    picture[drawn] = colour(scribble)[drawn]
    return picture


def error_picture(image: Image.Image, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw wrongly predicted pixels red over a faded version of the image, and unlabelled ones white."""
    picture = faded(image)
    picture[(prediction != truth) & (truth < PADDING)] = WRONG
    picture[truth >= PADDING] = 255
    return picture

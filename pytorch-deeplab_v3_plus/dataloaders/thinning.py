"""Scribbles that are too thin for the size at which the network sees their images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dataloaders.images import value_counts
from dataloaders.labels import PADDING
from dataloaders.sizes import scaled_size

TOO_THIN = "strokes are too thin for the network: where images are scaled down, hardly a pixel of them is left"
LEFT = 4  # pixels of a class in an image; fewer are hardly any
SHARE = 0.1  # of the images with a class, from which it is worth a word


def thinned_out(label: np.ndarray, short_side: int | None) -> np.ndarray:
    """Return the values, bool (256,), of which hardly a pixel is left when a label map is scaled as for the network.

    `label` is uint8 (H, W). It is scaled by the nearest pixel, which steps over most of a thin stroke;
    `short_side` None: it is not scaled.
    """
    picture = Image.fromarray(label)
    if short_side is None or min(picture.size) <= short_side:
        return np.zeros(256, dtype=bool)
    left = picture.resize(scaled_size(picture.size, short_side), Image.Resampling.NEAREST).histogram()
    return (value_counts(label) >= LEFT) & (np.array(left) < LEFT) & (np.arange(256) < PADDING)


def thin_classes(thinned: np.ndarray, labelled: np.ndarray, class_names: Sequence[str], short_side: int) -> str:
    """Say which classes are thinned out, by the numbers (256,) of images with each value; "" where none is."""
    numbers = zip(class_names, thinned.tolist(), labelled.tolist(), strict=False)
    thin = [f"'{name}' in {few:,} of {images:,} images" for name, few, images in numbers if few > SHARE * images]
    return f"{', '.join(thin)} at a short side of {short_side} pixels" if thin else ""

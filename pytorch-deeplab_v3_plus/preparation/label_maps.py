"""Label maps as they are found: what can be read of them, and what they probably mean."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from common.errors import InputError
from dataloaders.images import READ_ERRORS, open_image, read_label, value_counts, verify
from dataloaders.labels import PADDING, UNLABELLED, voc_palette


def look_at_label(file: Path, num_classes: int) -> tuple[np.ndarray | None, str | None, str]:
    """Read a label map as far as possible; return class numbers, uint8 (H, W), the kind of problem, and its details."""
    try:
        label = read_label(file, num_classes)
        with open_image(file) as image:
            if image.format != "GIF":  # whose colours count, because writers number them anew
                return label, "palette" if has_foreign_palette(image, label) else None, ""
        detail = ""
    except InputError as error:
        detail = str(error)
    try:
        verify(file)
        with open_image(file) as image:
            image.load()
    except (InputError, *READ_ERRORS):
        return None, "unreadable", detail
    if image.mode in ("P", "L") and image.format != "GIF":
        return None, "label values", detail
    label = plain_class_numbers(image, num_classes)
    return label, "label mode" if label is None else "label mode, plain", f"mode {image.mode}"


def has_foreign_palette(image: Image.Image, label: np.ndarray) -> bool:
    """Whether every colour in use is one of VOC's, but under another number."""
    if image.mode != "P":
        return False
    own = np.array(image.getpalette("RGB")).reshape(-1, 3).tolist()
    values = [value for value in np.flatnonzero(value_counts(label)).tolist() if value < len(own)]
    voc = voc_palette().tolist()
    meant = [voc.index(own[value]) if own[value] in voc else None for value in values]
    return None not in meant and meant != values


def plain_class_numbers(image: Image.Image, num_classes: int) -> np.ndarray | None:
    """Return class numbers, uint8 (H, W), of a picture of another mode where they are unambiguous, else None.

    That is: class numbers of 1, 16 or 32 bits, grey in three channels, VOC's colours. Transparent means unlabelled.
    """
    allowed = np.zeros(256, dtype=bool)
    allowed[:num_classes] = allowed[UNLABELLED] = True
    if image.mode == "1" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        fits = values.min() >= 0 and values.max() < 256 and allowed[values].all()
        return values.astype(np.uint8) if fits else None
    pixels = np.asarray(image.convert("RGBA"))
    colours, opaque = pixels[..., :3], pixels[..., 3] > 127
    grey = colours[..., 0]
    if not ((colours == grey[..., None]).all(-1) & allowed[grey] | ~opaque).all():
        grey = np.full(grey.shape, PADDING, dtype=np.uint8)
        for value in np.flatnonzero(allowed):
            grey[(colours == voc_palette()[value]).all(-1)] = value
        if (grey[opaque] == PADDING).any():
            return None
    return np.where(opaque, grey, np.uint8(UNLABELLED))


def zero_means_unlabelled(label: np.ndarray) -> bool:
    """Whether a scribble map is thin strokes on 0, without a single 255."""
    drawn = label != 0
    if (label == UNLABELLED).any() or not 0 < drawn.mean() < 0.5:
        return False
    radius = max(3, round(0.02 * min(label.shape)))
    # A pixel farther than the radius from the edge of what is drawn keeps its 255; strokes have next to none.
    inner = np.asarray(Image.fromarray(drawn.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(radius))) == 255
    return inner.sum() < 0.05 * drawn.sum()

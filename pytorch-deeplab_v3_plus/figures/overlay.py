"""A segmentation over its image, with borders and a legend."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataloaders.images import value_counts
from figures.colours import colour, light
from figures.fonts import drawable_names, font_file

SMALLEST, LARGEST = 480, 1600  # range of the overlay's long side, in pixels
TINT = 0.5  # share of the class's colour in its area


def overlay(image: Image.Image, labels: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Tint an RGB image by its label map (H, W), draw the classes' borders, and add a legend of their shares below.

    The colours are VOC's, lightened. Class 0, the background, is left as it is. Small images are enlarged by an integer
    factor and large ones reduced, so that the legend is readable beside them.
    """
    entries = class_shares(labels, drawable_names(class_names))
    longest = max(image.size)
    scale = -(-SMALLEST // longest) if longest < SMALLEST else min(1.0, LARGEST / longest)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    shrinks = size[0] < image.width
    picture = np.asarray(image.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST))
    labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))

    opacity = np.where(labels > 0, TINT, 0.0)[..., None]
    opacity[_borders(labels, width=max(1, round(min(size) / 300)))] = 1.0
    tinted = Image.fromarray((picture * (1 - opacity) + light(colour(labels)) * opacity).round().astype(np.uint8))
    return _with_legend(tinted, entries)


def class_shares(labels: np.ndarray, class_names: Sequence[str]) -> dict[int, str]:
    """Return for each class that occurs in a label map its name with its share, such as 'cat 2.0 %'."""
    counts = value_counts(labels)
    return {k: f"{class_names[k]} {area_percentage(count / labels.size)}" for k, count in enumerate(counts) if count}


def area_percentage(share: float) -> str:
    """Return a share between 0 and 1 as a percentage."""
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _borders(labels: np.ndarray, width: int) -> np.ndarray:
    """Return where a pixel of an object has another label within `width` pixels along a row or a column."""
    border = np.zeros(labels.shape, dtype=bool)
    for lines, at in ((labels, border), (labels.T, border.T)):
        for step in range(1, min(width, len(lines) - 1) + 1):
            differ = lines[step:] != lines[:-step]
            at[step:] |= differ
            at[:-step] |= differ
    return border & (labels > 0)


def _with_legend(picture: Image.Image, entries: dict[int, str]) -> Image.Image:
    """Add rows of colour swatches and texts below a picture, one for each class; the background's swatch is empty."""
    height = max(14, round(max(picture.size) / 50))
    font = ImageFont.truetype(font_file("".join(entries.values())), height)
    gap = round(0.6 * height)
    widths = [height + gap // 2 + round(font.getlength(text)) for text in entries.values()]
    width = max(picture.width, max(widths) + 2 * gap)

    places, x, y = [], gap, picture.height + gap  # in reading order
    for entry in widths:
        if x > gap and x + entry + gap > width:
            x, y = gap, y + height + gap
        places.append((x, y))
        x += entry + 2 * gap
    canvas = Image.new("RGB", (width, y + height + gap), "white")
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for (k, text), (x, y) in zip(entries.items(), places, strict=True):
        fill = tuple(light(colour(k)).tolist()) if k else None
        draw.rectangle((x, y, x + height, y + height), fill=fill, outline=(128, 128, 128))
        draw.text((x + height + gap // 2, y + height // 2), text, fill="black", font=font, anchor="lm")
    return canvas

"""The pixels under a pen stroke, in two ways that cannot be one.

Imported annotations are drawn with `brush_stroke`, whose strokes have the width that was asked for. Pillow's wide
lines are a pixel thinner or thicker, depending on their slope, but simulated scribbles stay with them
(`pillow_stroke`): the same seed must give the pixels on which published scores were measured.
"""

import numpy as np
from PIL import Image, ImageDraw


def brush_stroke(path: np.ndarray, width: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W) of the given shape, under a round brush that is led along a path.

    `path` is float (points, 2) as x, y, the centre of the first pixel at (0, 0), and may leave the picture; a single
    point is a dot. `width` is that of the brush, in pixels.
    """
    steps = np.ceil(np.abs(np.diff(path, axis=0)).max(axis=1)).astype(int)
    line = [path[:1]]
    for start, end, count in zip(path[:-1], path[1:], steps, strict=True):
        line.append(start + (end - start) * np.arange(1, count + 1)[:, None] / max(count, 1))
    brush = np.argwhere(np.hypot(*(np.indices((width, width)) - (width - 1) / 2)) <= width / 2) - width // 2
    centres = np.floor(np.concatenate(line) + 0.5).astype(int)
    columns, rows = (centres[:, None] + brush).reshape(-1, 2).T
    inside = (columns >= 0) & (columns < shape[1]) & (rows >= 0) & (rows < shape[0])
    covered = np.zeros(shape, dtype=bool)
    covered[rows[inside], columns[inside]] = True
    return covered


def pillow_stroke(path: np.ndarray, width: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels that Pillow draws for a path; arguments and result as brush_stroke's."""
    picture = Image.new("1", shape[::-1])
    pen = ImageDraw.Draw(picture)
    if len(path) > 1:
        pen.line([tuple(point) for point in path], fill=1, width=width, joint="curve")
    else:
        ((x, y),) = np.round(path - (width - 1) / 2)
        pen.ellipse((x, y, x + width - 1, y + width - 1), fill=1)
    return np.asarray(picture)

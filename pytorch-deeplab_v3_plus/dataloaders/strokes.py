"""The pixels under a pen stroke, in two ways that cannot be one.

Imported annotations are drawn with `brush_stroke`, whose strokes have the width that was asked for. Pillow's wide
lines are a pixel thinner or thicker, depending on their slope, but simulated scribbles stay with them
(`pillow_stroke`): the same seed must give the pixels on which published scores were measured.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw


def usual_width(size: tuple[int, int]) -> int:
    """Return the width, in pixels, of strokes on an image of `size` (width, height) where nobody says another.

    It is that of the strokes on PASCAL VOC's photographs, 3 pixels of 500, so that scaling down leaves as much of them.
    """
    return max(3, round(min(size) / 150))


def brush_stroke(path: np.ndarray, width: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W) of the given shape, under a round brush that is led along a path.

    `path` is float (points, 2) as x, y, the centre of the first pixel at (0, 0), and may leave the picture; a single
    point is a dot. `width` is that of the brush, in pixels.
    """
    centres = np.unique(np.concatenate([np.floor(part + 0.5) for part in _steps(path, width, shape)]), axis=0).astype(
        int
    )
    columns, rows = centres.T
    covered = np.zeros(shape, dtype=bool)
    # Only the part that the brush may reach is looked at: a photograph has a hundred times as many pixels.
    top, left = (max(0, values.min() - width) for values in (rows, columns))
    height, across = (
        min(n, v.max() + width + 1) - at for n, v, at in zip(shape, (rows, columns), (top, left), strict=True)
    )
    if min(height, across) < 1:
        return covered
    brush = np.hypot(*(np.indices((width, width)) - (width - 1) / 2)) <= width / 2
    # Each row of the brush is a run of pixels: +1 where runs begin, -1 behind their ends, and sums along the rows.
    edges = np.zeros((height, across + 1), dtype=np.int32)
    flat = edges.reshape(-1)
    for offset, line in enumerate(brush):
        first, count = int(line.argmax()) - width // 2 - left, int(line.sum())
        at = rows + offset - width // 2 - top
        inside = (at >= 0) & (at < height)
        begin, start = at[inside] * (across + 1), columns[inside] + first
        np.add.at(flat, begin + start.clip(0, across), 1)
        np.add.at(flat, begin + (start + count).clip(0, across), -1)
    covered[top : top + height, left : left + across] = np.cumsum(edges, axis=1, out=edges)[:, :-1] > 0
    return covered


def _steps(path: np.ndarray, width: int, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield points, float (points, 2), at most a pixel apart along a path, where a brush may reach the picture."""
    low, high = np.array([-width, -width]), np.array([shape[1] + width, shape[0] + width])
    yield np.clip(path[:1], low, high)  # what is clipped touches nothing
    for start, end in zip(path[:-1], path[1:], strict=True):
        count = max(np.ceil(np.abs(end - start).max()), 1)
        moves = end != start
        bounds = np.stack([low - start, high - start])[:, moves] / (end - start)[moves]
        first, last = max(0, *bounds.min(0), 0), min(1, *bounds.max(0), 1)
        if (~moves & ((start < low) | (start > high))).any() or first > last:
            continue
        steps = np.arange(max(1, np.floor(first * count)), min(count, np.ceil(last * count)) + 1)
        yield np.clip(start + (end - start) * steps[:, None] / count, low, high)


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

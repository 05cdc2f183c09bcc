"""Noise, distances and colours: the vocabulary of the drawing. Arrays are float32, images (H, W, 3) in [0, 1]."""

import colorsys
import math

import numpy as np

# Muted colours of photographs, as hue, saturation, value. Objects, clutter and backgrounds all choose from this one
# list, so that a colour says nothing about the class.
NATURAL_COLOURS = (
    (0.02, 0.62, 0.66), (0.05, 0.55, 0.78), (0.08, 0.50, 0.62), (0.09, 0.35, 0.80), (0.11, 0.58, 0.84),
    (0.13, 0.28, 0.88), (0.16, 0.45, 0.72), (0.22, 0.42, 0.55), (0.26, 0.48, 0.46), (0.33, 0.35, 0.50),
    (0.42, 0.38, 0.52), (0.50, 0.40, 0.58), (0.55, 0.42, 0.68), (0.59, 0.48, 0.58), (0.62, 0.40, 0.42),
    (0.72, 0.28, 0.56), (0.82, 0.30, 0.56), (0.92, 0.38, 0.70), (0.97, 0.52, 0.62), (0.08, 0.15, 0.42),
    (0.60, 0.10, 0.72), (0.10, 0.10, 0.86),
)  # fmt: skip
Point = tuple[float, float]
Colours = tuple[np.ndarray, np.ndarray, np.ndarray]


def colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour near one of the natural colours: float32 (3,)."""
    hue, saturation, value = NATURAL_COLOURS[rng.integers(len(NATURAL_COLOURS))]
    hue = (hue + rng.normal(0, 0.015)) % 1
    saturation = np.clip(saturation * rng.uniform(0.7, 1.2), 0, 0.8)
    value = np.clip(value * rng.uniform(0.75, 1.15), 0.22, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def colour_away_from(other: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a colour at least ``distance`` from ``other`` in RGB, or the farthest of the many that were tried."""
    candidates = [colour(rng) for _ in range(24)]
    far = [candidate for candidate in candidates if np.linalg.norm(candidate - other) >= distance]
    return far[0] if far else max(candidates, key=lambda candidate: np.linalg.norm(candidate - other))


def blend(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Lay ``above`` over ``below``, images or colours, with opacity (H, W) in [0, 1]."""
    return below + (above - below) * opacity[..., None]


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Return 0 below ``low``, 1 above ``high``, and a smooth ramp between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def clouds(
    shape: tuple[int, int], scale: float, rng: np.random.Generator, slope: float = 2.0, stretch: float = 1.0
) -> np.ndarray:
    """Return noise (H, W) of mean 0 and deviation 1 whose spectrum falls off as in natural scenes.

    `scale` is the size of the largest features in pixels; with `slope` 1 it is rough, with 3 smooth; features are
    `stretch` times longer along x than along y.
    """
    height, width = (length + -length % 8 for length in shape)  # transforms of a prime length are slow
    frequency_y = np.fft.fftfreq(height)[:, None].astype(np.float32)
    frequency_x = np.fft.rfftfreq(width)[None, :].astype(np.float32) * np.float32(stretch)
    squared = (frequency_x**2 + frequency_y**2) * np.float32(scale**2)
    white = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
    noise = np.fft.irfft2(white * (1 + squared) ** (-slope / 2), s=(height, width)).astype(np.float32)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def blur(array: np.ndarray, sigma: float) -> np.ndarray:
    """Blur (H, W) or (H, W, 3) with a Gaussian of ``sigma`` pixels; beyond the edges the edge pixels repeat."""
    radius = max(1, int(3 * sigma + 0.5))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (0, 1):
        length = array.shape[axis]
        padding = [(radius, radius) if other == axis else (0, 0) for other in range(array.ndim)]
        padded = np.moveaxis(np.pad(array, padding, mode="edge"), axis, 0)
        blurred = sum(weight * padded[start : start + length] for start, weight in enumerate(weights))
        array = np.moveaxis(blurred, 0, axis)
    return array


def cells(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the plane into cells around one jittered point in each unit square (Worley noise), at x, y in cell sizes.

    Returns the distance to the nearest point, how much farther the second nearest is (0 on the border between two
    cells), and a random number in [0, 1) for each cell.
    """
    column, row = (np.floor(along).astype(np.int64) for along in (x, y))
    column, row = column - column.min() + 1, row - row.min() + 1
    inside_x, inside_y = x - np.floor(x), y - np.floor(y)
    jitter = rng.random((3, row.max() + 2, column.max() + 2), dtype=np.float32)
    nearest = np.full(x.shape, np.inf, dtype=np.float32)
    second, identity = nearest.copy(), np.zeros_like(nearest)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            jitter_x, jitter_y, number = jitter[:, row + step_y, column + step_x]
            distance = np.hypot(step_x + 0.15 + 0.7 * jitter_x - inside_x, step_y + 0.15 + 0.7 * jitter_y - inside_y)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            identity = np.where(closer, number, identity)
            nearest = np.where(closer, distance, nearest)
    return nearest, second - nearest, identity


def turned(x: np.ndarray, y: np.ndarray, angle: float) -> np.ndarray:
    """Return the coordinates (2, H, W) along and across an axis at ``angle`` radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack([x * cosine + y * sine, y * cosine - x * sine])


def to_segment(x: np.ndarray, y: np.ndarray, start: Point, end: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance from (x, y) to a segment, and where along it (0 to 1) the nearest point lies."""
    direction_x, direction_y = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * direction_x + (y - start[1]) * direction_y) / (direction_x**2 + direction_y**2)
    along = np.clip(along, 0, 1)
    return np.hypot(x - start[0] - along * direction_x, y - start[1] - along * direction_y), along


def polygon(x: np.ndarray, y: np.ndarray, corners: list[Point]) -> np.ndarray:
    """Return the distance from (x, y) to the outline of a polygon, positive inside, negative outside."""
    distance = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        side_x, side_y, from_x, from_y = x1 - x0, y1 - y0, x - x0, y - y0
        along = np.clip((from_x * side_x + from_y * side_y) / (side_x**2 + side_y**2), 0, 1)
        distance = np.minimum(distance, (from_x - along * side_x) ** 2 + (from_y - along * side_y) ** 2)
        if side_y:  # a ray to the right crosses an odd number of sides from inside
            inside ^= ((y0 > y) != (y1 > y)) & (from_x < from_y * (side_x / side_y))
    distance = np.sqrt(distance)
    return np.where(inside, distance, -distance)


def rounded(corners: list[Point], rounds: int = 2) -> list[Point]:
    """Cut the corners of a polygon (Chaikin 1974) until it is a smooth curve."""
    points = np.array(corners, dtype=np.float64)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return [tuple(point) for point in points.tolist()]

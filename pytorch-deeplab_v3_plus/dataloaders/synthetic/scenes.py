"""Compose a picture: a textured ground, clutter, one to three objects, light, shadow, lens and sensor."""

from collections.abc import Callable

import numpy as np

from dataloaders.synthetic.grounds import ground
from dataloaders.synthetic.objects import CLUTTER, OBJECTS, TILT, Figure
from dataloaders.synthetic.textures import Colours, Point, blend, blur, clouds, colour, colour_away_from, turned

OVERSAMPLING = 2  # pictures are drawn this many times larger and averaged down
SIZES = ((160, 120), (160, 120), (160, 120), (160, 112), (160, 128), (120, 160), (112, 160))  # width, height
# Range of the objects' radius by their number, as a share of the short side.
RADIUS = {1: (0.42, 0.56), 2: (0.32, 0.42), 3: (0.27, 0.34), 4: (0.22, 0.28), 5: (0.2, 0.25), 6: (0.18, 0.23)}
OVERLAP = 0.3  # of the discs around two objects at most, as a share of the smaller one
CONTRAST = 0.34  # between an object and the ground under it, in RGB; kept for nine objects in ten


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture and its ground truth: image uint8 (H, W, 3) and label uint8 (H, W), 0 being background."""
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = ground((height * OVERSAMPLING, width * OVERSAMPLING), rng)
    light, label = light_direction(rng), np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(3, 9)):
        clutter = CLUTTER[rng.integers(len(CLUTTER))]
        centre = rng.uniform(0, canvas.shape[1]), rng.uniform(0, canvas.shape[0])
        radius, angle = min(canvas.shape[:2]) * rng.uniform(0.06, 0.16), rng.uniform(0, 2 * np.pi)
        paste(canvas, clutter, centre, radius, angle, light, (colour(rng), colour(rng), colour(rng)), rng)
    number = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    for centre_x, centre_y, radius in places(canvas.shape[:2], number, rng):
        value = int(rng.integers(len(OBJECTS))) + 1
        name = list(OBJECTS)[value - 1]
        angle = np.deg2rad(rng.uniform(-TILT[name], TILT[name]))
        colours = object_colours(canvas, centre_x, centre_y, radius, rng)
        mirror = rng.random() < 0.5
        coverage = paste(canvas, OBJECTS[name], (centre_x, centre_y), radius, angle, light, colours, rng, mirror)
        label[shrunk(coverage) > 0.5] = value
    return photograph(canvas, rng), label


def light_direction(rng: np.random.Generator) -> np.ndarray:
    """Draw the direction towards the light, mostly from above: a unit vector (x, y, towards the viewer)."""
    angle = rng.normal(-np.pi / 2, 0.9)
    light = np.array([0.62 * np.cos(angle), 0.62 * np.sin(angle), 0.8], dtype=np.float32)
    return light / np.linalg.norm(light)


def places(shape: tuple[int, int], number: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Choose centre x, y and radius for ``number`` objects that do not hide one another; fewer where none fits."""
    height, width = shape
    found: list[tuple[float, float, float]] = []
    for _ in range(40):
        radius = min(shape) * rng.uniform(*RADIUS[number])
        margin = 0.72 * radius  # the frame may cut a little off
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        apart = (np.hypot(x - u, y - v) > radius + r - OVERLAP * 2 * min(radius, r) for u, v, r in found)
        if all(apart):
            found.append((x, y, radius))
        if len(found) == number:
            break
    return found


def object_colours(canvas: np.ndarray, x: float, y: float, radius: float, rng: np.random.Generator) -> Colours:
    """Choose an object's three colours: the first mostly unlike its surroundings, the others unlike the first."""
    top, left = max(0, int(y - 1.2 * radius)), max(0, int(x - 1.2 * radius))
    around = canvas[top : int(y + 1.2 * radius), left : int(x + 1.2 * radius)].mean(axis=(0, 1))
    main = colour_away_from(around, CONTRAST, rng) if rng.random() < 0.9 else colour(rng)
    return main, colour_away_from(main, 0.2, rng), colour_away_from(main, 0.3, rng)


def paste(
    canvas: np.ndarray,
    draw: Callable[..., Figure],
    centre: Point,
    radius: float,
    angle: float,
    light: np.ndarray,
    colours: Colours,
    rng: np.random.Generator,
    mirror: bool = False,
) -> np.ndarray:
    """Draw an object and its shadow into the canvas (in place); return how far it covers each pixel, (H, W)."""
    height, width = canvas.shape[:2]
    coverage = np.zeros((height, width), dtype=np.float32)
    reach = 1.5 * radius
    top, bottom = max(0, int(centre[1] - reach)), min(height, int(centre[1] + reach))
    left, right = max(0, int(centre[0] - reach)), min(width, int(centre[0] + reach))
    window = np.s_[top:bottom, left:right]
    if bottom - top < 4 or right - left < 4:
        return coverage

    down, across = np.mgrid[window].astype(np.float32) + 0.5 - np.float32(centre[::-1])[:, None, None]
    x, y = turned(across, down, angle) / np.float32(radius)
    x = -x if mirror else x
    # The coordinates are bent a little, so that no two objects are alike.
    phase_x, phase_y = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    x, y = x + 0.04 * np.sin(2.3 * y + phase_x), y + 0.04 * np.sin(2.9 * x + phase_y)
    figure = draw(x, y, rng, colours)
    opacity = np.clip(figure.inside * radius + 0.5, 0, 1)

    slope_y, slope_x = np.gradient(blur(figure.height * radius, 0.9))
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    towards_light = (-slope_x * light[0] - slope_y * light[1] + light[2]) / length
    half = light + np.float32((0, 0, 1))  # between the light and the viewer
    half /= np.linalg.norm(half)
    mirrored = np.clip((-slope_x * half[0] - slope_y * half[1] + half[2]) / length, 0, 1)
    surface = figure.colours * (0.42 + 0.72 * np.clip(towards_light, 0, 1))[..., None]
    surface = surface * (1 + 0.035 * clouds(x.shape, 10, rng, 1.2))[..., None]
    surface = surface + (0.5 * figure.gloss * mirrored**40)[..., None]

    far = int(0.16 * radius)
    shift_x, shift_y = (light[:2] / light[2] * far).round().astype(int) + far
    shadow = np.pad(opacity, far, mode="edge")[shift_y : shift_y + bottom - top, shift_x : shift_x + right - left]
    shadow = 0.55 * blur(shadow, max(1.0, 0.07 * radius)) + 0.25 * blur(opacity, max(1.0, 0.05 * radius))
    canvas[window] = blend(canvas[window] * (1 - np.clip(shadow, 0, 0.7))[..., None], surface, opacity)
    coverage[window] = opacity
    return coverage


def photograph(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light the scene unevenly, take it through lens and sensor, and scale it down: uint8 (H, W, 3)."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    lit = 1 + rng.uniform(0.05, 0.22) * turned(x, y, angle)[0] - rng.uniform(0, 0.14) * (x**2 + y**2)
    lit = lit * (1 + rng.uniform(0, 0.09) * clouds((height, width), 160, rng, 3))
    tint = 1 + rng.normal(0, 0.025, 3).astype(np.float32)
    canvas = shrunk(blur(canvas * lit[..., None] * tint * rng.uniform(1.0, 1.25), rng.uniform(0.5, 1.1)))
    canvas = canvas + rng.normal(0, rng.uniform(0.006, 0.02), canvas.shape)
    # A soft shoulder keeps highlights from clipping.
    canvas = np.where(canvas > 0.8, 0.8 + 0.2 * np.tanh((canvas - 0.8) / 0.2), canvas)
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)


def shrunk(canvas: np.ndarray) -> np.ndarray:
    """Scale a canvas (H, W) or (H, W, 3) down to the picture's size."""
    steps = range(OVERSAMPLING)
    parts = (canvas[row::OVERSAMPLING, column::OVERSAMPLING] for row in steps for column in steps)
    return sum(parts) / OVERSAMPLING**2

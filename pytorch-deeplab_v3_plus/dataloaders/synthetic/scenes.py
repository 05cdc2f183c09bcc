"""Compose a picture: a textured ground, clutter, one to three objects, light, shadow, lens and sensor."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from dataloaders.synthetic.objects import OBJECTS, TILT, Figure
from dataloaders.synthetic.textures import (
    blend,
    blur,
    cells,
    clouds,
    colour,
    colour_away_from,
    polygon,
    rounded,
    smoothstep,
    to_segment,
    turned,
)

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
    label = np.zeros((height, width), dtype=np.uint8)
    light = light_direction(rng)
    short = min(canvas.shape[:2])

    for _ in range(rng.integers(3, 9)):
        clutter = CLUTTER[rng.integers(len(CLUTTER))]
        centre = rng.uniform(0, canvas.shape[1]), rng.uniform(0, canvas.shape[0])
        radius, angle = short * rng.uniform(0.06, 0.16), rng.uniform(0, 2 * np.pi)
        paste(canvas, clutter, centre, radius, angle, light, (colour(rng), colour(rng), colour(rng)), rng)

    number = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    names = list(OBJECTS)
    for centre_x, centre_y, radius in places(canvas.shape[:2], number, rng):
        value = int(rng.integers(len(names))) + 1
        name = names[value - 1]
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
    short = min(shape)
    found: list[tuple[float, float, float]] = []
    for _ in range(40):
        radius = short * rng.uniform(*RADIUS[number])
        margin = 0.72 * radius  # the frame may cut a little off
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        if all(
            np.hypot(x - other_x, y - other_y) > radius + other - OVERLAP * 2 * min(radius, other)
            for other_x, other_y, other in found
        ):
            found.append((x, y, radius))
        if len(found) == number:
            break
    return found


def object_colours(
    canvas: np.ndarray, x: float, y: float, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose an object's three colours: the first mostly unlike its surroundings, the others unlike the first."""
    top, left = max(0, int(y - 1.2 * radius)), max(0, int(x - 1.2 * radius))
    around = canvas[top : int(y + 1.2 * radius), left : int(x + 1.2 * radius)].mean(axis=(0, 1))
    main = colour_away_from(around, CONTRAST, rng) if rng.random() < 0.9 else colour(rng)
    return main, colour_away_from(main, 0.2, rng), colour_away_from(main, 0.3, rng)


def paste(
    canvas: np.ndarray,
    draw: Callable[..., Figure],
    centre: tuple[float, float],
    radius: float,
    angle: float,
    light: np.ndarray,
    colours: tuple[np.ndarray, np.ndarray, np.ndarray],
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

    across, down = np.meshgrid(
        np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(centre[0]),
        np.arange(top, bottom, dtype=np.float32) + 0.5 - np.float32(centre[1]),
    )
    x, y = turned(across, down, angle) / np.float32(radius)
    if mirror:
        x = -x
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
    canvas = blur(canvas * lit[..., None] * tint * rng.uniform(1.0, 1.25), rng.uniform(0.5, 1.1))
    canvas = shrunk(canvas)
    canvas = canvas + rng.normal(0, rng.uniform(0.006, 0.02), canvas.shape)
    # A soft shoulder keeps highlights from clipping.
    canvas = np.where(canvas > 0.8, 0.8 + 0.2 * np.tanh((canvas - 0.8) / 0.2), canvas)
    return np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)


def shrunk(canvas: np.ndarray) -> np.ndarray:
    """Scale a canvas (H, W) or (H, W, 3) down to the picture's size."""
    steps = range(OVERSAMPLING)
    parts = (canvas[row::OVERSAMPLING, column::OVERSAMPLING] for row in steps for column in steps)
    return sum(parts) / OVERSAMPLING**2


# --- grounds: each returns a brightness (about 1) and the share of a second colour, both (H, W) ---------------------


def ground(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a background of a random kind, float32 (H, W, 3)."""
    brightness, share = GROUNDS[rng.integers(len(GROUNDS))](shape, rng)
    first = colour(rng)
    second = np.clip(0.6 * first + 0.4 * colour(rng), 0, 1)
    drift = 0.12 * clouds(shape, 120, rng, 2.5)
    image = blend(first, second, np.clip(share + drift, 0, 1))
    return (image * np.clip(brightness, 0.25, 1.6)[..., None]).astype(np.float32)


def grass(shape, rng):
    height, width = shape
    picture = Image.new("L", (width, height), 60)
    pen = ImageDraw.Draw(picture)
    lean = rng.normal(0, 0.5)
    for depth in np.linspace(0, 1, 1100):
        x, y = rng.uniform(-10, width + 10), rng.uniform(-5, height + 25)
        length, angle = rng.uniform(12, 34), rng.normal(lean, 0.45)
        middle = x + 0.5 * length * np.sin(angle), y - 0.5 * length * np.cos(angle)
        tip = middle[0] + 0.5 * length * np.sin(1.5 * angle), middle[1] - 0.5 * length * np.cos(1.5 * angle)
        tone = int(np.clip(75 + 85 * depth + rng.normal(0, 22), 0, 255))
        pen.line([(x, y), middle], fill=tone, width=3)
        pen.line([middle, tip], fill=min(255, tone + 16), width=2)
    tone = np.asarray(picture, dtype=np.float32) / 160
    return 0.45 + 0.55 * blur(tone, 0.7), np.clip(0.4 * tone + 0.15 * clouds(shape, 60, rng), 0, 1)


def sand(shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, length = rng.uniform(0, np.pi), rng.uniform(18, 34)
    phase = turned(x, y, angle)[0] / length * 2 * np.pi + 1.3 * clouds(shape, 90, rng, 2.5)
    ripple = np.sin(phase + 0.4 * np.sin(phase))
    grain = clouds(shape, 3, rng, 1)
    return 0.95 + rng.uniform(0.04, 0.11) * ripple + 0.06 * grain, 0.4 + 0.2 * clouds(shape, 40, rng)


def wood(shape, rng):
    across = rng.random() < 0.5
    height, width = shape if across else shape[::-1]
    plank = rng.uniform(38, 70)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    row = np.floor(y / plank).astype(int)
    tone = rng.normal(0, 0.09, row.max() + 1).astype(np.float32)[row]
    shift = rng.uniform(0, 500, row.max() + 1).astype(np.float32)[row]
    warp = clouds((height, width), 90, rng, 2.5, stretch=4)
    rings = np.sin((y / plank + 0.35 * warp + 0.0012 * np.abs(x - shift)) * 2 * np.pi * 3.2 + shift)
    fibre = clouds((height, width), 14, rng, 1.2, stretch=12)
    gap = smoothstep(2.2, 0.6, np.abs(y / plank - np.round(y / plank)) * plank)
    brightness = 0.95 + tone + 0.08 * rings + 0.07 * fibre - 0.45 * gap
    share = 0.4 + 0.25 * rings + 0.15 * fibre
    return (brightness, share) if across else (brightness.T, share.T)


def pebbles(shape, rng):
    size = rng.uniform(20, 38)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = x + 4 * clouds(shape, 40, rng, 2.5), y + 4 * clouds(shape, 40, rng, 2.5)
    _, border, number = cells(x / size, y / size * rng.uniform(1, 1.5), rng)
    dome = np.sqrt(np.clip(border, 0, 0.5))
    slope_y, slope_x = np.gradient(blur(dome * size * 0.5, 1.0))
    brightness = 0.5 + 0.62 * smoothstep(0.0, 0.22, border) - 0.16 * (slope_x + slope_y) + 0.24 * (number - 0.5)
    return brightness + 0.05 * clouds(shape, 6, rng, 1.2), (number * 7.3) % 1


def water(shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    size = rng.uniform(34, 55)
    bend = 9 * clouds(shape, 60, rng, 2.5)
    _, border, _ = cells((x + bend) / size, (y + np.roll(bend, 50, axis=1)) / size * 1.5, rng)
    caustics = np.exp(-border * rng.uniform(7, 11))
    waves = clouds(shape, 50, rng, 2.2, stretch=0.4)
    return 0.82 + 0.30 * caustics + 0.07 * waves, 0.3 + 0.45 * caustics + 0.12 * waves


def cloth(shape, rng):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u, v = turned(x, y, rng.normal(0, 0.3)) + 5 * clouds(shape, 130, rng, 3)
    check = rng.uniform(26, 48)
    stripes = sum(smoothstep(-0.15, 0.15, np.sin(2 * np.pi * along / check)) for along in (u, v))
    weave = np.sin(2 * np.pi * u / 4.3) * np.sin(2 * np.pi * v / 4.3)
    folds = clouds(shape, 110, rng, 3)
    return 0.95 + 0.05 * weave + 0.09 * folds + 0.03 * clouds(shape, 4, rng, 1), 0.42 * stripes


def foliage(shape, rng):
    height, width = shape
    tone, share = np.full(shape, 0.55, dtype=np.float32), np.full(shape, 0.3, dtype=np.float32)
    for depth in np.linspace(0, 1, 5):
        picture, mixture = Image.new("L", (width, height)), Image.new("L", (width, height))
        pen, mixer = ImageDraw.Draw(picture), ImageDraw.Draw(mixture)
        for _ in range(26):
            x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(9, 30)
            box = (x - size, y - size * rng.uniform(0.5, 1), x + size, y + size * rng.uniform(0.5, 1))
            pen.ellipse(box, fill=int(rng.uniform(90, 255)))
            mixer.ellipse(box, fill=int(rng.uniform(0, 255)))
        value = blur(np.asarray(picture, dtype=np.float32) / 255, 4.5 - 3 * depth)
        opacity = 0.75 * np.clip(value * 2.5, 0, 1)
        tone += (0.45 + 0.75 * value - tone) * opacity
        share += (blur(np.asarray(mixture, dtype=np.float32) / 255, 4.5 - 3 * depth) - share) * opacity
    return tone + 0.03 * clouds(shape, 5, rng, 1), share


GROUNDS = (grass, sand, wood, pebbles, water, cloth, foliage)


# --- clutter: things that belong to the background ------------------------------------------------------------------


def stone(x, y, rng, colours) -> Figure:
    corners = [
        (np.cos(angle) * rng.uniform(0.5, 0.95), np.sin(angle) * rng.uniform(0.4, 0.75))
        for angle in np.linspace(0, 2 * np.pi, 8)[:-1]
    ]
    inside = polygon(x, y, rounded(corners, 3))
    surface = blend(colours[0], colours[1], 0.25 + 0.12 * clouds(x.shape, 12, rng, 1.3))
    return Figure(inside, surface, 0.7 * np.sqrt(np.clip(inside, 0, 0.6)), 0.15)


def twig(x, y, rng, colours) -> Figure:
    knee, tip = (0.2, rng.uniform(-0.25, 0.25)), (1.5, rng.uniform(-0.4, 0.4))
    fork = (0.9, tip[1] + (0.7 if rng.random() < 0.5 else -0.7))
    parts = [((-1.5, 0.0), knee, 0.13), (knee, tip, 0.10), (knee, fork, 0.07)]
    inside = np.max([thick - to_segment(x, y, start, end)[0] for start, end, thick in parts], axis=0)
    surface = colours[0] * (0.85 + 0.12 * clouds(x.shape, 10, rng, 1.3))[..., None]
    return Figure(inside, surface, np.sqrt(np.clip(inside, 0, 0.15)), 0.1)


def scrap(x, y, rng, colours) -> Figure:
    wide, high = rng.uniform(0.5, 0.95), rng.uniform(0.35, 0.7)
    inside = np.minimum(wide - np.abs(x + 0.2 * y), high - np.abs(y))
    stripes = smoothstep(0.0, 0.3, np.sin(x * rng.uniform(5, 14)))
    return Figure(inside, blend(colours[0], colours[1], 0.7 * stripes), 0.05 * clouds(x.shape, 30, rng, 3), 0.1)


def petals(x, y, rng, colours) -> Figure:
    inside = np.full(x.shape, -9, dtype=np.float32)
    surface = np.broadcast_to(colours[0], (*x.shape, 3))
    for _ in range(rng.integers(3, 7)):
        angle, at_x, at_y = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9)
        along, across = turned(x - at_x, y - at_y, angle)
        petal = (1 - np.hypot(along / 0.42, across / 0.22)) * 0.22
        surface = blend(surface, colours[0] * rng.uniform(0.75, 1.15), smoothstep(-0.01, 0.02, petal))
        inside = np.maximum(inside, petal)
    return Figure(inside, surface, 0.4 * np.sqrt(np.clip(inside, 0, 0.3)), 0.1)


CLUTTER = (stone, stone, twig, scrap, petals)

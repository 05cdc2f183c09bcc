"""Backgrounds, from pixel coordinates x, y (H, W): their brightness, about 1, and the share of a second colour."""

import numpy as np
from PIL import Image, ImageDraw

from dataloaders.synthetic.textures import blend, blur, cells, clouds, colour, smoothstep, turned


def ground(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a background of a random kind, float32 (H, W, 3)."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    brightness, share = GROUNDS[rng.integers(len(GROUNDS))](x, y, rng)
    first = colour(rng)
    second = np.clip(0.6 * first + 0.4 * colour(rng), 0, 1)
    drift = 0.12 * clouds(shape, 120, rng, 2.5)
    image = blend(first, second, np.clip(share + drift, 0, 1))
    return (image * np.clip(brightness, 0.25, 1.6)[..., None]).astype(np.float32)


def grass(x, y, rng):
    shape = height, width = x.shape
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


def sand(x, y, rng):
    angle, length = rng.uniform(0, np.pi), rng.uniform(18, 34)
    phase = turned(x, y, angle)[0] / length * 2 * np.pi + 1.3 * clouds(x.shape, 90, rng, 2.5)
    ripple = np.sin(phase + 0.4 * np.sin(phase))
    grain = clouds(x.shape, 3, rng, 1)
    return 0.95 + rng.uniform(0.04, 0.11) * ripple + 0.06 * grain, 0.4 + 0.2 * clouds(x.shape, 40, rng)


def wood(x, y, rng):
    across = rng.random() < 0.5
    height, width = x.shape if across else x.shape[::-1]
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


def pebbles(x, y, rng):
    size = rng.uniform(20, 38)
    x, y = x + 4 * clouds(x.shape, 40, rng, 2.5), y + 4 * clouds(x.shape, 40, rng, 2.5)
    _, border, number = cells(x / size, y / size * rng.uniform(1, 1.5), rng)
    dome = np.sqrt(np.clip(border, 0, 0.5))
    slope_y, slope_x = np.gradient(blur(dome * size * 0.5, 1.0))
    brightness = 0.5 + 0.62 * smoothstep(0.0, 0.22, border) - 0.16 * (slope_x + slope_y) + 0.24 * (number - 0.5)
    return brightness + 0.05 * clouds(x.shape, 6, rng, 1.2), (number * 7.3) % 1


def water(x, y, rng):
    size = rng.uniform(34, 55)
    bend = 9 * clouds(x.shape, 60, rng, 2.5)
    _, border, _ = cells((x + bend) / size, (y + np.roll(bend, 50, axis=1)) / size * 1.5, rng)
    caustics = np.exp(-border * rng.uniform(7, 11))
    waves = clouds(x.shape, 50, rng, 2.2, stretch=0.4)
    return 0.82 + 0.30 * caustics + 0.07 * waves, 0.3 + 0.45 * caustics + 0.12 * waves


def cloth(x, y, rng):
    u, v = turned(x, y, rng.normal(0, 0.3)) + 5 * clouds(x.shape, 130, rng, 3)
    check = rng.uniform(26, 48)
    stripes = sum(smoothstep(-0.15, 0.15, np.sin(2 * np.pi * along / check)) for along in (u, v))
    weave = np.sin(2 * np.pi * u / 4.3) * np.sin(2 * np.pi * v / 4.3)
    folds = clouds(x.shape, 110, rng, 3)
    return 0.95 + 0.05 * weave + 0.09 * folds + 0.03 * clouds(x.shape, 4, rng, 1), 0.42 * stripes


def foliage(x, y, rng):
    shape = height, width = x.shape
    tone, share = (np.full(shape, start, dtype=np.float32) for start in (0.55, 0.3))
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

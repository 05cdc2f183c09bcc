"""The things to find: each is recognised by its outline and the make of its surface, never by its colour.

A drawing function gets coordinates x, y (H, W) in which the object roughly fills [-1, 1] (y points down), a random
generator and three colours, and returns a Figure.
"""

import math
from typing import NamedTuple

import numpy as np

from dataloaders.synthetic.textures import blend, cells, clouds, polygon, rounded, smoothstep, to_segment


class Figure(NamedTuple):
    """An object in its own coordinates."""

    inside: np.ndarray
    """(H, W): distance to the outline, positive inside."""
    colours: np.ndarray
    """(H, W, 3): surface colours before lighting."""
    height: np.ndarray
    """(H, W): relief towards the viewer, for shading."""
    gloss: float
    """Strength of the highlight."""


def leaf(x, y, rng, colours) -> Figure:
    main, second, _ = colours
    y = y - rng.uniform(-0.35, 0.35) * (x**2 - 0.3)
    along = np.clip((x + 1) / 2, 0, 1)
    teeth = rng.uniform(0.02, 0.05) * np.abs(((along * int(rng.integers(9, 15))) % 1) - 0.35)
    half_width = rng.uniform(1.15, 1.5) * along**0.65 * (1 - along) ** 0.8 - teeth * np.sin(np.pi * along)
    blade = np.where(np.abs(x) < 1, (half_width - np.abs(y)) * 0.8, -np.abs(np.abs(x) - 1) - np.abs(y) * 0.8 - 0.01)
    stem_distance, stem_along = to_segment(x, y, (-0.95, 0.0), (-1.3, rng.uniform(-0.15, 0.15)))
    stem = 0.045 + 0.015 * stem_along - stem_distance
    spacing = rng.uniform(5.5, 7.5)
    phase = (x - 0.75 * np.abs(y) - 0.12 * y**2) * spacing
    vein = np.abs(phase - np.round(phase)) / spacing  # distance to the nearest side vein
    veins = np.maximum(1 - smoothstep(0.008, 0.035, vein), 1 - smoothstep(0.02, 0.055, np.abs(y)))
    surface = blend(main, second, 0.22 + 0.18 * np.clip(clouds(x.shape, 30, rng), -1.2, 2))
    surface = blend(surface, 0.45 * second + 0.55, 0.75 * veins)
    surface = blend(surface, 0.6 * main, smoothstep(0.0, 0.02, stem) * (blade < 0))
    height = 0.03 * np.cos(2 * np.pi * phase) + 0.25 * np.sqrt(np.clip(blade, 0, 0.2)) - 0.05 * veins
    return Figure(np.maximum(blade, stem), surface, height, 0.25)


def starfish(x, y, rng, colours) -> Figure:
    main, second, _ = colours
    inside = 0.30 - np.hypot(x, y)
    middle = np.full(x.shape, np.inf, dtype=np.float32)
    for arm in range(5):
        angle = 2 * np.pi * arm / 5 + rng.normal(0, 0.09)
        length, bend = rng.uniform(0.82, 1.02), rng.normal(0, 0.22)
        knee = 0.55 * math.cos(angle), 0.55 * math.sin(angle)
        tip = (knee[0] + (length - 0.55) * math.cos(angle + bend), knee[1] + (length - 0.55) * math.sin(angle + bend))
        for start, end, thick, thin in (((0, 0), knee, 0.33, 0.19), (knee, tip, 0.19, 0.09)):
            distance, along = to_segment(x, y, start, end)
            inside = np.logaddexp(inside * 22, (thick + (thin - thick) * along - distance) * 22) / 22
            middle = np.minimum(middle, distance)
    size = rng.uniform(0.085, 0.11)
    nearest, _, _ = cells(x / size, y / size, rng)
    bumps = 1 - smoothstep(0.18, 0.42, nearest)
    surface = blend(main, 0.65 * main, smoothstep(0.12, 0.0, inside))
    surface = blend(surface, 0.55 * second + 0.42, 0.85 * bumps)
    surface = blend(surface, 0.6 * second + 0.38, 0.6 * (1 - smoothstep(0.015, 0.045, middle)))
    height = 0.55 * np.sqrt(np.clip(inside, 0, 0.3)) + 0.035 * bumps
    return Figure(inside, surface, height, 0.1)


def fish(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    y = y - rng.uniform(-0.18, 0.18) * (x**2 - 0.25)
    deep = rng.uniform(0.36, 0.48)
    body = polygon(
        x,
        y,
        rounded(
            [
                (0.98, 0.02),
                (0.72, -0.62 * deep),
                (0.25, -deep),
                (-0.25, -0.72 * deep),
                (-0.62, -0.12),
                (-0.62, 0.12),
                (-0.25, 0.72 * deep),
                (0.25, deep),
                (0.72, 0.62 * deep),
            ],
            2,
        ),
    )
    fork = rng.uniform(0.68, 0.84)
    tail = polygon(
        x,
        y,
        rounded(
            [(-0.40, 0.09), (-0.40, -0.09), (-0.68, -0.10), (-1.02, -0.46), (-fork, 0.0), (-1.02, 0.46), (-0.68, 0.10)],
            1,
        ),
    )
    back = polygon(
        x, y, rounded([(0.45, -0.75 * deep), (0.12, -deep - 0.26), (-0.3, -deep - 0.1), (-0.4, -0.4 * deep)], 2)
    )
    belly = polygon(
        x, y, rounded([(0.1, 0.8 * deep), (-0.08, deep + 0.22), (-0.3, deep + 0.02), (-0.25, 0.5 * deep)], 2)
    )
    fins = np.maximum(np.maximum(tail, back), belly)
    inside = np.maximum(body, fins)

    rows = y / 0.085
    row = np.floor(rows)
    column = x / 0.11 + 0.5 * (row % 2)
    scale = np.hypot((column - np.floor(column) - 0.2) * 1.1, (rows - row - 0.5) * 1.1)
    edges = smoothstep(0.50, 0.62, scale) * (1 - smoothstep(0.72, 0.9, scale)) * (x < 0.48)
    count = rng.uniform(1.5, 2.2)
    bars = smoothstep(0.1, 0.5, np.sin(2 * np.pi * (x + 0.08 * np.sin(7 * y)) * count + rng.uniform(0, 6))) * (x < 0.5)
    surface = blend(main, second, 0.75 * bars)
    surface = blend(surface, 0.5 * main + 0.45, 0.6 * smoothstep(0.0, 0.95 * deep, y))
    surface = blend(surface, 0.55 * main, 0.65 * edges)
    gill = np.abs(np.hypot(x - 0.28, y * 0.8) - 0.24)
    surface = blend(surface, 0.4 * main, 0.8 * (1 - smoothstep(0.012, 0.04, gill)) * (x > 0.36))
    rays = 0.5 + 0.5 * np.sin(55 * np.arctan2(y, x + 0.3) + 14 * np.hypot(x, y) * (fins > body))
    surface = blend(surface, accent * (0.7 + 0.3 * rays[..., None]), smoothstep(0.0, 0.02, fins - np.maximum(body, 0)))
    eye = np.hypot(x - 0.66, y + 0.16 * deep / 0.4)
    surface = blend(surface, np.float32(0.93), 1 - smoothstep(0.075, 0.095, eye))
    surface = blend(surface, np.float32(0.06), 1 - smoothstep(0.04, 0.055, eye))
    height = 0.6 * np.sqrt(np.clip(body, 0, 0.35)) + 0.12 * np.sqrt(np.clip(fins, 0, 0.1)) - 0.02 * edges
    return Figure(inside, surface, height, 0.45)


def mushroom(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    lean = rng.uniform(-0.16, 0.16)
    wide, brim, thick = rng.uniform(0.82, 1.0), rng.uniform(-0.06, 0.08), rng.uniform(0.17, 0.25)
    dome = polygon(
        x,
        y,
        rounded(
            [
                (-wide, brim + 0.06),
                (-0.92 * wide, brim - 0.42),
                (-0.5 * wide, -0.86),
                (0.0, -0.98),
                (0.5 * wide, -0.86),
                (0.92 * wide, brim - 0.42),
                (wide, brim + 0.06),
                (0.55 * wide, brim + 0.20),
                (-0.55 * wide, brim + 0.20),
            ],
            2,
        ),
    )
    foot = to_segment(x, y, (0.0, brim), (lean, 0.92))
    stem = thick * (0.82 + 0.42 * foot[1] ** 2) - foot[0]
    underside = np.hypot(x / (0.86 * wide), (y - brim - 0.05) / 0.15)  # an ellipse: gills seen from a little below
    spot_size = rng.uniform(0.34, 0.42)
    nearest, _, identity = cells(x / spot_size / np.sqrt(np.clip(1.15 - (x / wide) ** 2, 0.3, 1)), y / spot_size, rng)
    spots = (1 - smoothstep(0.22, 0.34, nearest * (0.85 + 0.4 * identity))) * (y < brim - 0.05)
    surface = blend(main, 0.7 * main, smoothstep(-0.6, 0.2, y))
    surface = blend(surface, 0.35 * second + 0.62, 0.95 * spots)
    gills = 0.5 + 0.5 * np.sin(46 * np.arctan2(x, 0.9 - (y - brim)))
    is_gill = smoothstep(1.05, 0.95, underside) * (y > brim - 0.04)
    surface = blend(surface, (0.45 * accent + 0.35) * (0.6 + 0.4 * gills[..., None]), is_gill)
    is_stem = smoothstep(0.0, 0.02, stem) * (dome < 0.0) + smoothstep(0.0, 0.02, stem) * is_gill * (y > brim + 0.05)
    fibres = clouds(x.shape, 8, rng, 1.5)
    surface = blend(surface, (0.4 * accent + 0.48) * (1 + 0.06 * fibres[..., None]), np.clip(is_stem, 0, 1))
    height = (
        0.7 * np.sqrt(np.clip(dome, 0, 0.45)) * (1 - is_gill)
        + 0.03 * spots
        + 0.5 * np.sqrt(np.clip(stem, 0, thick)) * np.clip(is_stem, 0, 1)
    )
    return Figure(np.maximum(dome, stem), surface, height, 0.3)


def butterfly(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    side = np.abs(x)
    spread = rng.uniform(0.88, 1.0)
    upper = polygon(
        side,
        y,
        rounded(
            [
                (0.02, -0.12),
                (0.35, -0.62),
                (0.80 * spread, -0.92),
                (spread, -0.80),
                (0.88 * spread, -0.30),
                (0.55, 0.02),
                (0.02, 0.12),
            ],
            2,
        ),
    )
    lower = polygon(
        side,
        y,
        rounded(
            [
                (0.02, -0.02),
                (0.50, 0.0),
                (0.78 * spread, 0.22),
                (0.72 * spread, 0.58),
                (0.42, 0.82),
                (0.22, 0.66),
                (0.02, 0.20),
            ],
            2,
        ),
    )
    wings = np.maximum(upper, lower)
    distance, along = to_segment(side, y, (0.0, -0.36), (0.0, 0.48))
    body = 0.075 * (1 - 0.4 * along) - distance
    feeler = 0.018 - to_segment(side, y, (0.02, -0.36), (0.24, -0.78))[0]
    angle = np.arctan2(y - 0.03, side + 0.02)
    root = np.hypot(side, y)
    veins = 1 - smoothstep(0.006, 0.022, root * np.abs(np.sin(angle * 5.5)) / 5.5)
    surface = blend(main, second, smoothstep(0.75, 0.15, root) * 0.6)
    surface = blend(surface, 0.35 * main, 0.65 * veins)
    dark = 0.12 + 0.22 * accent
    surface = blend(surface, dark, 0.95 * (1 - smoothstep(0.07, 0.115, wings)))
    dots = np.abs(((angle * 4.2) % 1) - 0.5)
    surface = blend(
        surface,
        np.float32(0.93),
        (1 - smoothstep(0.16, 0.28, dots)) * smoothstep(0.018, 0.035, wings) * (1 - smoothstep(0.06, 0.075, wings)),
    )
    for centre_x, centre_y, radius in ((0.66 * spread, -0.56, 0.13), (0.46, 0.42, 0.11)):
        ring = np.hypot(side - centre_x, y - centre_y) / radius
        surface = blend(surface, dark, 1 - smoothstep(0.9, 1.1, ring))
        surface = blend(surface, 0.4 * second + 0.55, 1 - smoothstep(0.55, 0.75, ring))
        surface = blend(surface, 0.5 * dark, 1 - smoothstep(0.2, 0.35, ring))
    trunk = smoothstep(-0.005, 0.015, np.maximum(body, feeler))
    surface = blend(surface, 0.7 * dark + 0.04 * np.sin(60 * y)[..., None], trunk)
    height = 0.12 * np.sqrt(np.clip(wings, 0, 0.1)) + 0.06 * root + 0.5 * np.sqrt(np.clip(body, 0, 0.1))
    return Figure(np.maximum(np.maximum(wings, body), feeler), surface, height, 0.1)


def teapot(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    tall, wide = rng.uniform(0.46, 0.56), rng.uniform(0.56, 0.64)
    centre = 0.18
    belly = (1 - np.hypot(x / wide, (y - centre) / tall)) * tall
    belly = np.minimum(belly, centre + tall * 0.88 - y)  # it stands on a flat foot
    top = centre - tall
    lid = (1 - np.hypot(x / (0.55 * wide), (y - top - 0.06) / 0.15)) * 0.15
    knob = 0.085 - np.hypot(x, y - top + 0.13)
    bend = (0.74, 0.12 + rng.uniform(-0.05, 0.05))
    first = to_segment(x, y, (0.35, 0.36), bend)
    spout = 0.16 - 0.065 * first[1] - first[0]
    last = to_segment(x, y, bend, (1.0, -0.30))
    spout = np.maximum(spout, 0.095 - 0.03 * last[1] - last[0])
    ring = np.hypot((x + wide) / 0.36, (y - centre + 0.03) / 0.37)
    handle = 0.075 - np.abs(ring - 0.86) * 0.36
    pot = np.maximum(belly, np.maximum(lid, knob))
    inside = np.maximum(pot, np.maximum(spout, handle))
    surface = np.broadcast_to(main, (*x.shape, 3))
    band = (y - centre + 0.06) / 0.15 + 0.25 * (x / wide) ** 2
    in_band = smoothstep(1.1, 1.0, np.abs(band)) * (belly > 0) * (spout < belly + 0.1)
    zigzag = np.abs(((x / 0.19) % 1) - 0.5) * 3.2 - 0.8
    pattern = smoothstep(-0.1, 0.1, zigzag - band)
    surface = blend(surface, second, in_band * pattern)
    surface = blend(surface, 0.35 * accent + 0.6, in_band * (1 - pattern))
    lines = smoothstep(0.22, 0.12, np.abs(np.abs(band) - 1.25)) * (belly > 0)
    surface = blend(surface, second, np.clip(lines + (knob > 0) + smoothstep(0.0, 0.03, lid) * (lid < 0.04), 0, 1))
    height = (
        0.85 * np.sqrt(np.clip(belly, 0, 0.5))
        + 0.45 * np.sqrt(np.clip(np.maximum(spout, handle), 0, 0.1)) * (belly < 0.02)
        + 0.3 * np.sqrt(np.clip(np.maximum(lid, knob), 0, 0.15))
    )
    return Figure(inside, surface, height, 1.0)


OBJECTS = {
    "leaf": leaf,
    "starfish": starfish,
    "fish": fish,
    "mushroom": mushroom,
    "butterfly": butterfly,
    "teapot": teapot,
}
"""Drawing function of each class, in the order of the labels 1, 2, ..."""

TILT = {"leaf": 180, "starfish": 180, "fish": 50, "mushroom": 35, "butterfly": 180, "teapot": 25}
"""How far an object is turned at most, in degrees either way."""

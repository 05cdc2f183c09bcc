"""The things to find: each is recognised by its outline and its texture, never by its colour.

A drawing function gets coordinates x, y (H, W) in which the object roughly fills [-1, 1] (y points down), a random
generator and three colours, and returns a Figure.
"""

import math
from typing import NamedTuple

import numpy as np

from dataloaders.synthetic.textures import blend, cells, clouds, polygon, rounded, smoothstep, to_segment, turned


class Figure(NamedTuple):
    """An object in its own coordinates."""

    inside: np.ndarray  # (H, W): distance to the outline, positive inside
    colours: np.ndarray  # (H, W, 3): surface colours before lighting
    height: np.ndarray  # (H, W): relief towards the viewer, for shading
    gloss: float  # strength of the highlight


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


def mushroom(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    lean = rng.uniform(-0.16, 0.16)
    wide, brim, thick = rng.uniform(0.82, 1.0), rng.uniform(-0.06, 0.08), rng.uniform(0.17, 0.25)
    corners = [
        (-wide, brim + 0.06), (-0.92 * wide, brim - 0.42), (-0.5 * wide, -0.86), (0.0, -0.98), (0.5 * wide, -0.86),
        (0.92 * wide, brim - 0.42), (wide, brim + 0.06), (0.55 * wide, brim + 0.20), (-0.55 * wide, brim + 0.20),
    ]  # fmt: skip
    dome = polygon(x, y, rounded(corners))
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
    cap_height = 0.7 * np.sqrt(np.clip(dome, 0, 0.45)) * (1 - is_gill) + 0.03 * spots
    height = cap_height + 0.5 * np.sqrt(np.clip(stem, 0, thick)) * np.clip(is_stem, 0, 1)
    return Figure(np.maximum(dome, stem), surface, height, 0.3)


def butterfly(x, y, rng, colours) -> Figure:
    main, second, accent = colours
    side = np.abs(x)
    spread = rng.uniform(0.88, 1.0)
    upper = [
        (0.02, -0.12), (0.35, -0.62), (0.80 * spread, -0.92), (spread, -0.80), (0.88 * spread, -0.30), (0.55, 0.02),
        (0.02, 0.12),
    ]  # fmt: skip
    lower = [
        (0.02, -0.02), (0.50, 0.0), (0.78 * spread, 0.22), (0.72 * spread, 0.58), (0.42, 0.82), (0.22, 0.66),
        (0.02, 0.20),
    ]  # fmt: skip
    wings = np.maximum(*(polygon(side, y, rounded(corners)) for corners in (upper, lower)))
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
    dots = 1 - smoothstep(0.16, 0.28, np.abs(((angle * 4.2) % 1) - 0.5))
    hem = dots * smoothstep(0.018, 0.035, wings) * (1 - smoothstep(0.06, 0.075, wings))
    surface = blend(surface, np.float32(0.93), hem)
    for centre_x, centre_y, radius in ((0.66 * spread, -0.56, 0.13), (0.46, 0.42, 0.11)):
        ring = np.hypot(side - centre_x, y - centre_y) / radius
        surface = blend(surface, dark, 1 - smoothstep(0.9, 1.1, ring))
        surface = blend(surface, 0.4 * second + 0.55, 1 - smoothstep(0.55, 0.75, ring))
        surface = blend(surface, 0.5 * dark, 1 - smoothstep(0.2, 0.35, ring))
    trunk = smoothstep(-0.005, 0.015, np.maximum(body, feeler))
    surface = blend(surface, 0.7 * dark + 0.04 * np.sin(60 * y)[..., None], trunk)
    height = 0.12 * np.sqrt(np.clip(wings, 0, 0.1)) + 0.06 * root + 0.5 * np.sqrt(np.clip(body, 0, 0.1))
    return Figure(np.maximum(np.maximum(wings, body), feeler), surface, height, 0.1)


# --- clutter: things that belong to the background ------------------------------------------------------------------


def stone(x, y, rng, colours) -> Figure:
    angles = np.linspace(0, 2 * np.pi, 8)[:-1]
    corners = [(np.cos(a) * rng.uniform(0.5, 0.95), np.sin(a) * rng.uniform(0.4, 0.75)) for a in angles]
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


OBJECTS = {"leaf": leaf, "starfish": starfish, "mushroom": mushroom, "butterfly": butterfly}  # in the labels' order
TILT = {"leaf": 60, "starfish": 180, "mushroom": 30, "butterfly": 60}  # at most, in degrees either way
CLUTTER = (stone, stone, twig, scrap, petals)

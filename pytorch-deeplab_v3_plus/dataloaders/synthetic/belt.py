"""Photographs of parts on a conveyor belt, as users have them: with the JSON files of labelme beside them.

    python -m dataloaders.synthetic.belt FOLDER

writes FOLDER/photographs/ (60 with scribbles: part_000.jpg, part_000.json, ...), FOLDER/masks/ (their full truth as RGB
pictures, with colours.txt) and FOLDER/new/ (6 without annotations). docs/worked_example.md trains a network on them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.arguments import ArgumentParser, number
from common.errors import InputError, exit_status
from common.faults import advice
from dataloaders.synthetic.objects import Figure, scrap, twig
from dataloaders.synthetic.scenes import light_direction, paste, photograph, places, shrunk
from dataloaders.synthetic.scribbles import simulate_strokes
from dataloaders.synthetic.textures import Colours, blend, clouds, polygon, smoothstep, to_segment

WIDTH, HEIGHT = 200, 150
PHOTOGRAPHS, NEW = 60, 6
COLOURS = {"background": (60, 60, 60), "bolt": (230, 25, 75), "gear": (0, 130, 200), "nut": (255, 225, 25)}
BELTS = ((0.16, 0.19, 0.20), (0.15, 0.26, 0.21), (0.17, 0.22, 0.33), (0.33, 0.31, 0.28))
STEEL, BRASS = (0.62, 0.65, 0.70), (0.80, 0.62, 0.28)
PLASTIC = ((0.75, 0.20, 0.17), (0.85, 0.45, 0.12), (0.86, 0.84, 0.78))


def bolt(x, y, rng, colours) -> Figure:
    """A screw with a hexagonal head, seen from the side."""
    distance, _ = to_segment(x, y, (-0.4, 0.0), (0.95, 0.0))
    thread = np.sin(x * rng.uniform(48, 60) + 6 * y)
    shaft = 0.16 + 0.015 * thread * (x > -0.1) - distance
    head = polygon(x, y, [(-0.95, -0.26), (-0.85, -0.4), (-0.45, -0.4), (-0.45, 0.4), (-0.85, 0.4), (-0.95, 0.26)])
    surface = blend(colours[0], 0.45 * colours[0], 0.5 * smoothstep(0.0, 0.9, thread) * (shaft > head) * (x > -0.1))
    surface = blend(surface, 0.6 * colours[0], 0.7 * smoothstep(0.03, 0.0, np.abs(np.abs(y) - 0.17)) * (head > 0))
    height = 0.9 * np.sqrt(np.clip(shaft, 0, 0.16)) + 0.3 * np.sqrt(np.clip(head, 0, 0.1))
    return Figure(np.maximum(shaft, head), surface, height, 0.5)


def nut(x, y, rng, colours) -> Figure:
    """A hexagonal nut, lying flat."""
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    outside = polygon(x, y, [(0.85 * np.cos(angle), 0.85 * np.sin(angle)) for angle in angles])
    radius = np.hypot(x, y)
    hole = radius - rng.uniform(0.36, 0.42)
    surface = blend(colours[0], 0.5 * colours[0], 0.7 * (1 - smoothstep(0.02, 0.1, hole)))
    surface = blend(surface, 0.7 * colours[0] + 0.25, 0.5 * smoothstep(0.1, 0.0, np.abs(radius - 0.66)))
    return Figure(np.minimum(outside, hole), surface, 0.35 * np.sqrt(np.clip(np.minimum(outside, hole), 0, 0.1)), 0.5)


def gear(x, y, rng, colours) -> Figure:
    """A toothed wheel of plastic with an axle hole and, often, holes around it."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    teeth = int(rng.integers(11, 17))
    inside = np.minimum(0.84 + 0.11 * np.clip(2.5 * np.sin(teeth * angle), -1, 1) - radius, radius - 0.16)
    spokes = int(rng.integers(4, 6)) if rng.random() < 0.6 else 0
    for spoke in range(spokes):
        turn = 2 * np.pi * spoke / spokes
        inside = np.minimum(inside, np.hypot(x - 0.47 * np.cos(turn), y - 0.47 * np.sin(turn)) - 0.13)
    rim = smoothstep(0.05, 0.0, np.abs(radius - 0.68))
    surface = blend(colours[0], 0.75 * colours[0], 0.8 * rim) * (1 + 0.02 * clouds(x.shape, 12, rng))[..., None]
    return Figure(inside, surface, 0.25 * np.sqrt(np.clip(inside, 0, 0.08)) - 0.04 * rim, 0.15)


PARTS = {"bolt": bolt, "gear": gear, "nut": nut}


def draw_belt(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one photograph, uint8 (H, W, 3), and its truth, uint8 (H, W): 0 the belt, then the PARTS."""
    shape = 2 * HEIGHT, 2 * WIDTH
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    ribs = smoothstep(0.75, 1.0, np.sin(2 * np.pi * x / rng.uniform(22, 34) + rng.uniform(0, 6)))
    brightness = 1 + 0.35 * ribs + 0.10 * clouds(shape, 4, rng, 1.0) + 0.12 * clouds(shape, 90, rng, 2.5)
    brightness = brightness + 0.2 * smoothstep(1.6, 2.2, clouds(shape, 60, rng, 1.5, stretch=14))  # scratches
    belt = np.array(BELTS[rng.integers(len(BELTS))]) * rng.uniform(0.85, 1.2)
    canvas = (belt * np.clip(brightness, 0.2, 2)[..., None]).astype(np.float32)
    oil = smoothstep(1.1, 1.6, clouds(shape, 50, rng, 2.5))
    canvas = blend(canvas, 0.45 * canvas, 0.8 * oil)
    light, label = light_direction(rng), np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for _ in range(rng.integers(2, 7)):  # shavings and scraps of the same materials are background
        centre = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        colours = material(rng.choice(list(PARTS)), rng)
        thing, radius, angle = (twig, scrap)[rng.integers(2)], rng.uniform(8, 18), rng.uniform(0, 6.3)
        paste(canvas, thing, centre, radius, angle, light, colours, rng)
    for centre_x, centre_y, radius in places(shape, int(rng.integers(3, 7)), rng):
        value, angle = int(rng.integers(len(PARTS))) + 1, rng.uniform(0, 2 * np.pi)
        name = list(PARTS)[value - 1]
        coverage = paste(canvas, PARTS[name], (centre_x, centre_y), radius, angle, light, material(name, rng), rng)
        label[shrunk(coverage) > 0.5] = value
    return photograph(canvas, rng), label


def material(name: str, rng: np.random.Generator) -> Colours:
    """Choose three shades of a part's colour, as `paste` needs them: steel bolts, brass nuts, plastic gears."""
    colour = {"bolt": STEEL, "nut": BRASS}.get(name, PLASTIC[rng.integers(len(PLASTIC))])
    colour = np.clip(np.array(colour) * rng.uniform(0.8, 1.15) + rng.normal(0, 0.03, 3), 0.05, 0.95).astype(np.float32)
    return colour, 0.8 * colour, 0.6 * colour


def labelme_file(label: np.ndarray, image_name: str, rng: np.random.Generator) -> dict:
    """Return what labelme saves for scribbles: lines of a few corners."""
    extras = {"group_id": None, "description": "", "shape_type": "linestrip", "flags": {}, "mask": None}
    shapes = []
    for stroke in simulate_strokes(label, rng):
        corners = stroke.path[:: max(1, len(stroke.path) // 8)]
        shapes.append({"label": list(COLOURS)[stroke.value], "points": np.round(corners, 1).tolist(), **extras})
    size = {"imageHeight": label.shape[0], "imageWidth": label.shape[1]}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_name, "imageData": None, **size}


def draw_photographs(folder: Path, seed: int) -> None:
    """Write photographs, labelme files, masks and the colour table; picture n depends on seed and n alone."""
    palette = np.array(list(COLOURS.values()), dtype=np.uint8)
    try:
        for name in ("photographs", "masks", "new"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for number in tqdm(range(PHOTOGRAPHS + NEW), unit="photograph", disable=None, leave=False):
            rng = np.random.default_rng([seed, number])
            image, label = draw_belt(rng)
            name, where = f"part_{number:03d}", folder / ("photographs" if number < PHOTOGRAPHS else "new")
            Image.fromarray(image).save(where / f"{name}.jpg", quality=92)
            if number < PHOTOGRAPHS:
                annotation = labelme_file(label, f"{name}.jpg", rng)
                (where / f"{name}.json").write_text(json.dumps(annotation, indent=2))
                Image.fromarray(palette[label]).save(folder / "masks" / f"{name}.png")
        table = "".join(f"{red} {green} {blue} {name}\n" for name, (red, green, blue) in COLOURS.items())
        (folder / "colours.txt").write_text(table)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); {advice(error)}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and draw; return the exit status."""
    description = "Draw photographs of parts on a belt, with labelme files."
    parser = ArgumentParser("python -m dataloaders.synthetic.belt", description=description)
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=number(int, 0), default=1, help="chooses the pictures")
    args = parser.parse_args(argv)
    draw_photographs(args.folder, args.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))

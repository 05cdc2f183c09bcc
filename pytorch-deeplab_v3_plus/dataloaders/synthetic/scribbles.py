"""Simulate scribbles: what a person would draw over a picture whose full ground truth is known."""

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.arguments import flag, number, option
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.strokes import pillow_stroke, usual_width

STROKES = 4  # at most, in one component
KEEP_AWAY = 2.0  # pixels between a stroke and the boundary, less in thin parts
FARTHEST = 20  # distances to the boundary are measured up to here; beyond, a stroke wanders freely
NODES = 400  # of the grid on which a path is searched
PART = number(float, 0, above=True, high=1)


@dataclass(frozen=True)
class StrokeOptions:
    """strokes"""

    share: float = option(0.03, "share of the pixels to cover with strokes", type=PART)
    smallest: float = option(
        0.004, "objects below this share of the picture get no stroke", type=number(float, 0, high=1), metavar="SHARE"
    )
    length: float = option(1.0, "part of each stroke to keep", type=PART, metavar="RATIO")
    drop: float = option(0.0, "share of the strokes to leave out", type=number(float, 0, high=1), metavar="RATIO")
    jitter: float = option(
        0.0,
        "standard deviation of a random shift of each stroke, as by a careless hand: it may cross a border and be "
        "wrong there",
        type=number(float, 0),
        metavar="PIXELS",
    )
    points: bool = flag("a dot on each object instead of strokes")


USUAL = StrokeOptions()


class Stroke(NamedTuple):
    """One movement of the pen."""

    value: int  # class that it stands for
    path: np.ndarray  # float (points, 2): x, y
    width: int  # of the pen, in pixels
    room: np.ndarray  # bool (H, W): its component without the pixels near the boundary, which a careful hand avoids
    first: bool  # whether it is the first of its component, which runs through all of it


def simulate_scribbles(label: np.ndarray, rng: np.random.Generator, options: StrokeOptions = USUAL) -> np.ndarray:
    """Draw strokes into every connected component of every class.

    A stroke follows the middle of its component, swayed by a slow random curve; the components share the ink in
    proportion to the square roots of their areas. Without jitter every pixel of a stroke has the class that the ground
    truth has there. The same `rng` draws the same strokes for every `length` and `drop`: the sparser set is a subset of
    the fuller one. `label` is the ground truth, uint8 (H, W), in which 254 and 255 are no class; the result, uint8
    (H, W), has class numbers on the strokes, 255 elsewhere.
    """
    scribbles = np.full_like(label, UNLABELLED)
    hand = rng.spawn(1)[0]  # its own stream: it does not disturb the strokes
    for stroke in simulate_strokes(label, rng, options):
        dropped, where, shift = hand.random() < options.drop, hand.random(), hand.normal(0, 1, 2)
        if dropped or options.points and not stroke.first:
            continue
        segments = len(stroke.path) - 1
        kept = 0 if options.points else max(1, round(options.length * segments))
        start = int(where * (segments - kept + 1))  # so that the run of a smaller length lies within that of a larger
        path = stroke.path[start : start + kept + 1]
        drawn = pillow_stroke(path + options.jitter * shift, stroke.width, label.shape)
        scribbles[drawn if options.jitter else drawn & stroke.room] = stroke.value
    return scribbles


def simulate_strokes(label: np.ndarray, rng: np.random.Generator, options: StrokeOptions = USUAL) -> Iterator[Stroke]:
    """Yield the strokes of a picture; arguments as simulate_scribbles's."""
    found = [component for value in np.unique(label[label < PADDING]) for component in components(label == value)]
    found = [component for component in found if component.mean() >= options.smallest]
    roots = np.sqrt([component.sum() for component in found])
    for component, ink in zip(found, options.share * label.size * roots / roots.sum(), strict=True):
        yield from component_strokes(component, int(label[component][0]), ink, rng)


def component_strokes(component: np.ndarray, value: int, ink: float, rng: np.random.Generator) -> Iterator[Stroke]:
    """Yield strokes of about ``ink`` pixels in all for a component, bool (H, W)."""
    # The frame of the picture is no boundary, but a hand keeps a little away from it.
    rows, columns = (np.minimum(at, at[::-1]) for at in map(np.arange, component.shape))
    distance = np.minimum(distance_to_boundary(component), 1 + 0.7 * np.minimum(rows[:, None], columns))
    thickest = distance.max()
    room = component & (distance >= min(KEEP_AWAY, 0.6 * thickest))
    width = min(usual_width(component.shape), round(thickest / 2)) if thickest > 6 else 2
    if thickest >= FARTHEST:  # beyond which the distance is not known
        width = usual_width(component.shape)
    strokes = np.zeros_like(component)
    for stroke in range(STROKES):
        missing = ink - strokes.sum()
        if stroke and missing < 0.1 * ink:
            break
        path = middle_path(distance, rng, longest=stroke == 0)
        steps = np.hypot(*np.diff(path, axis=0).T)
        length = np.concatenate([[0], np.cumsum(steps)])
        wanted = min(0.92 * length[-1], missing / width, rng.uniform(0.5, 1.2) * ink / width)
        start = rng.uniform(0, length[-1] - wanted)
        at = np.linspace(start, start + wanted, max(2, int(wanted / 2)))
        path = np.stack([np.interp(at, length, path[:, axis]) for axis in (0, 1)], axis=1)
        path = sway(path, distance, rng)
        strokes |= pillow_stroke(path, width, component.shape) & room
        yield Stroke(value, path, width, room, stroke == 0)


def sway(path: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth a path of (x, y) points, a hand's way, and push it sideways by a slow curve where there is room."""
    for _ in range(3):
        path[1:-1] = 0.25 * path[:-2] + 0.5 * path[1:-1] + 0.25 * path[2:]
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-6
    columns, rows = np.clip(path.T.astype(int), 0, [[distance.shape[1] - 1], [distance.shape[0] - 1]])
    phase = np.arange(len(path)) * rng.uniform(0.08, 0.25) + rng.uniform(0, 2 * np.pi)
    offset = 0.3 * distance[rows, columns] * np.sin(phase)
    return path + np.stack([-direction[:, 1], direction[:, 0]], axis=1) * offset[:, None]


def middle_path(distance: np.ndarray, rng: np.random.Generator, longest: bool) -> np.ndarray:
    """Find a path along the middle of a region, float (points, 2) as x, y, from the `distance` to its boundary, (H, W).

    With `longest` it starts where a first one ended, and so runs through the whole region.
    """
    step = max(1, round(np.sqrt(np.count_nonzero(distance) / NODES)))
    offset = step // 2
    grid = distance[offset::step, offset::step]
    if not grid.any():
        grid, step, offset = distance, 1, 0
    grid = np.pad(grid, 1)
    start = int(rng.choice(np.flatnonzero(grid >= 0.5 * grid.max())))
    for _ in range(2 if longest else 1):
        path = path_to_farthest(grid, start)
        start = path[-1]
    rows, columns = np.divmod(path, grid.shape[1])
    points = np.stack([columns - 1, rows - 1], axis=1) * float(step) + offset
    return points if len(points) > 1 else np.repeat(points, 2, axis=0) + [[-1.0, 0.0], [1.0, 0.0]]


def path_to_farthest(grid: np.ndarray, start: int) -> list[int]:
    """Search the cheapest paths from a node (Dijkstra), the middle being cheap; return the most expensive of them.

    `grid` has the distance to the boundary, 0 outside and in its own first and last rows and columns.
    """
    width = grid.shape[1]
    price = np.where(grid > 0, 1 / (0.15 + grid / grid.max()) ** 2, np.inf).ravel().tolist()
    steps = [(step, 1.0) for step in (-width, width, -1, 1)]
    steps += [(step, 1.414) for step in (-width - 1, -width + 1, width - 1, width + 1)]
    cost, came_from, queue = {start: 0.0}, {start: start}, [(0.0, start)]
    while queue:
        spent, nearest = heapq.heappop(queue)
        if spent > cost[nearest]:
            continue  # it was reached on a cheaper path
        node = nearest  # the last node to be settled is the farthest
        for step, length in steps:
            other, reached = node + step, spent + price[node + step] * length
            if reached < cost.get(other, np.inf):
                cost[other], came_from[other] = reached, node
                heapq.heappush(queue, (reached, other))
    path = [node]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def distance_to_boundary(region: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance to the nearest pixel outside, up to FARTHEST; the frame is no boundary."""
    height, width = region.shape
    far = np.float32(FARTHEST**2)
    padded = np.pad(np.where(region, far, 0).astype(np.float32), FARTHEST, mode="edge")
    # The squared distance is a minimum over rows of a minimum over columns.
    shifts = range(-FARTHEST, FARTHEST + 1)
    rows = (padded[FARTHEST + shift : FARTHEST + shift + height] + shift**2 for shift in shifts)
    padded = functools.reduce(np.minimum, rows)
    columns = (padded[:, FARTHEST + shift : FARTHEST + shift + width] + shift**2 for shift in shifts)
    return np.sqrt(np.minimum(functools.reduce(np.minimum, columns), far))


def components(region: np.ndarray) -> list[np.ndarray]:
    """Cut a region, bool (H, W), into its connected parts (neighbours share an edge)."""
    parents: list[int] = []

    def root(number: int) -> int:
        while parents[number] != number:
            number = parents[number]
        return number

    numbers = np.zeros(region.shape, dtype=np.int64)
    runs_above: list[tuple[int, int, int]] = []
    for row, line in enumerate(np.pad(region, ((0, 0), (1, 1)))):
        changes = np.flatnonzero(np.diff(line)).tolist()
        runs = []
        for start, end in zip(changes[::2], changes[1::2], strict=True):
            number = len(parents)
            parents.append(number)
            for other_start, other_end, other in runs_above:
                if other_start < end and start < other_end:
                    parents[root(other)] = root(number)
            runs.append((start, end, number))
            numbers[row, start:end] = number
        runs_above = runs
    roots = np.array([root(number) for number in range(len(parents))])
    joined = roots[numbers] if parents else numbers
    return [region & (joined == number) for number in np.unique(roots)]

"""The pixels that an annotation tool's shapes cover."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from preparation.shapes import covered_pixels, make_shape, pixels_within

SIZE = (23, 17)  # width, height
CENTRES = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), axis=-1) + 0.5


def random_ring(rng: np.random.Generator) -> np.ndarray:
    """Return a polygon that may cross itself and leave the image; every other has corners between pixels."""
    ring = rng.uniform(-9, 30, (rng.integers(3, 9), 2))
    return ring.round() if rng.random() < 0.5 else ring


@pytest.mark.parametrize("seed", range(20))
def test_a_triangle_covers_the_pixels_whose_centres_lie_in_it(seed):
    ring = np.random.default_rng(seed).uniform(-9, 30, (3, 2))
    inside = Outline(ring).contains_points(CENTRES.reshape(-1, 2)).reshape(SIZE[::-1])
    assert np.array_equal(pixels_within(ring, SIZE), inside)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_cover_pixels_by_the_even_odd_rule(seed):
    ring = random_ring(np.random.default_rng(seed))
    crossed = np.zeros(SIZE[::-1], dtype=int)
    for (x, y), (to_x, to_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        for row in range(SIZE[1]):
            if min(y, to_y) <= row + 0.5 < max(y, to_y):
                crossed[row] += x + (row + 0.5 - y) * (to_x - x) / (to_y - y) <= CENTRES[row, :, 0]
    assert np.array_equal(pixels_within(ring, SIZE), crossed % 2 == 1)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_that_share_borders_share_every_pixel_out(seed):
    """Triangles around a point, whose sides lie on pixels' centres too."""
    rng = np.random.default_rng(seed)
    middle, corners = rng.integers(1, 33, 2) / 2, np.array([(0, 0), (SIZE[0], 0), SIZE, (0, SIZE[1])])
    sides = zip(corners, np.roll(corners, 1, axis=0), strict=True)
    parts = [pixels_within(np.array([middle, *side]), SIZE) for side in sides]
    assert (np.sum(parts, axis=0) == 1).all()


def test_where_the_corner_lies():
    """Regression: boxes and polygons of CVAT, COCO, VIA, QuPath and Label Studio were a pixel too wide and high."""
    box = make_shape("bolt", "rectangle", [(3, 2), (13, 2), (13, 7), (3, 7)])
    expected = np.zeros(SIZE[::-1], dtype=bool)
    expected[2:7, 3:13] = True
    assert np.array_equal(covered_pixels(box, SIZE, 1, counts_pixels=False), expected)
    expected[2:8, 3:14] = True
    assert np.array_equal(covered_pixels(box, SIZE, 1, counts_pixels=True), expected)  # as labelme draws it
    for counts_pixels, x in ((False, 4.9), (True, 4.4)):
        (pixel,) = np.argwhere(covered_pixels(make_shape("nut", "point", [(x, x)]), SIZE, 1, counts_pixels))
        assert pixel.tolist() == [4, 4]

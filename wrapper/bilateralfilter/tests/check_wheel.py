"""Check an installed module where nothing else is installed: no NumPy, no test runner.

    python tests/check_wheel.py

Exit status 0 if all is well.
"""

import random
from array import array

from bilateralfilter import (
    Lattice,
    SpanningForest,
    bilateralfilter,
    bilateralfilter_batch,
    bilateralfilter_profile,
    instruction_sets,
    mean_field,
    window_filter,
)

N, K, H, W = 2, 5, 23, 31
VALUES = K * H * W  # of an image
SIGMAS = 15.0, 20.0


def numbers(count: int, high: float) -> array:
    return array("f", (random.uniform(0, high) for _ in range(count)))


def product(x: array, y: array) -> float:
    return sum(a * b for a, b in zip(x, y))  # noqa: B905 (Python 3.8 has no `strict`)


def main() -> None:
    images, x, y = numbers(N * 3 * H * W, 60), numbers(N * K * H * W, 1), numbers(N * K * H * W, 1)
    forwards, backwards, found = array("f", x), array("f", x), array("f", x)
    bilateralfilter_batch(images, x, forwards, N, K, H, W, *SIGMAS)
    bilateralfilter_batch(images, y, backwards, N, K, H, W, *SIGMAS, transpose=True)
    assert min(forwards) > 0
    assert abs(product(forwards, y) / product(x, backwards) - 1) < 1e-6, "transposed is not the adjoint"
    for name in instruction_sets():
        bilateralfilter_profile(images, x, found, N, K, H, W, *SIGMAS, instruction_set=name)
        assert found == forwards, f"{name} differs"
    single = array("f", x[:VALUES])
    bilateralfilter(images[: 3 * H * W], single, single, H, W, *SIGMAS)
    assert single == forwards[:VALUES], "an image differs from a batch"
    lattice = Lattice(images, N, H, W, *SIGMAS)
    for _ in range(2):
        lattice.filter(x, found, K)
        assert found == forwards, "a lattice differs from a single filtering"
    mean_field(images, x, found, N, K, H, W, 3, 4.0, *SIGMAS, 3.0, 1.0)
    sums = [sum(found[n * VALUES + i : (n + 1) * VALUES : H * W]) for n in range(N) for i in range(H * W)]
    assert max(abs(total - 1) for total in sums) < 1e-5, "the probabilities of a pixel do not sum to 1"
    edges, masses = numbers(N * (2 * H * W - H - W), 1), numbers(N * H * W, 1)
    forest = SpanningForest(edges, N, H, W)
    forest.filter(x, edges, forwards, masses, K)
    forest.filter_transposed(y, edges, masses, backwards, K)
    assert abs(product(forwards, y) / product(x, backwards) - 1) < 1e-5, "transposed is not a tree's adjoint"
    ones, gradient = array("f", [1]) * len(x), array("f", edges)
    forest.edge_gradient(ones, numbers(len(edges), 0), ones, gradient, K)
    assert sum(gradient) == 2 * K * N * (H * W - 1), "the trees have too few edges or too many"
    for there, back in ((x, forwards), (y, backwards)):
        window_filter(images, numbers(N * H * W, 0), there, back, masses, N, K, H, W, 3, 15.0, 2.0, 0.5, 2.0)
        assert not any(back), "a window outside the region is not empty"
    print(f"bilateralfilter works: {', '.join(instruction_sets())}")


if __name__ == "__main__":
    main()

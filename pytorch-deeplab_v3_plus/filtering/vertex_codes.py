"""The numbers of lattice vertices for the filter in tensor operations."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

D = 5  # dimensions: x, y, R, G, B
SIDE = D + 1  # vertices of a simplex, and its side
# Elevation makes the columns of the basis orthogonal and the filter's standard deviation 1.
SCALE = [
    float(np.float32(1 / math.sqrt((i + 2) * (i + 1)) * float(np.float32(math.sqrt(2 / 3) * SIDE)))) for i in range(D)
]
MAX_COORDINATE = 1 << 20  # beyond it float32 cannot resolve where in its simplex a point lies


class Word(NamedTuple):
    """How a word of the codes comes from a vertex: `sum_i q_i stride_i + offset + image * image_stride (+ colour)`."""

    strides: Tensor  # of the quotients q_0 ... q_D, (SIDE, 1)
    offset: int
    image_stride: int
    step: int  # 1 in the low word, which contains the colour, and 0 in the high one
    carry: int  # what takes the place of the step when the remainder of all coordinates becomes 0


class Coding:
    """Numbers the vertices of all images such that a step to a neighbour adds a constant to a vertex's code.

    It is what `VertexCoding` of the C++ filter does for one image; here the image is the coordinate of the highest
    stride. A code that does not fit into 62 bits has two words. The high words that occur are then numbered as well
    (`high_words`), so that each vertex still gets a single number (`join`).
    """

    high_words: Tensor

    def __init__(self, low: list[float], high: list[float], images: int, points: int, device: torch.device) -> None:
        """Number the vertices around points whose coordinate i lies in low[i]..high[i], ranges that contain 0."""
        # The range of each elevated coordinate, by interval arithmetic over the elevation (see _locate).
        lows, highs = [0.0] * SIDE, [0.0] * SIDE
        low_sum = high_sum = 0.0
        for j in range(D, -1, -1):
            low_step, high_step = (low[j - 1] * SCALE[j - 1], high[j - 1] * SCALE[j - 1]) if j else (0.0, 0.0)
            lows[j], highs[j] = low_sum - j * high_step, high_sum - j * low_step
            low_sum, high_sum = low_sum + low_step, high_sum + high_step
        reach = max(abs(x) for x in lows + highs)
        if reach > MAX_COORDINATE:
            raise ValueError(
                f"lattice coordinates too large: expected at most {MAX_COORDINATE}, found {reach:f}; use larger sigmas "
                "or a smaller range of features"
            )
        # The slack allows for rounding; 3 below and 2 above leave room for a simplex's vertices and their neighbours.
        slack = reach * 1e-6
        first = [math.floor((x - slack) / SIDE) - 3 for x in lows]
        counts = [math.floor((x + slack) / SIDE) + 3 - f for x, f in zip(highs, first, strict=True)]
        left_out = counts.index(max(counts))  # this quotient follows from the others, because coordinates sum to 0
        counts[left_out] = 1
        total = SIDE * math.prod(counts) * images

        # A numbered high word needs no more bits than there are vertices of points.
        limit = 1 << 62 if total < 1 << 62 else (1 << 62) // (SIDE * points)
        strides, sizes, word = [[0] * (SIDE + 1), [0] * (SIDE + 1)], [SIDE, 1], 0
        for i, count in enumerate([*counts, images]):
            if i != left_out:
                word = 1 if word or sizes[0] * count >= limit else 0
                strides[word][i] = sizes[word]
                sizes[word] *= count
        if sizes[1] >= 1 << 62:
            raise ValueError("the lattice has more vertices than two words can number; use larger sigmas")
        self.low_size = sizes[0]
        # 32 bits suffice for usual sigmas, and are sorted twice as fast as 64.
        self.dtype = torch.int32 if total < 1 << 30 else torch.int64
        self.words = [
            Word(
                # Filled in number by number, because the host would wait for the GPU to copy a list.
                torch.stack([torch.full((1,), stride, dtype=self.dtype, device=device) for stride in of_word[:SIDE]]),
                -sum(f * stride for f, stride in zip(first, of_word[:SIDE], strict=True)),
                of_word[SIDE],
                1 - number,
                sum(of_word[:SIDE]) - D * (1 - number),
            )
            for number, of_word in enumerate(strides[: word + 1])
        ]

    def number_high_words(self, words: list[Tensor]) -> None:
        """Number the high words that occur among the words of all vertices, so that they can be joined."""
        if len(words) > 1:
            self.high_words = words[1].unique()

    def join(self, words: list[Tensor]) -> Tensor:
        """Return one code for the words of each vertex; -1 where the high word does not occur."""
        if len(words) == 1:
            return words[0]
        number = torch.searchsorted(self.high_words, words[1]).clamp_(max=len(self.high_words) - 1)
        return torch.where(self.high_words[number] == words[1], number * self.low_size + words[0], -1)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Undo `join`."""
        if len(self.words) == 1:
            return [codes]
        return [codes % self.low_size, self.high_words[codes // self.low_size]]

"""The codes of lattice vertices for the filter in tensor operations."""

import math

import numpy as np
import torch

D = 5  # dimensions: x, y, R, G, B
SIDE = D + 1  # vertices of a simplex, and its side
# Elevation makes the columns of the basis orthogonal and the filter's standard deviation 1.
DEVIATION = float(np.float32(math.sqrt(2 / 3) * SIDE))
SCALE = [float(np.float32(1 / math.sqrt((i + 2) * (i + 1)) * DEVIATION)) for i in range(D)]
MAX_COORDINATE = 1 << 20  # beyond it float32 cannot resolve where in its simplex a point lies
MAX_BITS = 62  # of a code


class Coding:
    """Numbers the vertices of all images such that a step to a neighbour adds a constant to a vertex's code.

    It is what `VertexCoding` in `vertex_table.hpp` does for one image; here the image is the coordinate of the highest
    stride: `colour + sum_i q_i stride_i + offset + image * image_stride`.

    Attributes:
        strides: of the quotients q_0 ... q_D, (SIDE, 1).
        offset, image_stride: see above.
        carry: what takes the place of a step of 1 when the remainder of all coordinates becomes 0.
        dtype: of the codes: int32 suffices for usual sigmas, and is sorted twice as fast as int64.
        bits: that a code needs; beyond MAX_BITS, which `fits` tells, there are no codes.
    """

    def __init__(self, low: list[float], high: list[float], images: int, device: torch.device) -> None:
        """Number the vertices around points whose coordinate i lies in low[i]..high[i], ranges that contain 0."""
        # The range of each elevated coordinate, by interval arithmetic over the elevation (see torch_lattice._locate).
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
        strides, size = [0] * SIDE, SIDE
        for i, count in enumerate(counts):
            if i != left_out:
                strides[i], size = size, size * count
        self.bits = (size * images - 1).bit_length()
        self.fits = self.bits <= MAX_BITS
        if self.fits:
            self.dtype = torch.int32 if self.bits <= 30 else torch.int64
            # Filled in number by number, because the host would wait for the GPU to copy a list.
            filled = [torch.full((1,), stride, dtype=self.dtype, device=device) for stride in strides]
            self.strides, self.image_stride, self.carry = torch.stack(filled), size, sum(strides) - D
            self.offset = -sum(f * stride for f, stride in zip(first, strides, strict=True))

"""The filter in tensor operations: the lattice of `wrapper/bilateralfilter` for a batch of images at once, for GPUs.

Its steps are those of `permutohedral.hpp`, where they are explained, and have the same names. Every pixel gets the same
simplex with the same weights, bit by bit; only sums are taken in another order. What makes it fast here:

- The image is one more coordinate of a vertex, so that one lattice holds the whole batch.
- The vertices are numbered by sorting the codes of all pixels' vertices, which also groups the pixels by vertex.
- Splat, blur and slice multiply sparse matrices with the values, and so does `embedding_bag`: it sums weighted rows
  without storing the terms. As nothing is added atomically, every run gives the same bits.
- A vertex may have very many pixels: in a flat image a few have nearly all. They are summed in pieces, which are spread
  over the device.
- The host waits for the device once, for the sizes of the tables (in `_Lattice.__init__`), if images are in 0..255 and
  sigma_rgb is at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

D = 5  # dimensions: x, y, R, G, B
SIDE = D + 1  # vertices of a simplex, and its side
INVERSE = float(np.float32(1 / SIDE))
ALPHA = 1 / (1 + 2**-D)  # the published filter's estimate of what splat, blur and slice gain together
# Elevation makes the columns of the basis orthogonal, and the standard deviation of the whole filter 1.
SCALE = [float(np.float32(1 / math.sqrt((i + 2) * (i + 1)) * float(np.float32(math.sqrt(2 / 3) * SIDE)))) for i in range(D)]

MAX_COORDINATE = 1 << 20  # beyond it float32 no longer tells where in its simplex a point lies
EXPECTED = (-1.0, 256.0)  # range of images, with room for rounding
PIECE = 256  # pixels of a vertex that are summed one after another


def bilateral_filter(
    images: Tensor,
    values: Tensor,
    sigma_rgb: float,
    sigma_xy: float,
    *,
    transpose: bool = False,
    symmetric: bool = False,
) -> Tensor:
    """Filter tensors on the device where they lie.

    Args:
        images: `(N, 3, H, W)`, float32.
        values: `(N, K, H, W)`, any floating-point dtype.
        sigma_rgb, sigma_xy, transpose, symmetric: as in `filtering.bilateral_filter`.

    Returns:
        A new tensor `(N, K, H, W)` of the dtype of `values`.

    Raises:
        ValueError: if images or values are not finite, or the sigmas so small that the lattice becomes too large.
    """
    lattice = _build(images, values, sigma_rgb, sigma_xy)
    vertices = lattice.splat(values)
    forwards, backwards = range(SIDE), range(D, -1, -1)
    if symmetric:
        vertices = (lattice.blur(vertices, forwards) + lattice.blur(vertices, backwards)).mul_(0.5)
    else:
        vertices = lattice.blur(vertices, backwards if transpose else forwards)
    return lattice.slice(vertices).to(values.dtype)


def _build(images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float) -> _Lattice:
    if sigma_rgb >= 1:  # otherwise the whole range may be more than codes can number
        lattice = _Lattice(images, values, sigma_rgb, sigma_xy, *([bound] * 3 for bound in EXPECTED))
        if lattice.covers_images:
            return lattice
    low, high = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]).tolist()
    if not all(map(math.isfinite, low + high)):
        raise _non_finite("images", images)
    return _Lattice(images, values, sigma_rgb, sigma_xy, low, high)


def _non_finite(name: str, tensor: Tensor) -> ValueError:
    values = tensor.flatten()
    index = int(values.isfinite().logical_not_().nonzero()[0])
    return ValueError(f"{name}: expected finite values, found {values[index].item()} at index {index}")


class _Coding(NamedTuple):
    """Numbers the vertices: the code of a vertex is its colour r plus `sum_i (q_i - first_i) * stride_i`.

    q_0 ... q_D are the quotients of its coordinates, q_(D+1) is the image. Where 63 bits do not hold the code, it has a
    second, high word with strides of its own.
    """

    first: list[int]
    strides: list[list[int]]  # [word][i]
    low_size: int  # low words are smaller

    @classmethod
    def of_range(cls, low: list[float], high: list[float], images: int, points: int) -> _Coding:
        """Number the vertices around points in all images whose position i lies in low[i]..high[i]."""
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
        # The slack is for rounding; 3 below and 2 above have room for the vertices of a simplex and their neighbours.
        slack = reach * 1e-6
        first = [math.floor((x - slack) / SIDE) - 3 for x in lows]
        counts = [math.floor((x + slack) / SIDE) + 3 - f for x, f in zip(highs, first, strict=True)]
        left_out = counts.index(max(counts))  # this quotient follows from the others, as coordinates sum to 0
        counts.append(images)

        # Of the high words only the ranks among those that occur go into the sort (see _Lattice.join).
        one_word = SIDE * math.prod(counts) // counts[left_out] < 1 << 63
        limit = 1 << 63 if one_word else (1 << 63) // (SIDE * points)
        strides, sizes, word = [[0] * len(counts), [0] * len(counts)], [SIDE, 1], 0
        for i, count in enumerate(counts):
            if i != left_out:
                if word == 0 and sizes[0] * count >= limit:
                    word = 1
                strides[word][i] = sizes[word]
                sizes[word] *= count
        if sizes[1] >= 1 << 63:
            raise ValueError("the lattice has more vertices than two words can number; use larger sigmas")
        return cls([*first, 0], strides[: word + 1], sizes[0])

    @property
    def dtype(self) -> torch.dtype:
        """The words' dtype. Usual sigmas need 32 bits, which are sorted twice as fast as 64."""
        return torch.int32 if len(self.strides) == 1 and self.low_size < 1 << 31 else torch.int64


class _Lattice:
    """The lattice of N images with M vertices, numbered from 0; number M stands for an absent vertex.

    Its points are the pixels, and after each image's as many silent points at the origin as make their number a
    multiple of four: the published filter works in groups of four pixels, and the vertices of what fills up the last
    one take part in the blur.
    """

    def __init__(
        self, images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, low: list[float], high: list[float]
    ) -> None:
        """Build the lattice for images in low[c]..high[c]; whether they are tells `covers_images`."""
        n, _, h, w = images.shape
        self.images, self.height, self.width = n, h, w
        position = _positions(images, sigma_rgb, sigma_xy)
        points = position.shape[1]
        coding = _Coding.of_range(
            [0.0, 0.0] + [min(x, 0.0) / sigma_rgb for x in low],
            [(w - 1) / sigma_xy, (h - 1) / sigma_xy] + [max(x, 0.0) / sigma_rgb for x in high],
            n,
            points,
        )
        words, weights = _locate(position, coding, n)
        del position
        high_words = words[1].unique() if len(words) > 1 else None
        codes, order = _join(words, coding, high_words).flatten().sort(stable=True)
        del words

        # Number the vertices, and pieces of at most PIECE pixels of one vertex, in the order of the codes.
        starts = torch.ones_like(codes, dtype=torch.bool)
        torch.ne(codes[1:], codes[:-1], out=starts[1:])
        vertex = starts.cumsum(0, dtype=torch.int32).sub_(1)
        starts[::PIECE] = True
        piece = starts.cumsum(0, dtype=torch.int32).sub_(1)

        # The one wait for the device.
        lowest, highest = images.aminmax()
        covered = (lowest >= min(low)) & (highest <= max(high))
        least, most = values.aminmax()
        finite = least.isfinite() & most.isfinite()
        found = torch.stack([vertex[-1] + 1, piece[-1] + 1, covered.int(), finite.int()])
        vertex_count, piece_count, self.covers_images, is_finite = found.tolist()
        if not self.covers_images:
            return
        if not is_finite:
            raise _non_finite("values", values)

        first = _first_of_each(vertex, vertex_count)
        # Splat: the pixels of each piece, and the pieces of each vertex, of which the absent one has none.
        self.piece_starts = _first_of_each(piece, piece_count)
        self.piece_points = (order % points).int()
        self.piece_weights = weights.flatten()[order]
        self.vertex_starts = torch.cat([piece[first], piece[-1:] + 1])
        self.pieces = torch.arange(piece_count, dtype=torch.int32, device=codes.device)
        # Blur: a vertex and its neighbours along each axis.
        self.neighbours = _neighbours(codes[first], coding, high_words)
        self.kernel = torch.ones(self.neighbours[0].shape, device=codes.device)
        self.kernel[:, 1:] = 0.5
        # Slice: the vertices of each point.
        self.vertices = torch.empty_like(vertex).scatter_(0, order, vertex).view(SIDE, -1).t().contiguous()
        self.weights = weights.t().mul(ALPHA)

    def splat(self, values: Tensor) -> Tensor:
        """Let every vertex sum the weighted values of its pixels: `(N, K, H, W)` to `(M + 1, K)`."""
        n, k, pixels = *values.shape[:2], self.height * self.width
        rows = torch.zeros(n, _padded(pixels), k, device=values.device)
        rows[:, :pixels] = values.flatten(2).transpose(1, 2)
        pieces = _sums(self.piece_points, rows.flatten(0, 1), self.piece_starts, self.piece_weights)
        return _sums(self.pieces, pieces, self.vertex_starts)

    def blur(self, vertices: Tensor, axes: Iterable[int]) -> Tensor:
        """Add half of both neighbours along each axis in turn: `(M + 1, K)` to the same."""
        for axis in axes:
            vertices = _sums(self.neighbours[axis], vertices, weights=self.kernel)
        return vertices

    def slice(self, vertices: Tensor) -> Tensor:
        """Let every pixel gather its vertices' values: `(M + 1, K)` to `(N, K, H, W)`."""
        rows = _sums(self.vertices, vertices, weights=self.weights).view(self.images, -1, vertices.shape[1])
        pixels = rows[:, : self.height * self.width].transpose(1, 2)
        return pixels.reshape(self.images, -1, self.height, self.width)


def _sums(indices: Tensor, table: Tensor, starts: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Sum rows of a table, row of `indices` by row, or from each of `starts` to the next, where indices are flat."""
    return embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


def _first_of_each(numbers: Tensor, count: int) -> Tensor:
    """Where each of 0..count - 1 is found first in `numbers`, which are sorted."""
    wanted = torch.arange(count, dtype=numbers.dtype, device=numbers.device)
    return torch.searchsorted(numbers, wanted, out_int32=True)


def _padded(pixels: int) -> int:
    return -(-pixels // 4) * 4


def _positions(images: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """The points in units of the standard deviations: `(D, N * points)`."""
    n, _, h, w = images.shape
    position = torch.zeros(D, n, _padded(h * w), device=images.device)
    pixels = position[:, :, : h * w]
    index = torch.arange(h * w, device=images.device)
    pixels[0], pixels[1] = index % w, index // w
    pixels[2:] = images.flatten(2).transpose(0, 1)
    # Divided by tensors, as CUDA multiplies by the inverse of a number, which rounds differently.
    pixels[:2] /= torch.full((), sigma_xy, device=images.device)
    pixels[2:] /= torch.full((), sigma_rgb, device=images.device)
    return position.flatten(1)


def _locate(position: Tensor, coding: _Coding, images: int) -> tuple[list[Tensor], Tensor]:
    """Find the simplex around each of T points: the codes of its vertices, [word] (SIDE, T), and their weights, (SIDE, T).

    float32, one rounding per operation, in the order of the C++: another last bit can mean another simplex.
    """
    # Elevate the points into the hyperplane.
    elevated = position.new_empty(SIDE, position.shape[1])
    elevated[0] = 0
    for j in range(D, 0, -1):
        step = position[j - 1] * SCALE[j - 1]
        torch.sub(elevated[0], step * j, out=elevated[j])
        elevated[0] += step

    # The closest vertex of colour 0.
    quotient = (elevated * INVERSE).round_()
    residual = elevated - quotient * SIDE

    # The rank of each coordinate in the descending order of the residuals; of equal ones the first comes first.
    axis = torch.arange(SIDE, device=position.device)[:, None]
    rank = (axis + quotient.sum(0)).to(torch.int8)
    for i in range(D):
        behind = (residual[i] < residual[i + 1 :]).to(torch.int8)
        rank[i] += behind.sum(0, dtype=torch.int8)
        rank[i + 1 :] -= behind

    # Where rounding has missed the hyperplane, the coordinates that were rounded furthest move by SIDE.
    turn = (rank < 0).to(torch.int8) - (rank > D).to(torch.int8)
    rank += turn * SIDE
    quotient += turn
    residual = (elevated - quotient * SIDE).mul_(INVERSE)
    del elevated, turn

    # The vertex of colour 0.
    words = []
    image = torch.arange(images, dtype=coding.dtype, device=position.device)
    for strides in coding.strides:
        word = torch.empty(rank.shape, dtype=coding.dtype, device=position.device)
        word[0].view(images, -1).copy_((image * strides[-1])[:, None])
        for i in range(SIDE):
            if strides[i]:
                word[0] += (quotient[i] - coding.first[i]).to(coding.dtype) * strides[i]
        words.append(word)
    del quotient

    # From vertex to vertex every coordinate grows by 1, but the one of rank D - r falls by D, that is, its quotient
    # by 1. The weights, barycentric coordinates, are differences of successive residuals.
    weights = torch.empty_like(residual)
    columns = [_column(strides[:SIDE], coding.dtype, position.device) for strides in coding.strides]
    above = torch.zeros_like(residual[0])
    for r in range(SIDE):
        here = rank == D - r
        below = torch.where(here, residual, 0.0).sum(0)
        torch.sub(below, above, out=weights[r])
        above = below
        if r < D:
            for word, column in zip(words, columns, strict=True):
                torch.sub(word[r], (here * column).sum(0, dtype=coding.dtype), out=word[r + 1])
            words[0][r + 1] += 1
    weights[0] += 1.0 - above
    return words, weights


def _column(numbers: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a column on the device, without the wait that comes with copying them there."""
    return torch.stack([torch.full((1,), number, dtype=dtype, device=device) for number in numbers])


def _join(words: list[Tensor], coding: _Coding, high_words: Tensor | None) -> Tensor:
    """Make one code of the words; -1 where the high word is none of `high_words`."""
    if high_words is None:
        return words[0]
    rank = torch.searchsorted(high_words, words[1]).clamp_(max=len(high_words) - 1)
    return torch.where(high_words[rank] == words[1], rank * coding.low_size + words[0], -1)


def _neighbours(codes: Tensor, coding: _Coding, high_words: Tensor | None) -> Tensor:
    """The numbers of each vertex and its two neighbours along each axis: `(SIDE, M + 1, 3)`, M where there is none.

    codes: of the vertices, `(M,)`, sorted.
    """
    count = len(codes)
    words = [codes] if high_words is None else [codes % coding.low_size, high_words[codes // coding.low_size]]
    colour = words[0] % SIDE
    keys = []
    for number, (word, strides) in enumerate(zip(words, coding.strides, strict=True)):
        # The neighbour in direction j: every coordinate grows by 1, but x_j falls by D. For colour D the remainder
        # becomes 0 and all quotients take the carry. And the same the other way round.
        column = _column(strides[:SIDE], coding.dtype, codes.device)
        one, carry = (0, sum(strides[:SIDE])) if number else (1, sum(strides[:SIDE]) - D)
        up = torch.where(colour == D, word + carry, word + one) - column
        down = torch.where(colour == 0, word - carry, word - one) + column
        keys.append(torch.stack([up, down], dim=2))
    keys = _join(keys, coding, high_words)
    table = torch.cat([codes, torch.full((1,), torch.iinfo(codes.dtype).max, dtype=codes.dtype, device=codes.device)])
    place = torch.searchsorted(codes, keys, out_int32=True)
    neighbours = torch.full((SIDE, count + 1, 3), count, dtype=torch.int32, device=codes.device)
    neighbours[:, :count, 0] = torch.arange(count, dtype=torch.int32, device=codes.device)
    neighbours[:, :count, 1:] = torch.where(table[place] == keys, place, count)
    return neighbours

"""The filter in tensor operations: the lattice of `wrapper/bilateralfilter` for a batch of images at once, for GPUs.

Its steps are those of `permutohedral.hpp`, where they are explained, and have the same names. Every pixel gets the same
simplex with the same weights, bit by bit; only sums are taken in another order. What makes it fast here:

- The image is one more coordinate of a vertex, so that one lattice holds the whole batch.
- The vertices are numbered by sorting the codes of all pixels' vertices, which also groups the pixels by vertex.
- Splat, blur and slice multiply sparse matrices with the values, and so does `embedding_bag`: it sums weighted rows
  without storing the terms. As nothing is added atomically, every run gives the same bits.
- A vertex may have very many pixels: in a flat image a few have nearly all. They are summed in pieces, which are spread
  over the device.
- The host waits for the device once, for the sizes of the tables (in `Lattice.__init__`), if images are in 0..255 and
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
SCALE = [
    float(np.float32(1 / math.sqrt((i + 2) * (i + 1)) * float(np.float32(math.sqrt(2 / 3) * SIDE)))) for i in range(D)
]

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
    lattice = build_lattice(images, values, sigma_rgb, sigma_xy)
    vertices = lattice.splat(values)
    forwards, backwards = range(SIDE), range(D, -1, -1)
    if symmetric:
        vertices = (lattice.blur(vertices, forwards) + lattice.blur(vertices, backwards)).mul_(0.5)
    else:
        vertices = lattice.blur(vertices, backwards if transpose else forwards)
    return lattice.slice(vertices).to(values.dtype)


def build_lattice(images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float) -> Lattice:
    """Build the lattice of images and check that the values are finite; arguments and errors of `bilateral_filter`."""
    if sigma_rgb >= 1:  # otherwise the whole range may be more than codes can number
        lattice = Lattice(images, values, sigma_rgb, sigma_xy, *([bound] * 3 for bound in EXPECTED))
        if lattice.covers_images:
            return lattice
    low, high = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]).tolist()
    if not all(map(math.isfinite, low + high)):
        raise _non_finite("images", images)
    return Lattice(images, values, sigma_rgb, sigma_xy, low, high)


def _non_finite(name: str, tensor: Tensor) -> ValueError:
    values = tensor.flatten().to(torch.float32)
    index = int(values.isfinite().logical_not_().nonzero()[0])
    return ValueError(f"{name}: expected finite values, found {values[index].item()} at index {index}")


class Word(NamedTuple):
    """How a word of the codes comes from a vertex: `sum_i q_i stride_i + offset + image * image_stride (+ colour)`."""

    strides: Tensor  # of the quotients q_0 ... q_D, (SIDE, 1)
    offset: int
    image_stride: int
    step: int  # 1 in the low word, which contains the colour, and 0 in the high one
    carry: int  # what takes the place of the step when the remainder of all coordinates becomes 0


class Coding:
    """Numbers the vertices of all images, as `VertexCoding` in `vertex_table.hpp` does for one: steps are additions.

    The image is the coordinate of the highest stride. Where 62 bits do not hold the code it has two words. Then the
    high words that occur are numbered too (`high_words`), so that one number comes out (`join`).
    """

    high_words: Tensor

    def __init__(self, low: list[float], high: list[float], images: int, points: int, device: torch.device) -> None:
        """Number the vertices around points in all images whose position i lies in low[i]..high[i], which contain 0."""
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
        # 32 bits do for usual sigmas, and are sorted twice as fast as 64.
        self.dtype = torch.int32 if total < 1 << 30 else torch.int64
        self.words = [
            Word(
                # Filled in number by number: copying a list to a GPU would wait for it.
                torch.stack([torch.full((1,), stride, dtype=self.dtype, device=device) for stride in of_word[:SIDE]]),
                -sum(f * stride for f, stride in zip(first, of_word[:SIDE], strict=True)),
                of_word[SIDE],
                1 - number,
                sum(of_word[:SIDE]) - D * (1 - number),
            )
            for number, of_word in enumerate(strides[: word + 1])
        ]

    def number_high_words(self, words: list[Tensor]) -> None:
        """Take the words of all vertices, so that they can be joined."""
        if len(words) > 1:
            self.high_words = words[1].unique()

    def join(self, words: list[Tensor]) -> Tensor:
        """Make one code of the words of each vertex; -1 where the high word does not occur."""
        if len(words) == 1:
            return words[0]
        number = torch.searchsorted(self.high_words, words[1]).clamp_(max=len(self.high_words) - 1)
        return torch.where(self.high_words[number] == words[1], number * self.low_size + words[0], -1)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Undo `join`."""
        if len(self.words) == 1:
            return [codes]
        return [codes % self.low_size, self.high_words[codes // self.low_size]]


class Lattice:
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
        if points * SIDE >= 1 << 31:
            raise ValueError(
                f"too many points for one lattice: expected less than {(1 << 31) // SIDE}, found {points}; "
                "filter fewer images at a time"
            )
        coding = Coding(
            [0.0, 0.0] + [min(x, 0.0) / sigma_rgb for x in low],
            [(w - 1) / sigma_xy, (h - 1) / sigma_xy] + [max(x, 0.0) / sigma_rgb for x in high],
            n,
            points,
            images.device,
        )
        words, weights = _locate(position, coding, n)
        coding.number_high_words(words)
        codes, order = coding.join(words).flatten().sort(stable=True)
        del position, words

        # Number the vertices in the order of their codes.
        vertex = torch.zeros_like(codes, dtype=torch.int32)
        torch.cumsum(codes[1:] != codes[:-1], 0, dtype=torch.int32, out=vertex[1:])

        # The one wait for the device.
        lowest, highest = images.aminmax()
        covered = (lowest >= min(low)) & (highest <= max(high))
        least, most = (value.to(torch.float32) for value in values.aminmax())
        finite = least.isfinite() & most.isfinite()
        count, self.covers_images, is_finite = torch.stack([vertex[-1] + 1, covered.int(), finite.int()]).tolist()
        if not self.covers_images:
            return
        if not is_finite:
            raise _non_finite("values", values)

        number = torch.arange(count + 1 + len(codes) // PIECE, dtype=torch.int32, device=codes.device)
        starts = torch.searchsorted(vertex, number[: count + 1], out_int32=True)  # of vertices in the sorted codes
        # Splat: the points of each piece and the pieces of each vertex, which are no more than `number` holds. Those
        # left over are empty and go to the absent vertex.
        self.pieces = number
        pieces = (starts[1:] - starts[:-1] + (PIECE - 1)).div_(PIECE, rounding_mode="floor")
        self.vertex_starts = torch.zeros_like(starts)
        torch.cumsum(pieces, 0, dtype=torch.int32, out=self.vertex_starts[1:])
        owner = torch.searchsorted(self.vertex_starts, number, right=True) - 1
        self.piece_starts = starts[owner] + (number - self.vertex_starts[owner]) * PIECE
        self.piece_starts.clamp_(max=len(codes))
        self.piece_points = (order % points).int()
        self.piece_weights = weights.flatten()[order]
        # Blur: a vertex and its neighbours along each axis.
        self.neighbours = _neighbours(codes[starts[:-1]], coding)
        self.kernel = torch.ones(self.neighbours[0].shape, device=codes.device)
        self.kernel[:, 1:].fill_(0.5)
        # Slice: the vertices of each point.
        self.vertices = torch.empty_like(vertex).scatter_(0, order, vertex).view(SIDE, -1).t().contiguous()
        self.weights = weights.t().contiguous().mul_(ALPHA)

    def splat(self, values: Tensor) -> Tensor:
        """Let every vertex sum the weighted values of its pixels: `(N, K, H, W)` to `(M + 1, K)`."""
        n, k, pixels = *values.shape[:2], self.height * self.width
        rows = torch.empty(n, _padded(pixels), k, device=values.device)
        rows[:, :pixels] = values.flatten(2).transpose(1, 2)
        rows[:, pixels:].zero_()
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


def _locate(position: Tensor, coding: Coding, images: int) -> tuple[list[Tensor], Tensor]:
    """Find the simplex around each of T points: its vertices' words, each (SIDE, T), and its weights, (SIDE, T).

    float32, one rounding per operation, in the order of the C++: another last bit can mean another simplex.
    """
    # Elevate the points into the hyperplane.
    elevated = position.new_empty(SIDE, position.shape[1])
    elevated[0].zero_()
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

    # The vertex of colour 0, and from vertex to vertex: every coordinate grows by 1, but the one of rank D - r falls by
    # D, that is, its quotient by 1. The weights, barycentric coordinates, are differences of successive residuals.
    image = torch.arange(images, dtype=coding.dtype, device=position.device)[:, None]
    words = [torch.empty(rank.shape, dtype=coding.dtype, device=position.device) for _ in coding.words]
    for code, word in zip(words, coding.words, strict=True):
        torch.sum(quotient.to(coding.dtype).mul_(word.strides), 0, dtype=coding.dtype, out=code[0])
        code[0].view(images, -1).add_(image * word.image_stride + word.offset)
    weights = torch.empty_like(residual)
    above = torch.zeros_like(residual[0])
    for r in range(SIDE):
        here = rank == D - r
        below = (here * residual).sum(0)
        torch.sub(below, above, out=weights[r])
        above = below
        if r < D:
            for code, word in zip(words, coding.words, strict=True):
                fall = (here * word.strides).sum(0, dtype=coding.dtype)
                torch.sub(code[r] + word.step, fall, out=code[r + 1])
    weights[0] += 1.0 - above
    return words, weights


def _neighbours(codes: Tensor, coding: Coding) -> Tensor:
    """The numbers of each vertex and its two neighbours along each axis: `(SIDE, M + 1, 3)`, M where there is none.

    codes: of the vertices, `(M,)`, sorted.
    """
    words = coding.split(codes)
    colour = words[0] % SIDE
    neighbours = []
    for code, word in zip(words, coding.words, strict=True):
        # The neighbour in direction j: every coordinate grows by 1, but x_j falls by D. For colour D the remainder
        # becomes 0 and all quotients take the carry. And the same the other way round.
        up = torch.where(colour == D, code + word.carry, code + word.step) - word.strides
        down = torch.where(colour == 0, code - word.carry, code - word.step) + word.strides
        neighbours.append(torch.stack([up, down], dim=2))
    wanted = coding.join(neighbours)
    count = len(codes)
    place = torch.searchsorted(codes, wanted).clamp_(max=count - 1)
    place.masked_fill_(codes[place] != wanted, count)
    table = torch.full((SIDE, count + 1, 3), count, dtype=torch.int32, device=codes.device)
    table[:, :count, 0] = torch.arange(count, dtype=torch.int32, device=codes.device)
    table[:, :count, 1:] = place
    return table

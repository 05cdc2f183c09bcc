"""The filter in tensor operations: the lattice of `wrapper/bilateralfilter` for a batch of images at once, for GPUs.

Its steps have the names that they have in `permutohedral.hpp`, which explains them. Every pixel gets the same simplex
with the same weights, to the bit; only the order of summation differs. What makes it fast here:

- The image is one more coordinate of a vertex, so that one lattice holds the entire batch.
- The vertices are numbered by sorting the codes of all pixels' vertices, which also groups the pixels by vertex.
- Splat, blur and slice multiply sparse matrices with the values. `embedding_bag` does that by summing weighted rows
  without storing the terms. Nothing is added atomically, so every run gives the same bits.
- In a flat image a few vertices have nearly all pixels. They are summed in pieces, which are spread over the device.
- The host waits for the device once, for the sizes of the tables (in `count_and_check`), if images are in 0..255 and
  sigma_rgb is at least 1.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from filtering.vertex_codes import MAX_BITS, SCALE, SIDE, Coding, D

INVERSE = float(np.float32(1 / SIDE))
ALPHA = 1 / (1 + 2**-D)  # the published filter's estimate of what splat, blur and slice gain together
EXPECTED = (-1.0, 256.0)  # range of images, with room for rounding
PIECE = 256  # pixels of a vertex that are summed one after another


class CodesTooLong(ValueError):
    """The vertices are too many for the numbers that a code can hold."""


def bilateral_filter(
    images: Tensor,
    values: Tensor,
    sigma_rgb: float,
    sigma_xy: float,
    transpose: bool = False,
    symmetric: bool = False,
) -> Tensor:
    """Filter tensors on the device where they are, as `filtering.bilateral_filter` does; `images` are float32."""
    return Lattices(images, sigma_rgb, sigma_xy, values).filter_finite(values, transpose, symmetric)


class Lattices:
    """The lattices of images on any device, as `filtering.Lattice` has them; `images` are float32.

    There is one for the batch, or one for each image where the codes of the batch would be too long.
    """

    def __init__(
        self,
        images: Tensor,
        sigma_rgb: float,
        sigma_xy: float,
        values: Tensor | None = None,
        lattice_type: type | None = None,
    ) -> None:
        """Build them; `values` that are to be filtered at once are checked here, which saves a wait for the device."""
        lattice_type = lattice_type or Lattice
        try:
            self.lattices = [build_lattice(images, values, sigma_rgb, sigma_xy, lattice_type)]
        except CodesTooLong:
            if len(images) == 1:
                raise
            some = values.split(1) if values is not None else [None] * len(images)
            one_by_one = zip(images.split(1), some, strict=True)
            self.lattices = [build_lattice(*one, sigma_rgb, sigma_xy, lattice_type) for one in one_by_one]

    def filter(self, values: Tensor, transpose: bool = False, symmetric: bool = False) -> Tensor:
        """Filter as `filtering.Lattice.filter` does."""
        if not torch.stack(values.aminmax()).isfinite().all():  # which pass NaN on, and make nothing of that size
            raise _non_finite("values", values)
        return self.filter_finite(values, transpose, symmetric)

    def filter_finite(self, values: Tensor, transpose: bool, symmetric: bool) -> Tensor:
        """Filter values that are known to be finite."""
        if len(self.lattices) == 1:
            return self.lattices[0].filter(values, transpose, symmetric)
        one_by_one = zip(self.lattices, values.split(1), strict=True)
        return torch.cat([lattice.filter(one, transpose, symmetric) for lattice, one in one_by_one])


class Lattice:
    """The lattice of N images with M vertices, numbered from 0; number M stands for an absent vertex.

    Its points are the pixels and, as in the published filter, after those of each image as many silent points at the
    origin as make their number a multiple of four; their vertices take part in the blur.
    """

    def __init__(
        self,
        images: Tensor,
        values: Tensor | None,
        sigma_rgb: float,
        sigma_xy: float,
        low: list[float],
        high: list[float],
    ) -> None:
        """Build the lattice for images in low[c]..high[c]; it is usable if `covers_images`, that is, if they are."""
        n, _, h, w = images.shape
        self.images, self.height, self.width = n, h, w
        coding = make_coding(images, sigma_rgb, sigma_xy, low, high, images.device)
        position = _positions(images, sigma_rgb, sigma_xy)
        codes, weights = _locate(position, coding, n)
        codes, order = codes.flatten().sort(stable=True)
        del position

        # Number the vertices in the order of their codes.
        vertex = torch.zeros_like(codes, dtype=torch.int32)
        torch.cumsum(codes[1:] != codes[:-1], 0, dtype=torch.int32, out=vertex[1:])
        count, self.covers_images = count_and_check(vertex[-1] + 1, images, values, min(low), max(high))
        if not self.covers_images:
            return
        starts = self._prepare_splat(vertex, order, weights, count)
        # Blur: a vertex and its neighbours along each axis.
        self.neighbours = _neighbours(codes[starts[:-1]], coding)
        self.kernel = weights.new_ones(self.neighbours[0].shape)
        self.kernel[:, 1:].fill_(0.5)
        # Slice: the vertices of each point.
        self.vertices = torch.empty_like(vertex).scatter_(0, order, vertex).view(SIDE, -1).t().contiguous()
        self.weights = weights.t().contiguous().mul_(ALPHA)

    def _prepare_splat(self, vertex: Tensor, order: Tensor, weights: Tensor, count: int) -> Tensor:
        """List the points of each piece and the pieces of each vertex; return where vertices start in `vertex`."""
        # At least as many as there are pieces. Those left over are empty and go to the absent vertex.
        number = torch.arange(count + 1 + len(vertex) // PIECE, dtype=torch.int32, device=vertex.device)
        starts = torch.searchsorted(vertex, number[: count + 1], out_int32=True)
        self.pieces = number
        pieces = (starts[1:] - starts[:-1] + (PIECE - 1)).div_(PIECE, rounding_mode="floor")
        self.vertex_starts = torch.zeros_like(starts)
        torch.cumsum(pieces, 0, dtype=torch.int32, out=self.vertex_starts[1:])
        owner = torch.searchsorted(self.vertex_starts, number, right=True) - 1
        self.piece_starts = starts[owner] + (number - self.vertex_starts[owner]) * PIECE
        self.piece_starts.clamp_(max=len(vertex))
        self.piece_points = (order % weights.shape[1]).int()
        self.piece_weights = weights.flatten()[order]
        return starts

    def filter(self, values: Tensor, transpose: bool, symmetric: bool) -> Tensor:
        """Filter `(N, K, H, W)`, finite and of any floating-point dtype, in float32."""
        vertices = self.splat(values)
        forwards, backwards = range(SIDE), range(D, -1, -1)
        if symmetric:
            vertices = (self.blur(vertices, forwards) + self.blur(vertices, backwards)).mul_(0.5)
        else:
            vertices = self.blur(vertices, backwards if transpose else forwards)
        return self.slice(vertices).to(values.dtype)

    def splat(self, values: Tensor) -> Tensor:
        """Let every vertex sum the weighted values of its pixels: `(N, K, H, W)` to `(M + 1, K)`."""
        n, k, pixels = *values.shape[:2], self.height * self.width
        rows = self.weights.new_empty((n, padded(pixels), k))
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


def build_lattice(
    images: Tensor, values: Tensor | None, sigma_rgb: float, sigma_xy: float, lattice_type: type = Lattice
) -> Lattice:
    """Return the lattice of images; arguments and errors as of `bilateral_filter`, values are only checked."""
    if sigma_rgb >= 1:  # otherwise this range may hold more vertices than codes can number
        lattice = lattice_type(images, values, sigma_rgb, sigma_xy, *([bound] * 3 for bound in EXPECTED))
        if lattice.covers_images:
            return lattice
    low, high = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]).tolist()
    if not all(map(math.isfinite, low + high)):
        raise _non_finite("images", images)
    return lattice_type(images, values, sigma_rgb, sigma_xy, low, high)


def make_coding(
    images: Tensor, sigma_rgb: float, sigma_xy: float, low: list[float], high: list[float], device: torch.device
) -> Coding:
    """Return the coding, with strides on `device`, for images in low[c]..high[c].

    Raises ValueError for too many points, and CodesTooLong for vertices that are too many to be numbered.
    """
    n, _, h, w = images.shape
    points, most = n * padded(h * w), (1 << 31) // SIDE
    if points > most:
        advice = "filter fewer images at a time"
        raise ValueError(f"too many points for one lattice: expected at most {most}, found {points}; {advice}")
    lowest = [0.0, 0.0] + [min(x, 0.0) / sigma_rgb for x in low]
    highest = [(w - 1) / sigma_xy, (h - 1) / sigma_xy] + [max(x, 0.0) / sigma_rgb for x in high]
    coding = Coding(lowest, highest, n, device)
    if not coding.fits:
        raise CodesTooLong(
            f"lattice too fine: expected vertices that {MAX_BITS} bits can number, found {coding.bits} bits at "
            f"sigma_rgb {sigma_rgb:g}, sigma_xy {sigma_xy:g}; use larger sigmas"
        )
    return coding


def count_and_check(count: Tensor, images: Tensor, values: Tensor | None, low: float, high: float) -> tuple[int, bool]:
    """Return `count` and whether images lie in low..high; raise ValueError for values not finite."""
    lowest, highest = images.aminmax()
    covered = (lowest >= low) & (highest <= high)
    least, most = (lowest, highest) if values is None else (value.float() for value in values.aminmax())
    finite = least.isfinite() & most.isfinite()
    # The only wait for the device.
    count, covers_images, is_finite = torch.stack([count, covered.int(), finite.int()]).tolist()
    if covers_images and not is_finite:
        raise _non_finite("values", values)
    return count, bool(covers_images)


def _non_finite(name: str, tensor: Tensor) -> ValueError:
    values = tensor.flatten().to(torch.float32)
    index = int(values.isfinite().logical_not_().nonzero()[0])
    return ValueError(f"{name}: expected finite values, found {values[index].item()} at index {index}")


def _sums(indices: Tensor, table: Tensor, starts: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Sum rows of a table, row of `indices` by row, or from each of `starts` to the next, where indices are flat."""
    return embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


def padded(pixels: int) -> int:
    """Return the number of pixels rounded up to a multiple of four, as the published filter takes them."""
    return -(-pixels // 4) * 4


def _positions(images: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Return the points in units of the standard deviations, `(D, N * points)`."""
    n, _, h, w = images.shape
    position = images.new_zeros(D, n, padded(h * w))
    pixels = position[:, :, : h * w]
    index = torch.arange(h * w, device=images.device)
    pixels[0], pixels[1] = index % w, index // w
    pixels[2:] = images.flatten(2).transpose(0, 1)
    # Divided by tensors, because CUDA multiplies by the inverse of a number, which rounds differently.
    pixels[:2] /= images.new_full((), sigma_xy)
    pixels[2:] /= images.new_full((), sigma_rgb)
    return position.flatten(1)


def _locate(position: Tensor, coding: Coding, images: int) -> tuple[Tensor, Tensor]:
    """Return codes and weights, (SIDE, T) each, of the vertices of the simplex around each of T points.

    float32, one rounding per operation, in the order of the C++: another last bit can mean another simplex.
    """
    # Elevate the points into the hyperplane.
    elevated = position.new_empty((SIDE, position.shape[1]))
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

    # From vertex to vertex, starting at colour 0, every coordinate grows by 1, except that the one of rank D - r falls
    # by D, that is, its quotient by 1. The weights, barycentric coordinates, are differences of successive residuals.
    image = torch.arange(images, dtype=coding.dtype, device=position.device)[:, None]
    codes = torch.empty(rank.shape, dtype=coding.dtype, device=position.device)
    torch.sum(quotient.to(coding.dtype).mul_(coding.strides), 0, dtype=coding.dtype, out=codes[0])
    codes[0].view(images, -1).add_(image * coding.image_stride + coding.offset)
    weights = torch.empty_like(residual)
    above = torch.zeros_like(residual[0])
    for r in range(SIDE):
        here = rank == D - r
        below = (here * residual).sum(0)
        torch.sub(below, above, out=weights[r])
        above = below
        if r < D:
            fall = (here * coding.strides).sum(0, dtype=coding.dtype)
            torch.sub(codes[r] + 1, fall, out=codes[r + 1])
    weights[0] += 1.0 - above
    return codes, weights


def _neighbours(codes: Tensor, coding: Coding) -> Tensor:
    """Return for M sorted codes the numbers of each vertex and its two neighbours along each axis, M for absent ones.

    The table, `(SIDE, M + 1, 3)`, has a last row for the absent vertex itself.
    """
    colour = codes % SIDE
    # Towards the neighbour in direction j every coordinate grows by 1, except that x_j falls by D. For colour D the
    # remainder becomes 0 and all quotients take the carry. The other direction is the reverse.
    up = torch.where(colour == D, codes + coding.carry, codes + 1) - coding.strides
    down = torch.where(colour == 0, codes - coding.carry, codes - 1) + coding.strides
    wanted = torch.stack([up, down], dim=2)
    count = len(codes)
    place = torch.searchsorted(codes, wanted).clamp_(max=count - 1)
    place.masked_fill_(codes[place] != wanted, count)
    table = torch.full((SIDE, count + 1, 3), count, dtype=torch.int32, device=codes.device)
    table[:, :count, 0] = torch.arange(count, dtype=torch.int32, device=codes.device)
    table[:, :count, 1:] = place
    return table

"""The filter in Triton kernels: the lattice of `torch_lattice`, for GPUs, with fewer passes over memory.

It has never run on a GPU, which is why it is off unless the environment variable RLOSS_TRITON is 1 (see
`bilateral.choose_engine`). Its tests run in Triton's interpreter, and compile the kernels for GPUs.

Its steps have the names that they have in `permutohedral.hpp`, which explains them. Every pixel gets the same simplex
with the same weights, to the bit. What differs from `torch_lattice`:

- The vertices stand in a hash table, in which all points look for their vertices at once. Sorting is not needed.
- A point is elevated, located and entered into the table in registers; only slots and weights are written.
- Points add their values to the vertices atomically, so that the last bits differ from run to run.
- Kernels read and write `(N, K, H, W)` as they are; no tensor is transposed.

The host waits for the device once, to learn how many vertices there are and whether the input was in order.

A kernel's block of points or vertices that reaches beyond the last one repeats the last one, wherever doing that twice
changes nothing, so that few loads and stores need masks.
"""

from collections.abc import Iterable

import torch
import triton
import triton.language as tl
from torch import Tensor

from filtering import torch_lattice
from filtering.torch_lattice import ALPHA, INVERSE
from filtering.vertex_codes import MAX_COORDINATE, SCALE, SIDE

POINTS = 256  # of a program that builds the lattice: at least as many as it has threads
NUMBERS = 1024  # rows times channels of a program that filters
WIDEST = 32  # channels of a program that filters
MOST_SLOTS = 1 << 30  # so that int32 numbers them

# What kernels use of Python must be constants of Triton.
_SIDE, _INVERSE, _ALPHA, _REACH = (tl.constexpr(x) for x in (SIDE, INVERSE, ALPHA, float(MAX_COORDINATE)))
_SCALE_X, _SCALE_Y, _SCALE_R, _SCALE_G, _SCALE_B = (tl.constexpr(scale) for scale in SCALE)
_TO_INTEGER = tl.constexpr(1.5 * 2**23)  # added to a float32 below 2^22 and subtracted again, it rounds half to even
_EMPTY = tl.constexpr(-1)  # in a slot; codes are not negative
_LAST = tl.constexpr(64)  # how many slots a code is looked for in


class TableFull(RuntimeError):
    """Even the larger table had no room for a vertex where one looks for it."""


def bilateral_filter(
    images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, transpose: bool = False, symmetric: bool = False
) -> Tensor:
    """Filter tensors on the device where they are, as `filtering.bilateral_filter` does; `images` are float32."""
    return Lattices(images, sigma_rgb, sigma_xy, values).filter_finite(values, transpose, symmetric)


class Lattices(torch_lattice.Lattices):
    """The lattices of images on any device, as `filtering.Lattice` has them; `images` are float32."""

    def __init__(self, images: Tensor, sigma_rgb: float, sigma_xy: float, values: Tensor | None = None) -> None:
        with torch.cuda.device_of(images):  # Triton launches kernels on the current device
            try:
                super().__init__(images, sigma_rgb, sigma_xy, values, Lattice)
            except TableFull:
                super().__init__(images, sigma_rgb, sigma_xy, values)

    def filter_finite(self, values: Tensor, transpose: bool, symmetric: bool) -> Tensor:
        with torch.cuda.device_of(values):
            return super().filter_finite(values, transpose, symmetric)


class Lattice(torch_lattice.Lattice):
    """The lattice of N images with M vertices, numbered from 1; number 0 stands for an absent vertex.

    Its points are those of `torch_lattice.Lattice`, and so are its methods.
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
        n, _, h, w = self.shape = images.shape
        coding = torch_lattice.make_coding(images, sigma_rgb, sigma_xy, low, high, torch.device("cpu"))
        strides = coding.strides.flatten().tolist()  # kernels take them as numbers, for which the host need not wait
        self.points = n * torch_lattice.padded(h * w)
        source = images.contiguous()
        self.vertices = torch.empty(SIDE, self.points, dtype=torch.int32, device=images.device)
        self.weights = images.new_empty((SIDE, self.points))
        # Photographs have a tenth to one vertex for each point. Only noise has more than the first table can hold, and
        # never more than half of what the second can.
        for most in (self.points, SIDE * self.points):
            slots = min(triton.next_power_of_2(2 * most), MOST_SLOTS)
            table = torch.full((slots,), -1, dtype=coding.dtype, device=images.device)
            full = torch.zeros(1, dtype=torch.int32, device=images.device)
            place = coding.image_stride, coding.offset, slots - 1
            sizes, sigmas = (self.points // n, h * w, w, self.points), (float(sigma_rgb), float(sigma_xy))
            _build[(triton.cdiv(self.points, POINTS),)](
                source, table, full, self.vertices, self.weights, *sizes, *sigmas, *strides, *place,
                POINTS=POINTS, enable_fp_fusion=False,
            )  # fmt: skip
            number = (table != -1).cumsum(0, dtype=torch.int32)  # from 1, in the order of the slots
            count = torch.where(full[0] > 0, -1, number[-1])
            count, self.covers_images = torch_lattice.count_and_check(count, images, values, min(low), max(high))
            if count >= 0 or not self.covers_images:
                break
        else:
            raise TableFull
        if not self.covers_images:
            return
        self.count = count
        self.vertices = number.index_select(0, self.vertices.view(-1)).view_as(self.vertices)
        self.neighbours = torch.zeros(SIDE, count + 1, 2, dtype=torch.int32, device=images.device)
        _link[(triton.cdiv(slots, POINTS),)](
            table, number, self.neighbours, count + 1, *strides, coding.carry, slots - 1, POINTS=POINTS
        )

    def splat(self, values: Tensor) -> Tensor:
        """Let every vertex sum the weighted values of its pixels: `(N, K, H, W)` to `(M + 1, K)`."""
        values = values.to(torch.float32).contiguous()
        vertices = self.weights.new_zeros(self.count + 1, values.shape[1])
        self._over_pixels(_splat, values, vertices)
        return vertices

    def blur(self, vertices: Tensor, axes: Iterable[int]) -> Tensor:
        """Add half of both neighbours along each axis in turn: `(M + 1, K)` to the same."""
        rows, channels = vertices.shape
        block, width = _tile(channels)
        grid = (triton.cdiv(rows, block) * triton.cdiv(channels, width),)
        for axis in axes:
            blurred = torch.empty_like(vertices)
            _blur[grid](vertices, blurred, self.neighbours, axis, rows, channels, ROWS=block, CHANNELS=width)
            vertices = blurred
        return vertices

    def slice(self, vertices: Tensor) -> Tensor:
        """Let every pixel gather its vertices' values: `(M + 1, K)` to `(N, K, H, W)`."""
        n, _, h, w = self.shape
        out = vertices.new_empty((n, vertices.shape[1], h, w))
        self._over_pixels(_slice, out, vertices)
        return out

    def _over_pixels(self, kernel: triton.JITFunction, pixels: Tensor, vertices: Tensor) -> None:
        n, channels, h, w = pixels.shape
        block, width = _tile(channels)
        blocks = triton.cdiv(h * w, block)
        kernel[(n * triton.cdiv(channels, width) * blocks,)](
            pixels, vertices, self.vertices, self.weights, blocks, self.points, self.points // n, h * w, channels,
            ROWS=block, CHANNELS=width,
        )  # fmt: skip


def _tile(channels: int) -> tuple[int, int]:
    """Return how many rows and channels a program filters."""
    width = min(WIDEST, triton.next_power_of_2(channels))
    return NUMBERS // width, width


# Kernels ------------------------------------------------------------------------------------------------------------

# Numbers that vary from call to call: Triton would compile a kernel again where one is 1 or a multiple of 16.
_VARYING = ["blocks", "image_points", "image_pixels", "width", "points", "rows", "channels", "axis"]
_VARYING += [*(f"stride{i}" for i in range(SIDE)), "image_stride", "offset", "carry", "last_slot"]


@triton.jit(do_not_specialize=_VARYING)
def _build(
    images, table, full, slots, weights, image_points, image_pixels, width, points, sigma_rgb, sigma_xy,
    stride0, stride1, stride2, stride3, stride4, stride5, image_stride, offset, last_slot,
    POINTS: tl.constexpr,
):  # fmt: skip
    """Locate a block of points and enter their vertices into the table, as in `torch_lattice`.

    Every operation rounds as the C++ does; another last bit can mean another simplex. Multiplications and additions
    must not be fused. `full` becomes 1 where a vertex finds no slot.
    """
    code_type: tl.constexpr = table.dtype.element_ty
    point = tl.minimum(tl.program_id(0) * POINTS + tl.arange(0, POINTS), points - 1)
    image, pixel = (point // image_points).to(tl.int64), point % image_points

    # Silent points lie at the origin.
    is_pixel = pixel < image_pixels
    x = tl.div_rn(tl.where(is_pixel, pixel % width, 0).to(tl.float32), sigma_xy)
    y = tl.div_rn(tl.where(is_pixel, pixel // width, 0).to(tl.float32), sigma_xy)
    red = images + image * 3 * image_pixels + pixel
    green, blue = red + image_pixels, red + 2 * image_pixels
    r = tl.div_rn(tl.load(red, is_pixel, 0.0), sigma_rgb)
    g = tl.div_rn(tl.load(green, is_pixel, 0.0), sigma_rgb)
    b = tl.div_rn(tl.load(blue, is_pixel, 0.0), sigma_rgb)

    # Elevate the points into the hyperplane.
    step = b * _SCALE_B
    total, e5 = step, 0.0 - step * 5.0
    step = g * _SCALE_G
    total, e4 = total + step, total - step * 4.0
    step = r * _SCALE_R
    total, e3 = total + step, total - step * 3.0
    step = y * _SCALE_Y
    total, e2 = total + step, total - step * 2.0
    step = x * _SCALE_X
    e0, e1 = total + step, total - step

    # The closest vertex of colour 0.
    q0, q1, q2, q3, q4, q5 = _quotient(e0), _quotient(e1), _quotient(e2), _quotient(e3), _quotient(e4), _quotient(e5)
    d0, d1, d2 = e0 - q0 * _SIDE, e1 - q1 * _SIDE, e2 - q2 * _SIDE
    d3, d4, d5 = e3 - q3 * _SIDE, e4 - q4 * _SIDE, e5 - q5 * _SIDE

    # The rank of each coordinate in the descending order of the residuals; of equal ones the first comes first.
    excess = (q0 + q1 + q2 + q3 + q4 + q5).to(tl.int32)
    k0 = excess + (d1 > d0) + (d2 > d0) + (d3 > d0) + (d4 > d0) + (d5 > d0)
    k1 = excess + (d0 >= d1) + (d2 > d1) + (d3 > d1) + (d4 > d1) + (d5 > d1)
    k2 = excess + (d0 >= d2) + (d1 >= d2) + (d3 > d2) + (d4 > d2) + (d5 > d2)
    k3 = excess + (d0 >= d3) + (d1 >= d3) + (d2 >= d3) + (d4 > d3) + (d5 > d3)
    k4 = excess + (d0 >= d4) + (d1 >= d4) + (d2 >= d4) + (d3 >= d4) + (d5 > d4)
    k5 = excess + (d0 >= d5) + (d1 >= d5) + (d2 >= d5) + (d3 >= d5) + (d4 >= d5)

    # Where rounding has missed the hyperplane, the coordinates that were rounded furthest move by SIDE.
    k0, q0, d0 = _onto_the_plane(k0, q0, e0)
    k1, q1, d1 = _onto_the_plane(k1, q1, e1)
    k2, q2, d2 = _onto_the_plane(k2, q2, e2)
    k3, q3, d3 = _onto_the_plane(k3, q3, e3)
    k4, q4, d4 = _onto_the_plane(k4, q4, e4)
    k5, q5, d5 = _onto_the_plane(k5, q5, e5)

    # From vertex to vertex, starting at colour 0 and entering each into the table.
    code = q0.to(code_type) * stride0 + q1.to(code_type) * stride1 + q2.to(code_type) * stride2
    code += q3.to(code_type) * stride3 + q4.to(code_type) * stride4 + q5.to(code_type) * stride5
    code = (code + image.to(code_type) * image_stride + offset).to(code_type)
    place = point.to(tl.int64)
    lowest = _at_rank(5, k0, k1, k2, k3, k4, k5, d0, d1, d2, d3, d4, d5)
    above = lowest
    for colour in tl.static_range(_SIDE):
        slot, missing = _enter(table, code, last_slot)
        tl.store(full, 1, mask=missing > 0)
        tl.store(slots + colour * points + place, slot)
        below = _at_rank(5 - colour, k0, k1, k2, k3, k4, k5, d0, d1, d2, d3, d4, d5)
        if colour > 0:
            tl.store(weights + colour * points + place, below - above)
        above = below
        fall = _at_rank(5 - colour, k0, k1, k2, k3, k4, k5, stride0, stride1, stride2, stride3, stride4, stride5)
        code = (code + 1 - fall).to(code_type)
    tl.store(weights + place, lowest + (1.0 - above))


@triton.jit
def _quotient(x):
    # Held within what lattices may have, as a conversion of other values to integers is not defined. They are refused,
    # but later.
    return tl.minimum(tl.maximum(x * _INVERSE, -_REACH), _REACH) + _TO_INTEGER - _TO_INTEGER


@triton.jit
def _onto_the_plane(rank, quotient, elevated):
    turn = (rank < 0).to(tl.int32) - (rank > 5).to(tl.int32)
    quotient += turn.to(tl.float32)
    return rank + turn * _SIDE, quotient, (elevated - quotient * _SIDE) * _INVERSE


@triton.jit
def _at_rank(rank, k0, k1, k2, k3, k4, k5, x0, x1, x2, x3, x4, x5):
    rest = tl.where(k2 == rank, x2, tl.where(k3 == rank, x3, tl.where(k4 == rank, x4, x5)))
    return tl.where(k0 == rank, x0, tl.where(k1 == rank, x1, rest))


@triton.jit
def _first_slot(code, last_slot):
    """Return where the search for a code begins: its bits well mixed (the end of MurmurHash3)."""
    if code.dtype == tl.int64:
        code = code ^ (code >> 32)
    mixed = code.to(tl.uint32)
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35
    return (mixed ^ (mixed >> 16)).to(tl.int32, bitcast=True) & last_slot


@triton.jit
def _enter(table, code, last_slot):
    """Return the slots of codes, which are put into the table if they are not there, and whether one found no slot.

    A slot is taken once and for all, by an atomic comparison, so that equal codes, which look into the same slots one
    after another, find the same one. A point whose search is over sees its own code again until the others are done.
    """
    slot = _first_slot(code, last_slot)
    empty = tl.full(code.shape, _EMPTY, code.dtype)
    steps = 0
    missing = 1
    while (missing > 0) & (steps < _LAST):
        found = tl.atomic_cas(table + slot, empty, code, sem="relaxed")
        steps += 1
        lost = (found != _EMPTY) & (found != code)
        slot = tl.where(lost, (slot + steps) & last_slot, slot)
        missing = tl.max(lost.to(tl.int32), axis=0)
    return slot, missing


@triton.jit
def _find(table, number, code, wanted, last_slot):
    """Return the numbers of wanted codes, 0 of those that are not in the table and of codes that are not wanted."""
    slot = _first_slot(code, last_slot)
    found = code
    steps = 0
    missing = 1
    while (missing > 0) & (steps < _LAST):
        found = tl.load(table + slot)
        steps += 1
        lost = wanted & (found != _EMPTY) & (found != code)
        slot = tl.where(lost, (slot + steps) & last_slot, slot)
        missing = tl.max(lost.to(tl.int32), axis=0)
    return tl.where(wanted & (found == code), tl.load(number + slot), 0)


@triton.jit(do_not_specialize=_VARYING)
def _link(
    table, number, neighbours, rows,
    stride0, stride1, stride2, stride3, stride4, stride5, carry, last_slot,
    POINTS: tl.constexpr,
):  # fmt: skip
    """Note for the vertices in a block of slots their neighbours along each axis, `(SIDE, M + 1, 2)`."""
    slot = tl.minimum(tl.program_id(0) * POINTS + tl.arange(0, POINTS), last_slot)
    code = tl.load(table + slot)
    present = code != _EMPTY
    vertex = tl.load(number + slot)
    # Towards the neighbour in direction j every coordinate grows by 1, except that x_j falls by D. For colour D the
    # remainder becomes 0 and all quotients take the carry.
    up = (tl.where(code % _SIDE == _SIDE - 1, code + carry, code + 1)).to(code.dtype)
    for axis in tl.static_range(_SIDE):
        if axis == 0:
            fall = stride0
        elif axis == 1:
            fall = stride1
        elif axis == 2:
            fall = stride2
        elif axis == 3:
            fall = stride3
        elif axis == 4:
            fall = stride4
        else:
            fall = stride5
        other = _find(table, number, (up - fall).to(code.dtype), present, last_slot)
        # Each is the other's neighbour, in the opposite direction.
        start = neighbours + axis * rows.to(tl.int64) * 2
        exists = other > 0
        tl.store(start + vertex.to(tl.int64) * 2, other, mask=exists)
        tl.store(start + other.to(tl.int64) * 2 + 1, vertex, mask=exists)


@triton.jit(do_not_specialize=_VARYING)
def _splat(
    pixels, vertices, numbers, weights, blocks, points, image_points, image_pixels, channels,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add the weighted values of a block of pixels to those of their vertices."""
    place, channel, value, is_value = _pixels(pixels, blocks, image_points, image_pixels, channels, ROWS, CHANNELS)
    values = tl.load(value, is_value, 0.0)
    is_first = is_value & (tl.arange(0, ROWS) == 0)[:, None]
    for colour in tl.static_range(_SIDE):
        vertex = tl.load(numbers + colour * points.to(tl.int64) + place)
        terms = tl.load(weights + colour * points.to(tl.int64) + place)[:, None] * values
        # In flat parts of an image all pixels of a block have the same vertex. They are added up first, so that fewer
        # wait for it, and fewer roundings follow each other.
        differ = tl.min(vertex, axis=0) != tl.max(vertex, axis=0)
        terms = tl.where(differ, terms, tl.sum(terms, axis=0)[None, :])
        adds = tl.where(differ, is_value, is_first)
        tl.atomic_add(vertices + vertex.to(tl.int64)[:, None] * channels + channel[None, :], terms, adds, sem="relaxed")


@triton.jit(do_not_specialize=_VARYING)
def _slice(
    pixels, vertices, numbers, weights, blocks, points, image_points, image_pixels, channels,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum for a block of pixels the weighted values of their vertices."""
    place, channel, value, is_value = _pixels(pixels, blocks, image_points, image_pixels, channels, ROWS, CHANNELS)
    sums = tl.zeros([ROWS, CHANNELS], tl.float32)
    for colour in tl.static_range(_SIDE):
        vertex = tl.load(numbers + colour * points.to(tl.int64) + place)
        weight = tl.load(weights + colour * points.to(tl.int64) + place) * _ALPHA
        row = vertices + vertex.to(tl.int64)[:, None] * channels + channel[None, :]
        sums += weight[:, None] * tl.load(row, is_value, 0.0)
    tl.store(value, sums, is_value)


@triton.jit
def _pixels(pixels, blocks, image_points, image_pixels, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return what a program of `_splat` or `_slice` works on: pixels of one image, and channels.

    These are: the pixels' numbers in all points, the channels, pointers to the values, and which of these there are.
    """
    tiles = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    image = (program // (blocks * tiles)).to(tl.int64)
    pixel = program % blocks * ROWS + tl.arange(0, ROWS)
    channel = program // blocks % tiles * CHANNELS + tl.arange(0, CHANNELS)
    is_value = (pixel < image_pixels)[:, None] & (channel < channels)[None, :]
    value = pixels + (image * channels + channel)[None, :] * image_pixels + pixel[:, None]
    place = image * image_points + tl.minimum(pixel, image_pixels - 1)
    return place, channel, value, is_value


@triton.jit(do_not_specialize=_VARYING)
def _blur(
    vertices, blurred, neighbours, axis, rows, channels,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add half of both neighbours along an axis to a block of vertices; those of the absent vertex are absent."""
    blocks = tl.cdiv(rows, ROWS)
    row = tl.minimum(tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS), rows - 1).to(tl.int64)
    channel = tl.program_id(0) // blocks * CHANNELS + tl.arange(0, CHANNELS)
    exists = (channel < channels)[None, :]
    pair = neighbours + (axis * rows.to(tl.int64) + row) * 2
    one, other = tl.load(pair).to(tl.int64), tl.load(pair + 1).to(tl.int64)
    here = row[:, None] * channels + channel[None, :]
    sides = tl.load(vertices + one[:, None] * channels + channel[None, :], exists, 0.0)
    sides += tl.load(vertices + other[:, None] * channels + channel[None, :], exists, 0.0)
    tl.store(blurred + here, tl.load(vertices + here, exists, 0.0) + 0.5 * sides, exists)

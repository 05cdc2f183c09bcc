"""The C++ module: its numbers, its errors, its manners towards threads and processes."""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bilateralfilter import (
    Lattice,
    SpanningForest,
    bilateralfilter,
    bilateralfilter_batch,
    bilateralfilter_profile,
    instruction_sets,
    window_filter,
)

REFERENCE = Path(__file__).parents[1] / "reference"


def apply(images, values, sigma_rgb=15.0, sigma_xy=20.0, transpose=False, instruction_set=None):
    out = np.full_like(values, np.nan)
    arguments = images, values, out, *values.shape, sigma_rgb, sigma_xy, transpose
    if instruction_set is None:
        bilateralfilter_batch(*arguments)
    else:
        bilateralfilter_profile(*arguments, instruction_set)
    return out


def smooth_images(rng, n, h, w):
    """Images with a few broad waves, like photographs in that neighbours are alike."""
    y, x = np.mgrid[0:h, 0:w] / 16.0
    waves = [
        [np.sin(x * rng.uniform(0.5, 2) + rng.uniform(0, 6)) + np.cos(y * rng.uniform(0.5, 2)) for _ in range(3)]
        for _ in range(n)
    ]
    return np.round(127.5 + 60 * np.array(waves)).astype(np.float32)


def random_problem(seed, n, k, h, w):
    rng = np.random.default_rng(seed)
    return smooth_images(rng, n, h, w), rng.random((n, k, h, w), dtype=np.float32)


def gaussian_sums(image, values, sigma_rgb, sigma_xy):
    """The exact kernel, in O(pixels^2)."""
    _, h, w = image.shape
    y, x = np.mgrid[0:h, 0:w].reshape(2, -1)
    position = np.stack([x / sigma_xy, y / sigma_xy, *image.reshape(3, -1).astype(np.float64) / sigma_rgb])
    squared = ((position[:, :, None] - position[:, None, :]) ** 2).sum(0)
    return (values.reshape(len(values), -1).astype(np.float64) @ np.exp(-squared / 2)).reshape(values.shape)


def relative(found, expected):
    return np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)


# Numbers


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("filter_*.npz")), ids=lambda path: path.stem)
def test_agrees_with_the_original(path):
    with np.load(path) as data:
        images = data["images"].astype(np.float32)
        values = data["segmentations_u16"].astype(np.float32) / np.float32(65535)
        out = apply(images, values, float(data["sigma_rgb"]), float(data["sigma_xy"]))
        assert relative(out, data["filtered"]) < 1e-6
        if sys.platform == "linux" and os.uname().machine == "x86_64":
            np.testing.assert_array_equal(out, data["filtered"])


def test_all_reference_files_are_there():
    assert len(list(REFERENCE.glob("filter_*.npz"))) == 7


# Measured 0.014-0.020. Normalised, as the lattice's kernel has the Gaussian's shape but half its size.
@pytest.mark.parametrize(("h", "w", "sigma_rgb", "sigma_xy"), [(24, 24, 15, 20), (31, 29, 15, 10), (48, 48, 30, 10)])
def test_approximates_the_gaussian(h, w, sigma_rgb, sigma_xy):
    images, values = random_problem(1, 1, 3, h, w)
    y, x = np.mgrid[0:h, 0:w]
    values[0, 0] = x > w / 2
    values[0, 1] = 1 / (1 + np.exp((y - h / 2) / 3))
    values[0, 2] = 1
    out = apply(images, values, sigma_rgb, sigma_xy)[0]
    exact = gaussian_sums(images[0], values[0], sigma_rgb, sigma_xy)
    assert relative(out[:2] / out[2], exact[:2] / exact[2]) < 0.03


def test_far_pixels_do_not_mix():
    images = np.zeros((1, 3, 8, 8), np.float32)
    images[..., 4:] = 255
    values = np.zeros((1, 1, 8, 8), np.float32)
    values[..., :4] = 1
    out = apply(images, values)
    assert (out[..., :4] > 1).all()
    assert (out[..., 4:] == 0).all()


def test_is_linear():
    images, first = random_problem(2, 2, 3, 23, 17)
    _, second = random_problem(3, 2, 3, 23, 17)
    combined = apply(images, 2 * first - 3 * second)
    assert relative(combined, 2 * apply(images, first) - 3 * apply(images, second)) < 1e-5


@pytest.mark.parametrize(("h", "w"), [(20, 20), (13, 11), (1, 1), (1, 7), (31, 30)])
@pytest.mark.parametrize("sigma_xy", [3.0, 40.0])
def test_transpose_is_the_adjoint(h, w, sigma_xy):
    images, x = random_problem(4, 2, 2, h, w)
    rng = np.random.default_rng(5)
    images += rng.integers(0, 30, images.shape)  # noise makes neighbours missing, and A asymmetric
    y = rng.standard_normal(x.shape).astype(np.float32)
    forward = (apply(images, x, sigma_xy=sigma_xy).astype(np.float64) * y).sum()
    backward = (apply(images, y, sigma_xy=sigma_xy, transpose=True).astype(np.float64) * x).sum()
    size = np.abs(apply(images, x, sigma_xy=sigma_xy).astype(np.float64) * y).sum()
    assert abs(forward - backward) < 2e-7 * size


def test_transpose_differs():
    images, x = random_problem(4, 1, 2, 30, 30)
    images += np.random.default_rng(5).integers(0, 30, images.shape)
    assert relative(apply(images, x, transpose=True), apply(images, x)) > 1e-5


def test_batch_is_the_loop():
    images, values = random_problem(6, 5, 3, 19, 14)
    together = apply(images, values)
    for n in range(5):
        np.testing.assert_array_equal(together[n : n + 1], apply(images[n : n + 1], values[n : n + 1]))
        for k in range(3):
            out = np.empty((19, 14), np.float32)
            bilateralfilter(images[n], values[n, k], out, 19, 14, 15.0, 20.0)
            np.testing.assert_array_equal(together[n, k], out)


def test_flat_arrays_as_in_the_original():
    images, values = random_problem(7, 2, 3, 9, 8)
    out = np.zeros(values.size, np.float32)
    bilateralfilter_batch(images.flatten(), values.flatten(), out, 2, 3, 9, 8, 15, 20)
    np.testing.assert_array_equal(out.reshape(values.shape), apply(images, values))


@pytest.mark.parametrize("k", [*range(1, 41), 64, 65, 130])
def test_channels_do_not_depend_on_each_other(k):
    images, values = random_problem(8, 1, k, 13, 11)
    out = apply(images, values)
    np.testing.assert_array_equal(out[:, -1:], apply(images, values[:, -1:].copy()))
    np.testing.assert_array_equal(out[:, :1], apply(images, values[:, :1].copy()))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 2), (1, 37), (37, 1), (7, 11), (13, 17), (5, 5), (4, 4)])
def test_small_sizes_with_a_very_wide_kernel(h, w):
    # One colour and a huge sigma_xy: every pixel sees every pixel about equally.
    images = np.full((1, 3, h, w), 100, np.float32)
    values = np.random.default_rng(9).random((1, 2, h, w), dtype=np.float32)
    values[:, 1] = 1
    out = apply(images, values, 15.0, 1e6)
    np.testing.assert_allclose(out[0, 0] / out[0, 1], values[0, 0].mean(), rtol=1e-3)


def test_flat_image_and_constant_values():
    out = apply(np.full((1, 3, 50, 50), 7, np.float32), np.ones((1, 1, 50, 50), np.float32), sigma_xy=5.0)
    inner = out[0, 0, 20:30, 20:30]
    assert np.isfinite(out).all()
    # The mass of a Gaussian with sigma 5 is 2 pi 25 = 157; the lattice has about half of it and more.
    assert 60 < inner.min() <= inner.max() < 200


@pytest.mark.parametrize("sigma", [0.1, 1.0, 1000.0])
def test_noise_and_extreme_sigmas(sigma):
    rng = np.random.default_rng(10)
    images = rng.integers(0, 256, (1, 3, 61, 67)).astype(np.float32)
    values = rng.random((1, 2, 61, 67), dtype=np.float32)
    out = apply(images, values, sigma, sigma)
    assert np.isfinite(out).all()
    if sigma == 0.1:
        # No two pixels share a neighbourhood: each sees itself alone, by the sum of its squared weights.
        ratio = out / values
        assert ratio.min() > 0.1 and ratio.max() < 1.001
        np.testing.assert_allclose(ratio[:, 0], ratio[:, 1], rtol=1e-5)


@pytest.mark.parametrize("content", ["flat", "smooth", "noise"])
@pytest.mark.parametrize("seed", range(12))
def test_random_problems(content, seed):
    rng = np.random.default_rng([seed, len(content)])
    h, w = [(1, 1), (1, 97), (89, 1), (2, 2), (3, 61), (31, 37)][seed % 6]
    n, k = int(rng.integers(1, 4)), int([1, 130, *rng.integers(2, 130, 10)][seed])
    sigma_rgb, sigma_xy = 10 ** rng.uniform(-1, 3, 2)
    images = smooth_images(rng, n, h, w)
    if content == "flat":
        images[:] = rng.uniform(0, 255)
    elif content == "noise":
        images = rng.integers(0, 256, images.shape).astype(np.float32)
    x, y = rng.standard_normal((2, n, k, h, w)).astype(np.float32)
    out = apply(images, x, sigma_rgb, sigma_xy)
    assert np.isfinite(out).all()
    for name in instruction_sets():
        np.testing.assert_array_equal(apply(images, x, sigma_rgb, sigma_xy, instruction_set=name), out, name)
    # The order of the images does not matter, nor what other channels there are.
    reversed_batch = apply(images[::-1].copy(), x[::-1].copy(), sigma_rgb, sigma_xy)[::-1]
    np.testing.assert_array_equal(reversed_batch, out)
    some = x[:, k // 3 : 2 * k // 3 + 1].copy()
    np.testing.assert_array_equal(apply(images, some, sigma_rgb, sigma_xy), out[:, k // 3 : 2 * k // 3 + 1])
    # <A x, y> = <x, A^T y>
    products = out.astype(np.float64) * y, apply(images, y, sigma_rgb, sigma_xy, transpose=True).astype(np.float64) * x
    assert abs(products[0].sum() - products[1].sum()) < 1e-6 * np.abs(products).sum()


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("filter_*.npz")), ids=lambda path: path.stem)
@pytest.mark.parametrize("transpose", [False, True])
def test_every_instruction_set_gives_the_same_bits(path, transpose):
    with np.load(path) as data:
        images = data["images"].astype(np.float32)
        values = data["segmentations_u16"].astype(np.float32) / np.float32(65535)
        sigmas = float(data["sigma_rgb"]), float(data["sigma_xy"])
    expected = apply(images, values, *sigmas, transpose)
    for name in instruction_sets():
        np.testing.assert_array_equal(apply(images, values, *sigmas, transpose, name), expected, name)


def test_instruction_sets_and_profile():
    assert instruction_sets()[-1] == "baseline"
    images, values = random_problem(21, 2, 3, 40, 41)
    out = np.empty_like(values)
    seconds = bilateralfilter_profile(images, values, out, 2, 3, 40, 41, 15.0, 20.0)
    np.testing.assert_array_equal(out, apply(images, values))
    assert list(seconds) == ["build", "splat", "blur", "slice"]
    assert all(0 < value < 60 for value in seconds.values())
    with pytest.raises(ValueError, match="instruction_set: expected one of .*baseline, found mmx"):
        apply(images, values, instruction_set="mmx")
    with pytest.raises(TypeError, match="instruction_set: expected a string, found int"):
        apply(images, values, instruction_set=2)


def test_inputs_are_not_changed():
    images, values = random_problem(11, 1, 2, 9, 9)
    copies = images.copy(), values.copy()
    apply(images, values)
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(values, copies[1])


def test_buffers_other_than_numpy():
    images, values = random_problem(12, 1, 1, 4, 5)
    out = (ctypes.c_float * 20)()
    bilateralfilter_batch(memoryview(images), values, out, 1, 1, 4, 5, 15.0, 20.0)
    np.testing.assert_array_equal(np.array(out).reshape(1, 1, 4, 5), apply(images, values))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.float16, bool])
def test_inputs_of_other_types_are_converted(dtype):
    images, values = random_problem(22, 2, 3, 9, 7)
    images, values = images % 100, 100 * values - (20 if np.dtype(dtype).kind in "if" else 0)
    if dtype is np.float16:  # among them subnormal numbers and zeros
        values *= np.float32(2.0) ** -np.arange(378, dtype=np.float32).reshape(values.shape).__mod__(30)
    images, values = images.astype(dtype), values.astype(dtype)
    expected = apply(images.astype(np.float32), values.astype(np.float32))
    out = np.empty(values.shape, np.float32)
    bilateralfilter_batch(images, values, out, *values.shape, 15.0, 20.0)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_numbers_of_float16_stay_infinite(value):
    images, values = random_problem(23, 1, 1, 4, 4)
    half = spoiled(values, 3, value).astype(np.float16)
    with pytest.raises(ValueError, match=f"ins: expected finite values, found -?{abs(value)} at index 3"):
        bilateralfilter_batch(images, half, values, *values.shape, 15.0, 20.0)


def unaligned(array):
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_lists_and_strided_arrays():
    images, values = random_problem(24, 2, 3, 5, 4)
    expected, out = apply(images, values), np.empty_like(values)
    nested, flat = images.tolist(), tuple(values.flatten().tolist())
    wide = np.repeat(values, 2, axis=3)
    turned = images.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
    for arrays in ((nested, flat), (images, wide[..., ::2]), (turned, values), (images, unaligned(values))):
        out[:] = np.nan
        bilateralfilter_batch(*arrays, out, *values.shape, 15.0, 20.0)
        np.testing.assert_array_equal(out, expected)


def test_output_in_place_of_the_input():
    images, values = random_problem(25, 3, 30, 21, 17)
    for transpose in (False, True):
        out = values.copy()
        bilateralfilter_batch(images, out, out, *values.shape, 15.0, 20.0, transpose)
        np.testing.assert_array_equal(out, apply(images, values, transpose=transpose))


def test_several_channels_of_a_single_image():
    images, values = random_problem(26, 1, 5, 9, 8)
    expected, out = apply(images, values), np.empty_like(values)
    bilateralfilter(images, values, out, 9, 8, 15.0, 20.0)
    np.testing.assert_array_equal(out, expected)


def test_infinite_sigmas_leave_their_term_out():
    images, values = random_problem(27, 2, 2, 14, 15)
    flat = np.zeros_like(images)
    np.testing.assert_array_equal(apply(images, values, sigma_rgb=np.inf), apply(flat, values))
    # Then pixels of one colour are filtered to the same, wherever they lie.
    images = np.repeat(images[:, :, :1, :1], 14, 2).repeat(15, 3)
    images[..., 8:] += 200
    out = apply(images, values, sigma_xy=np.inf)
    for half in (out[..., :8], out[..., 8:]):
        np.testing.assert_allclose(half, half[:, :, :1, :1] + 0 * half, rtol=1e-5)


def test_keywords_of_the_original():
    images, values = random_problem(28, 1, 2, 6, 7)
    out = np.empty_like(values)
    bilateralfilter_batch(images, values, out, N=1, K=2, H=6, W=7, sigmargb=15.0, sigmaxy=9.0)
    np.testing.assert_array_equal(out, apply(images, values, 15.0, 9.0))
    bilateralfilter(images, values, out, 6, 7, sigmaxy=20.0, sigmargb=4.0)
    np.testing.assert_array_equal(out, apply(images, values, 4.0))
    with pytest.raises(TypeError, match="sigma_rgb"):
        bilateralfilter_batch(images, values, out, 1, 2, 6, 7, 15.0, sigmargb=15.0, sigmaxy=9.0)


def test_one_lattice_for_many_filterings():
    images, values = random_problem(29, 3, 26, 31, 17)
    images += np.random.default_rng(5).integers(0, 30, images.shape)  # so that A is not symmetric
    lattice = Lattice(images, 3, 31, 17, 15.0, 20.0)
    expected = [apply(images, values, transpose=transpose) for transpose in (False, True)]
    images[:] = 0  # not needed any more
    for k in (26, 3, 26):
        some = values[:, :k].copy()
        for transpose in (False, True):
            out = np.empty_like(some)
            lattice.filter(some, out, k, transpose)
            np.testing.assert_array_equal(out, expected[transpose][:, :k])
        lattice.filter(some, some, k, symmetric=True)
        np.testing.assert_array_equal(some, (expected[0] + expected[1])[:, :k] * np.float32(0.5))


def test_errors_of_a_lattice():
    images, values = random_problem(30, 2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"images: expected 180 values \(N\*3\*H\*W\), found 120"):
        Lattice(images, 3, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match="images: expected finite values, found -?nan at index 7"):
        Lattice(spoiled(images, 7, np.nan), 2, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match="sigma_xy: expected a positive number, found 0"):
        Lattice(images, 2, 5, 4, 15.0, 0.0)
    lattice = Lattice(images, 2, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match=r"ins: expected 160 values \(N\*K\*H\*W\), found 120"):
        lattice.filter(values, values, 4)
    with pytest.raises(ValueError, match="ins: expected finite values, found inf at index 99"):
        lattice.filter(spoiled(values, 99, np.inf), values, 3)


def float32(*values):
    return np.array(values, dtype=np.float32)


def test_a_spanning_tree_by_hand():
    """Two rows of two pixels; the longest edge, on the right, is left out: the path is 1, 0, 2, 3."""
    forest = SpanningForest(float32(1, 2, 3, 4), 1, 2, 2)
    weights, masses, means, back = float32(0.5, 0.25, 0.1, 0.9), *np.full((3, 4), np.nan, np.float32)
    forest.filter(float32(8, 0, 0, 0), weights, means, masses, 1)
    assert np.allclose(masses, [1 + 0.5 + 0.1 + 0.025, 0.5 + 1 + 0.05 + 0.0125, 0.1 + 0.05 + 1 + 0.25, 1.2875])
    assert np.allclose(means * masses, [8, 4, 0.8, 0.2])
    forest.filter_transposed(masses * float32(8, 0, 0, 0), weights, masses, back, 1)
    assert np.allclose(back, [8, 4, 0.8, 0.2])
    # Of w_03 = 0.1 * 0.25, twice, as it joins 0 to 3 and 3 to 0.
    edges = np.full(4, np.nan, np.float32)
    forest.edge_gradient(float32(1, 0, 0, 1), weights, float32(1, 0, 0, 1), edges, 1)
    assert np.allclose(edges, [0, 0.2, 0.5, 0])


def test_of_equal_edges_the_first_is_the_shorter():
    forest = SpanningForest(np.zeros(4, np.float32), 1, 2, 2)
    edges = np.full(4, np.nan, np.float32)
    forest.edge_gradient(np.ones(4, np.float32), np.ones(4, np.float32), np.ones(4, np.float32), edges, 1)
    assert edges.tolist() == [6, 6, 8, 0]


def test_a_window_by_hand():
    """Three pixels in a row, of which the last is outside the region and the window reaches one far."""
    images, regions = float32(*[0, 2, 2] * 3), float32(1, 1, 0)
    outs, masses = np.full((2, 3), np.nan, np.float32)
    window_filter(images, regions, float32(1, 10, 100), outs, masses, 1, 1, 1, 3, 1, 3.0, 1.0, 0.5, 2.0)
    near = 0.5 * np.exp(-1 / 8)
    first, second = 2 * (np.exp(-1 / 2 - 12 / 18) + near), np.exp(-1 / 2) + near
    assert np.allclose(masses, [first, first + second, second])
    assert np.allclose(outs, [10 * first, first + 100 * second, 10 * second])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: SpanningForest(x, 1, 3, 3), ValueError, r"lengths: expected 12 values \(N\*\(H\*\(W-1\)"),
        (lambda x: SpanningForest(x.astype(int), 1, 2, 2), TypeError, "lengths: expected a float32 array"),
        (lambda x: SpanningForest(x, 1, 2, 2).filter(x, x, x[:2], x + 0, 1), ValueError, "outs: expected 4 values"),
        (lambda x: SpanningForest(x, 1, 2, 2).filter(x + 0, x, x, x, 1), ValueError, "overlaps weights"),
        (lambda x: window_filter(x, x, x, x, x, 1, 1, 2, 2, 1, 1, 1, 0, 1), ValueError, "images: expected 12 values"),
        (lambda x: window_filter(x, x, x, x, x, 1, 1, 2, 2, 0, 1, 1, 0, 1), ValueError, "radius: expected a positive"),
    ],
)
def test_errors_of_trees_and_windows(call, error, message):
    with pytest.raises(error, match=message):
        call(np.zeros(4, np.float32))


def test_numpy_numbers_and_keywords():
    images, values = random_problem(13, 1, 1, 4, 5)
    out = np.empty_like(values)
    sizes = np.array([1, 1, 4, 5])
    bilateralfilter_batch(images, values, out, *sizes, np.float32(15), sigma_xy=np.float64(20), transpose=True)
    np.testing.assert_array_equal(out, apply(images, values, transpose=True))


# Errors


def arguments(**changes):
    images, values = random_problem(14, 2, 3, 5, 4)
    sizes = {"N": 2, "K": 3, "H": 5, "W": 4}
    arrays = {"images": images, "ins": values, "outs": np.zeros_like(values)}
    return arrays | sizes | {"sigma_rgb": 15.0, "sigma_xy": 9.0} | changes


def spoiled(array, index, value):
    array = array.copy()
    array.flat[index] = value
    return array


def read_only(array):
    array.flags.writeable = False
    return array


IMAGES, VALUES = random_problem(14, 2, 3, 5, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ins": VALUES.astype(np.float64)}, TypeError, r"ins: expected a float32 array, .* 8 bytes, format 'd'"),
        ({"outs": np.zeros(120, np.float16)}, TypeError, r"outs: expected a float32 array, .* 2 bytes, format 'e'"),
        ({"images": IMAGES.astype(np.int32)}, TypeError, r"images: expected a float32 array, .* format 'i'"),
        ({"ins": VALUES.astype(">f4")}, TypeError, r"ins: expected a float32 array, .* format '>f'"),
        ({"ins": [1.0, 2.0]}, ValueError, r"ins: expected 120 values \(N\*K\*H\*W\), found 2"),
        ({"ins": [1.0, "2"]}, TypeError, r"ins: expected numbers in a list, found str"),
        ({"outs": [0.0] * 120}, TypeError, r"outs: expected a float32 array .* found list"),
        ({"outs": None}, TypeError, r"outs: expected a float32 array .* found NoneType"),
        ({"ins": VALUES[:1]}, ValueError, r"ins: expected 120 values \(N\*K\*H\*W\), found 60"),
        ({"outs": np.zeros(121, np.float32)}, ValueError, r"outs: expected 120 values \(N\*K\*H\*W\), found 121"),
        ({"images": IMAGES[:, :1].copy()}, ValueError, r"images: expected 120 values \(N\*3\*H\*W\), found 40"),
        (
            {"H": 4, "W": 5},
            ValueError,
            r"images: expected the shape \[2, 3, 4, 5\] \(N\*3\*H\*W\), found \[2, 3, 5, 4\]",
        ),
        ({"images": np.moveaxis(IMAGES, 1, 3)}, ValueError, r"images: expected the shape .*, found \[2, 5, 4, 3\]"),
        ({"outs": np.zeros((3, 2, 5, 4), np.float32)}, ValueError, r"outs: expected the shape \[2, 3, 5, 4\]"),
        ({"K": 2}, ValueError, r"ins: expected 80 values \(N\*K\*H\*W\), found 120"),
        ({"outs": np.zeros((2, 3, 5, 8), np.float32)[..., ::2]}, ValueError, r"outs: expected a C-contiguous array"),
        ({"outs": unaligned(VALUES)}, ValueError, r"outs: expected an aligned array"),
        ({"outs": read_only(np.zeros_like(VALUES))}, ValueError, r"outs: expected a writable array"),
        ({"sigma_rgb": 0.0}, ValueError, r"sigma_rgb: expected a positive number, found 0"),
        ({"sigma_xy": -1.0}, ValueError, r"sigma_xy: expected a positive number, found -1"),
        ({"sigma_xy": float("nan")}, ValueError, r"sigma_xy: expected a positive number, found nan"),
        ({"sigma_rgb": -float("inf")}, ValueError, r"sigma_rgb: expected a positive number, found -inf"),
        ({"sigma_rgb": 1e-60}, ValueError, r"sigma_rgb: expected a positive number, found"),
        ({"sigma_rgb": 1e-7}, ValueError, r"lattice coordinates too large: expected at most 1048576, found"),
        ({"sigma_xy": 1e-38}, ValueError, r"lattice coordinates too large"),
        (
            {"sigma_rgb": 0.01},
            ValueError,
            r"lattice too fine: expected vertices that 62 bits can number, found that they need 70; use larger sigmas",
        ),
        ({"sigma_xy": "9"}, TypeError, r"sigma_xy: expected a number, found str"),
        ({"N": 0}, ValueError, r"N: expected a positive number, found 0"),
        ({"H": -5}, ValueError, r"H: expected a positive number, found -5"),
        ({"W": 4.0}, TypeError, r"W: expected an integer, found float"),
        ({"W": 2**70}, ValueError, r"W: expected a positive number below 2\^63, found 1180591620717411303424"),
        ({"H": 2**40, "W": 2**40}, ValueError, r"images: expected N\*3\*H\*W at most 2\^48"),
        ({"transpose": 1}, TypeError, r"transpose: expected True or False, found int"),
        ({"images": spoiled(IMAGES, 9, np.nan)}, ValueError, r"images: expected finite values, found -?nan at index 9"),
        ({"images": spoiled(IMAGES, 3, -np.inf)}, ValueError, r"images: expected finite values, found -inf at index 3"),
        ({"ins": spoiled(VALUES, 119, np.nan)}, ValueError, r"ins: expected finite values, found -?nan at index 119"),
        ({"ins": spoiled(VALUES, 64, np.inf)}, ValueError, r"ins: expected finite values, found inf at index 64"),
    ],
)
def test_errors(changes, error, message):
    with pytest.raises(error, match=message):
        bilateralfilter_batch(**arguments(**changes))


def test_a_list_in_itself():
    program = """
from bilateralfilter import bilateralfilter
endless = []
endless.append(endless)
try:
    bilateralfilter(endless, [0.0], bytearray(4), 1, 1, 15.0, 20.0)
except RecursionError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "in a list of numbers" in run.stdout, run.stderr


def test_non_finite_value_beyond_the_first_pass():
    images, values = random_problem(15, 1, 70, 5, 5)
    values[0, 66, 2, 3] = np.inf
    with pytest.raises(ValueError, match=f"ins: .* at index {66 * 25 + 13}"):
        apply(images, values)


def test_sigmas_of_a_tenth_at_513_pixels():
    # They need 61 of the 62 bits that number the lattice's vertices.
    images, values = np.zeros((1, 3, 513, 513), np.float32), np.ones((1, 1, 513, 513), np.float32)
    images[0, :, 0, 0] = 255
    assert np.isfinite(apply(images, values, 0.1, 0.1)).all()
    with pytest.raises(ValueError, match="found that they need 63; use larger sigmas"):
        apply(images, values, 0.07, 0.1)


def test_overflow_is_no_error():
    images, values = np.zeros((1, 3, 4, 4), np.float32), np.full((1, 1, 4, 4), 3e38, np.float32)
    assert not np.isfinite(apply(images, values)).any()


def test_overlap_is_refused():
    images, values = random_problem(16, 1, 3, 5, 5)
    memory = np.zeros(150, np.float32)
    with pytest.raises(ValueError, match="outs: expected memory of its own, found that it overlaps ins"):
        bilateralfilter_batch(images, memory[:75], memory[1:76], 1, 3, 5, 5, 15.0, 9.0)
    with pytest.raises(ValueError, match="overlaps ins"):
        bilateralfilter_batch(images, memory[:75], memory[74:149], 1, 3, 5, 5, 15.0, 9.0)
    with pytest.raises(ValueError, match="overlaps images"):
        bilateralfilter_batch(images, values, images, 1, 3, 5, 5, 15.0, 9.0)
    bilateralfilter_batch(images, memory[:75], memory[75:], 1, 3, 5, 5, 15.0, 9.0)


def test_errors_of_the_single_image_function():
    images, values = random_problem(17, 1, 1, 5, 4)
    out = np.zeros_like(values)
    with pytest.raises(ValueError, match=r"image: expected 60 values \(3\*H\*W\), found 20"):
        bilateralfilter(values, values, out, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match=r"^in: expected a multiple of 30 values \(K\*H\*W\), found 20"):
        bilateralfilter(np.zeros(90, np.float32), values, out, 5, 6, 15.0, 9.0)
    with pytest.raises(ValueError, match="^in: expected finite values, found -?nan at index 7"):
        bilateralfilter(images, spoiled(values, 7, np.nan), out, 5, 4, 15.0, 9.0)
    with pytest.raises(TypeError, match="^in: expected a float32 array"):
        bilateralfilter(images, values.astype(np.float64), out, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match=r"^image: expected the shape \[3, 5, 4\] \(3\*H\*W\), found \[5, 4, 3\]"):
        bilateralfilter(np.moveaxis(images[0], 0, 2), values, out, 5, 4, 15.0, 9.0)
    with pytest.raises(ValueError, match=r"^out: expected 40 values \(K\*H\*W\), found 20"):
        bilateralfilter(images, np.zeros(40, np.float32), out, 5, 4, 15.0, 9.0)


def test_buffers_are_released_after_an_error_too():
    memory = bytearray(4 * 120)
    outs = memoryview(memory).cast("f")
    with pytest.raises(ValueError):
        bilateralfilter_batch(**arguments(outs=outs, sigma_xy=0.0))
    bilateralfilter_batch(**arguments(outs=outs))
    outs.release()
    memory.extend(b"0")  # raises BufferError as long as someone holds the memory
    assert len(memory) == 481


LEAK_PROGRAM = """
import resource
import numpy as np
from bilateralfilter import bilateralfilter_batch
y, x = np.mgrid[0:64, 0:64]
image = [127 + 100 * np.sin(x / 4), 127 + 100 * np.cos(y / 3), 127 + 60 * np.sin(x / 5 + y / 4)]
images, values = np.array([image] * 2, np.float32), np.ones((2, 8, 64, 64), np.float32)
bad, out = values.copy(), np.empty_like(values)
bad[-1, -1, -1, -1] = np.nan

def call(times):
    for _ in range(times):
        bilateralfilter_batch(images, values, out, 2, 8, 64, 64, 15.0, 20.0)
        try:
            bilateralfilter_batch(images, bad, out, 2, 8, 64, 64, 15.0, 20.0)
        except ValueError:
            continue
        raise SystemExit("no error")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = call(20)
print(call(60) - before)
"""


def test_no_memory_is_lost():
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", LEAK_PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # A lost lattice would be about 400 KB a call. ru_maxrss is in KB (on macOS in bytes).
    assert int(run.stdout) < 8000 * (1024 if sys.platform == "darwin" else 1)


MEMORY_PROGRAM = """
import re
import numpy as np
from bilateralfilter import bilateralfilter_batch
y, x = np.mgrid[0:257, 0:257]
image = [127 + 100 * np.sin(x / 16), 127 + 100 * np.cos(y / 11), 127 + 60 * np.sin(x / 19 + y / 13)]
images = np.repeat(np.array([image]).round().astype(np.float32), 12, axis=0)
values = np.ones((12, 21, 257, 257), np.float32)
out = np.ones_like(values)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
bilateralfilter_batch(images, values, out, 12, 21, 257, 257, 15.0, 50.0)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_working_memory():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 24_000  # KB, beyond inputs and output


CONVERSION_PROGRAM = """
import re, resource
import numpy as np
from bilateralfilter import bilateralfilter_batch
side = 3000
images = np.zeros((1, 3, side, side), np.uint8)
values = np.zeros((1, 1, side, side), np.float32)
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20,) * 2)
try:
    bilateralfilter_batch(images, values, values, 1, 1, side, side, 15.0, 50.0)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_without_memory_for_a_conversion(tmp_path):
    """Regression: Python was aborted."""
    run = subprocess.run([sys.executable, "-c", CONVERSION_PROGRAM], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "images: not enough memory\n"), run.stderr


# Threads and processes

HASH_PROGRAM = """
import hashlib, sys
import numpy as np
from bilateralfilter import bilateralfilter_batch
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for n, k, h, w in [(1, 1, 1, 1), (1, 20, 97, 89), (3, 9, 70, 61), (8, 3, 40, 41), (5, 40, 64, 64)]:
    images = np.round(rng.random((n, 3, h, w)).cumsum(3) * 255 / w).astype(np.float32)
    values = rng.random((n, k, h, w), dtype=np.float32)
    out = np.zeros_like(values)
    bilateralfilter_batch(images, values, out, n, k, h, w, 15.0, 30.0)
    digest.update(out.tobytes())
print(digest.hexdigest())
"""


def test_thread_count_does_not_change_the_result():
    results = {}
    for threads in (1, 2, 3, 7, 16):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        run = subprocess.run([sys.executable, "-c", HASH_PROGRAM], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        results[threads] = run.stdout.strip()
    assert len(results[1]) == 64
    assert set(results.values()) == {results[1]}, results


def test_several_python_threads_at_once():
    problems = [random_problem(seed, 2, 5, 40 + seed, 37) for seed in range(6)]
    expected = [apply(*problem) for problem in problems]
    found = [None] * len(problems)

    def work(i):
        for _ in range(5):
            found[i] = apply(*problems[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, result in enumerate(expected):
        np.testing.assert_array_equal(found[i], result)


def test_other_python_threads_run_meanwhile():
    images, values = random_problem(19, 1, 32, 400, 400)
    running = threading.Event()
    done = threading.Event()

    def work():
        running.set()
        apply(images, values, 5.0, 40.0)
        done.set()

    thread = threading.Thread(target=work)
    turns = 0
    thread.start()
    running.wait(30)
    while not done.is_set():
        time.sleep(0.0005)
        turns += 1
    thread.join()
    # With the GIL held, this thread would have a turn at most before and after the call.
    assert turns >= 5


EXIT_PROGRAM = """
import builtins, threading, time
import numpy as np
from bilateralfilter import bilateralfilter_batch


def work():
    images, values = np.zeros((1, 3, 90, 90), np.float32), np.zeros((1, 24, 90, 90), np.float32)
    busy.set()
    while True:
        bilateralfilter_batch(images, values, values, 1, 24, 90, 90, 5.0, 20.0)


class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)


busy = threading.Event()
builtins.slow = Slow()  # what Python takes down last
threading.Thread(target=work, daemon=True).start()
busy.wait()
time.sleep(0.1)
"""


def test_python_exits_while_another_thread_filters():
    run = subprocess.run([sys.executable, "-c", EXIT_PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def _filter_in_child(queue, images, values):
    queue.put(apply(images, values))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_after_the_parent_has_called():
    images, values = random_problem(20, 4, 16, 64, 64)
    expected = apply(images, values)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_filter_in_child, args=(queue, images, values))
    child.start()
    try:
        np.testing.assert_array_equal(queue.get(timeout=30), expected)
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()


# With GCC it always is, and a build without it is then a fault.
OPENMP_IS_THERE = bool(shutil.which("g++")) and os.environ.get("BILATERALFILTER_OPENMP") != "0"

THREADS_PROGRAM = """
import os, sys, time
import torch
import numpy as np
from bilateralfilter import bilateralfilter_batch
if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))


def time_of_threads():
    # The first number is the time in ns that a thread has run.
    return {t: int(open(f"/proc/self/task/{t}/schedstat").read().split()[0]) for t in os.listdir("/proc/self/task")}


setting = torch.get_num_threads()
time.sleep(0.5)  # until threads that an import has started are at rest
before = time_of_threads()
values = np.ones((12, 3, 200, 200), np.float32)
bilateralfilter_batch(values, values, np.empty_like(values), 12, 3, 200, 200, 15.0, 20.0)
after = time_of_threads()
print(sum(after[t] > before.get(t, 0) for t in after), setting, torch.get_num_threads())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the times of threads in /proc")
@pytest.mark.parametrize(("environment", "argument"), [("3", []), ("3", ["1"]), ("1", ["4"])])
def test_follows_the_thread_counts_of_openmp_and_torch(environment, argument):
    run = subprocess.run(
        [sys.executable, "-c", THREADS_PROGRAM, *argument],
        env={**os.environ, "OMP_NUM_THREADS": environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    used, wanted, after = run.stdout.split()
    assert after == wanted and wanted in (argument or [environment, str(os.cpu_count())])  # PyTorch may take fewer
    if used == "1" and wanted != "1" and not OPENMP_IS_THERE:
        pytest.skip("no OpenMP here")
    assert used == wanted


OPENMP_PROGRAM = """
import ctypes, re
import numpy as np
from bilateralfilter import bilateralfilter_batch
libraries = re.findall(r"\\\\S*/lib[a-z]*omp[^/ ]*\\\\.so\\\\S*", open("/proc/self/maps").read())
if not libraries:
    print("none")
    raise SystemExit
openmp = ctypes.CDLL(libraries[0])
before = openmp.omp_get_max_threads()
values = np.ones((2, 3, 50, 50), np.float32)
bilateralfilter_batch(values, values, np.empty_like(values), 2, 3, 50, 50, 15.0, 20.0)
between = openmp.omp_get_max_threads()
openmp.omp_set_num_threads(1)
bilateralfilter_batch(values, values, np.empty_like(values), 2, 3, 50, 50, 15.0, 20.0)
print(before, between, openmp.omp_get_max_threads())
""".replace("\\\\", "\\")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the library in /proc")
def test_leaves_the_thread_count_of_the_process_alone():
    environment = {**os.environ, "OMP_NUM_THREADS": "5"}
    run = subprocess.run([sys.executable, "-c", OPENMP_PROGRAM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    if run.stdout.strip() == "none" and not OPENMP_IS_THERE:
        pytest.skip("no OpenMP here")
    assert run.stdout.split() == ["5", "5", "1"]

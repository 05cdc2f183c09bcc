"""`filtering.bilateral_filter` and `filtering.Lattice`: tensors in, tensors out."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bilateralfilter import bilateralfilter_batch
from torch._subclasses.fake_tensor import FakeTensorMode

from filtering import Lattice, bilateral_filter, native, torch_lattice, vertex_codes
from helpers import OnlyOnCuda, cuda_synchronisations, needs_cuda, pretends_a_gpu

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("filter_*.npz"))


def problem(n=2, k=3, h=11, w=13, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, h, w), generator=generator).float()
    return images, torch.rand(n, k, h, w, generator=generator).to(dtype)


def by_the_module(images, values, transpose=False):
    out = np.zeros(tuple(values.shape), np.float32)
    bilateralfilter_batch(images.numpy(), values.float().numpy(), out, *values.shape, 60.0, 5.0, transpose)
    return torch.from_numpy(out)


@pytest.mark.parametrize("transpose", [False, True])
def test_is_the_module_s_result(transpose):
    images, values = problem()
    out = bilateral_filter(images, values, 60, 5, transpose=transpose)
    assert torch.equal(out, by_the_module(images, values, transpose))
    assert not torch.equal(out, by_the_module(images, values, not transpose))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computes_in_float32_and_returns_the_dtype_of_values(dtype):
    images, values = problem(dtype=dtype)
    out = bilateral_filter(images, values, 60.0, 5.0)
    assert out.dtype == dtype
    assert torch.equal(out, by_the_module(images, values).to(dtype))


@pytest.mark.parametrize(("sigma_rgb", "sigma_xy"), [(15, 50), (15, 100), (6, 40), (5, 10), (50, 20)])
@pytest.mark.parametrize("content", ["noise", "smooth", "flat"])
def test_sums_are_about_half_of_the_gaussians(content, sigma_rgb, sigma_xy):
    size = {"noise": (40, 40), "smooth": (4, 4), "flat": (1, 1)}[content]
    coarse = 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (40, 40), mode="bilinear")
    places = torch.cartesian_prod(torch.arange(40.0), torch.arange(40.0)) / sigma_xy
    features = torch.cat([places, images[0].flatten(1).T / sigma_rgb], 1)
    exact = torch.exp(torch.cdist(features, features).square() / -2).sum()
    assert 0.35 < bilateral_filter(images, torch.ones(1, 1, 40, 40), sigma_rgb, sigma_xy).sum() / exact < 0.7


def test_integer_images():
    images, values = problem()
    assert torch.equal(bilateral_filter(images.to(torch.uint8), values, 60.0, 5.0), by_the_module(images, values))


def test_other_strides():
    images, values = problem()
    strided = values.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    images_strided = images.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous() and not images_strided.is_contiguous()
    out = bilateral_filter(images_strided, strided, 60.0, 5.0)
    assert torch.equal(out, by_the_module(images, values))


def test_changes_nothing_and_records_no_gradient():
    images, values = problem()
    values.requires_grad_()
    images.requires_grad_()
    before = images.detach().clone(), values.detach().clone()
    out = bilateral_filter(images, values, 60.0, 5.0)
    assert not out.requires_grad
    assert torch.equal(images.detach(), before[0]) and torch.equal(values.detach(), before[1])


def test_contiguous_float32_tensors_are_not_copied(monkeypatch):
    seen = []
    module = SimpleNamespace(bilateralfilter_batch=lambda *arguments: seen.extend(arguments[:3]), mean_field=None)
    monkeypatch.setitem(sys.modules, "bilateralfilter", module)
    images, values = problem()
    out = bilateral_filter(images, values, 60.0, 5.0)
    assert [array.ctypes.data for array in seen] == [images.data_ptr(), values.data_ptr(), out.data_ptr()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, v: (i[0], v), r"images: expected shape \(N, 3, H, W\), found \(3, 11, 13\)"),
        (lambda i, v: (i[:, :1], v), r"images: expected shape \(N, 3, H, W\), found \(2, 1, 11, 13\)"),
        (lambda i, v: (i, v[0]), r"values: expected shape \(N, K, H, W\), found \(3, 11, 13\)"),
        (lambda i, v: (i[:1], v), r"values: expected shape \(1, K, 11, 13\) to match .*, found \(2, 3, 11, 13\)"),
        (lambda i, v: (i, v[..., :5]), r"values: expected shape \(2, K, 11, 13\) .*, found \(2, 3, 11, 5\)"),
        (lambda i, v: (i, v[:, :0]), r"values: expected at least one .*found shape \(2, 0, 11, 13\)"),
        (lambda i, v: (i, v.long()), r"values: expected a floating-point dtype, found torch.int64"),
        (lambda i, v: (i.to(torch.complex64), v), r"images: expected real numbers, found torch.complex64"),
        (lambda i, v: (i.to("meta"), v), r"images and values: expected one device, found meta and cpu"),
        (lambda i, v: (i.numpy(), v), r"images: expected a tensor, found numpy.ndarray"),
        (lambda i, v: (i, v.numpy()), r"values: expected a tensor, found numpy.ndarray"),
        (lambda i, v: (i, v * float("nan")), r"ins: expected finite values, found -?nan at index"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        bilateral_filter(*change(*problem()), 60.0, 5.0)


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf"), "15", None])
def test_sigmas(sigma):
    with pytest.raises(ValueError, match="sigma_rgb: expected a positive finite number, found"):
        bilateral_filter(*problem(), sigma, 5.0)
    with pytest.raises(ValueError, match="sigma_xy: expected a positive finite number, found"):
        bilateral_filter(*problem(), 60.0, sigma)


def test_says_how_to_build_the_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "bilateralfilter", None)
    with pytest.raises(ImportError, match=r"pip install ./wrapper/bilateralfilter") as error:
        bilateral_filter(*problem(), 60.0, 5.0)
    assert "\n" not in str(error.value)


def test_an_earlier_module_is_pointed_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "bilateralfilter", SimpleNamespace(__file__="site/bilateralfilter.py"))
    with pytest.raises(ImportError, match=r"site/bilateralfilter.py is an earlier one; .* pip install ./wrapper"):
        bilateral_filter(*problem(), 60.0, 5.0)


# One lattice, many filterings

OPERATORS = [{}, {"transpose": True}, {"symmetric": True}]


@pytest.mark.parametrize("engine", [native, torch_lattice])
def test_one_lattice_filters_many_times_to_the_same_bits(engine):
    images, _ = problem(n=3, h=31, w=29)
    lattices = engine.Lattices(images, 15.0, 5.0)
    for seed, k in enumerate((1, 21, 4)):
        values = torch.randn(3, k, 31, 29, generator=torch.Generator().manual_seed(seed))
        for options in OPERATORS:
            expected = engine.bilateral_filter(images, values, 15.0, 5.0, **options)
            assert torch.equal(lattices.filter(values, **options), expected)


def test_a_lattice_does_not_need_its_images():
    images, values = problem()
    expected = bilateral_filter(images, values, 60, 5, symmetric=True)
    lattice = Lattice(images, 60, 5)
    images.fill_(0)
    half = lattice.filter(values.half().requires_grad_(), symmetric=True)
    assert torch.equal(lattice.filter(values, symmetric=True), expected)
    assert half.dtype == torch.float16 and not half.requires_grad


def test_errors_of_a_lattice():
    images, values = problem()
    for bad, sigma, message in (
        (images[:, :1], 60, r"images: expected shape \(N, 3, H, W\)"),
        (images, -1, "sigma_rgb: expected a positive finite number, found -1"),
        (images / 0, 60, "images: expected finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            Lattice(bad, sigma, 5)
    lattice = Lattice(images, 60, 5)
    for bad, message in (
        (values[..., :5], r"values: expected shape \(2, K, 11, 13\) to match images \(2, 3, 11, 13\), found"),
        (values.to("meta"), "expected one device, found cpu and meta"),
        (values / 0, "ins: expected finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            lattice.filter(bad)
    with pytest.raises(ValueError, match=r"values: expected finite values, found nan at index 7"):
        values[0, 0, 0, 7] = float("nan")
        torch_lattice.Lattices(images, 60, 5).filter(values)


# The torch engine, on the CPU, against the C++ one


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.dtype == expected.dtype
    return ((found - expected).norm() / expected.norm()).item()


def error_of_torch_engine(images, values, sigma_rgb, sigma_xy, **options) -> float:
    found = torch_lattice.bilateral_filter(images, values, sigma_rgb, sigma_xy, **options)
    return relative_error(found, native.bilateral_filter(images, values, sigma_rgb, sigma_xy, **options))


@pytest.mark.parametrize("file", REFERENCE, ids=lambda path: path.stem)
def test_torch_engine_gives_the_original_s_numbers(file):
    data = np.load(file)
    values = torch.from_numpy(data["segmentations_u16"].astype(np.float32) / 65535)
    images = torch.from_numpy(data["images"]).float()
    found = torch_lattice.bilateral_filter(images, values, float(data["sigma_rgb"]), float(data["sigma_xy"]))
    assert relative_error(found, torch.from_numpy(data["filtered"])) < 1e-6


@pytest.mark.parametrize("options", OPERATORS, ids=str)
@pytest.mark.parametrize(
    ("n", "k", "h", "w"), [(1, 1, 1, 1), (2, 3, 1, 7), (2, 21, 13, 1), (3, 2, 17, 19), (1, 130, 8, 9), (5, 33, 31, 6)]
)
def test_torch_engine_at_any_size_and_sigma(n, k, h, w, options):
    images, values = problem(n, k, h, w)
    for sigma_rgb, sigma_xy in ((15, 5), (2, 2), (2, 1000), (1000, 2), (1000, 1000), (0.7, 3)):
        assert error_of_torch_engine(images, values, sigma_rgb, sigma_xy, **options) < 1e-6
        # Flat, and in another range than 0..255
        assert error_of_torch_engine(torch.full_like(images, 77), values, sigma_rgb, sigma_xy, **options) < 1e-6
        assert error_of_torch_engine(9 * images - 700, values, sigma_rgb, sigma_xy, **options) < 1e-6


@pytest.mark.parametrize(("sigma", "bits"), [(15, 32), (1, 64), (0.3, 64)])
def test_torch_engine_with_codes_of_both_widths(sigma, bits):
    images, values = problem(h=64, w=67)
    coding = vertex_codes.Coding([0.0] * 5, [66 / sigma, 63 / sigma] + [255 / sigma] * 3, 2, images.device)
    assert coding.fits and torch.iinfo(coding.dtype).bits == bits
    assert error_of_torch_engine(images, values, sigma, sigma) < 1e-6


def test_torch_engine_filters_images_one_by_one_where_their_codes_would_be_too_long():
    images, values = problem(n=3, h=64, w=67)
    sigma = 0.1
    single, batch = (
        vertex_codes.Coding([0.0] * 5, [66 / sigma, 63 / sigma] + [255 / sigma] * 3, n, images.device) for n in (1, 40)
    )
    assert single.bits < batch.bits
    many = [tensor.repeat(14, 1, 1, 1) for tensor in (images, values[:, :1])]
    assert error_of_torch_engine(*many, sigma, sigma) < 1e-6
    found = torch_lattice.Lattices(many[0], sigma, sigma).filter(many[1])
    assert torch.equal(found, torch_lattice.bilateral_filter(*many, sigma, sigma))


def test_torch_engine_refuses_vertices_that_codes_cannot_number():
    with pytest.raises(
        ValueError, match=r"62 bits can number, found \d+ bits at sigma_rgb 0.01, .*; use larger sigmas"
    ):
        torch_lattice.bilateral_filter(*problem(h=64, w=67), 0.01, 0.01)


def test_torch_engine_sums_the_thousands_of_pixels_of_a_flat_image_s_vertex_in_pieces():
    images, values = problem(h=61, w=83)
    images.fill_(100)
    assert error_of_torch_engine(images, values, 15, 1000) < 1e-6
    lattice = torch_lattice.build_lattice(images, values, 15, 1000)
    assert 61 * 83 / torch_lattice.PIECE <= lattice.vertex_starts.diff().max() < 61 * 83 / torch_lattice.PIECE + 1
    assert lattice.piece_starts.diff().max() == torch_lattice.PIECE


def test_torch_engine_does_not_depend_on_the_rest_of_the_batch():
    images, values = problem(n=4, h=40, w=41)
    images[1] = 90  # flat: its vertices have more pixels than a piece
    found = torch_lattice.bilateral_filter(images, values, 15, 30)
    order = torch.tensor([2, 1, 3, 0])
    assert torch.equal(torch_lattice.bilateral_filter(images[order], values[order], 15, 30), found[order])
    for index in range(4):
        one = slice(index, index + 1)
        assert torch.equal(torch_lattice.bilateral_filter(images[one], values[one], 15, 30), found[one])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("symmetric", [False, True])
def test_both_engines_compute_in_float32(dtype, symmetric):
    images, values = problem(dtype=dtype)
    for engine in (native, torch_lattice):
        found = engine.bilateral_filter(images, values, 60, 5, symmetric=symmetric)
        expected = engine.bilateral_filter(images, values.float(), 60, 5, symmetric=symmetric)
        assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("engine", [native, torch_lattice])
def test_the_defaults_of_pytorch_do_not_matter(engine, request):
    images, values = problem()
    expected = engine.bilateral_filter(images, values, 60, 5)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        assert torch.equal(engine.bilateral_filter(images, values, 60, 5), expected)


@pytest.mark.parametrize("engine", [native, torch_lattice])
def test_transpose_and_symmetric_part_are_those_of_the_operator(engine):
    images, values = problem(h=16, w=18)
    other = torch.rand(values.shape, generator=torch.Generator().manual_seed(1))
    forward, backward, symmetric = (
        engine.bilateral_filter(images, values, 15, 5, **options)
        for options in ({}, {"transpose": True}, {"symmetric": True})
    )
    filtered_other = engine.bilateral_filter(images, other, 15, 5)
    assert (backward * other).sum().item() == pytest.approx((values * filtered_other).sum().item(), rel=1e-5)
    assert relative_error(forward, backward) > 1e-3
    assert relative_error(symmetric, (forward + backward) / 2) < 1e-6


def test_torch_engine_is_deterministic_and_untouched_by_autocast():
    images, values = problem(h=30, w=31)
    expected = torch_lattice.bilateral_filter(images, values, 15, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch_lattice.bilateral_filter(images, values, 15, 5), expected)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(torch_lattice.bilateral_filter(images, values, 15, 5), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_torch_engine_names_what_is_not_finite(value):
    images, values = problem()
    for tensor, name in ((images, "images"), (values, "values")):
        spoilt = tensor.clone()
        spoilt.view(-1)[7] = value
        arguments = (spoilt, values) if name == "images" else (images, spoilt)
        with pytest.raises(ValueError, match=rf"{name}: expected finite values, found {value} at index 7"):
            torch_lattice.bilateral_filter(*arguments, 15, 5)
    with pytest.raises(ValueError, match="values: expected finite values, found inf"):
        torch_lattice.bilateral_filter(images, values.double() * 1e300, 15, 5)


@pytest.mark.parametrize("engine", [native, torch_lattice])
def test_sigmas_too_small_for_float32(engine):
    with pytest.raises(ValueError, match=r"lattice coordinates too large: expected at most 1048576, found \d+"):
        engine.bilateral_filter(*problem(), 1e-4, 5)


@pretends_a_gpu
@pytest.mark.parametrize("options", OPERATORS, ids=str)
def test_on_a_gpu_nothing_leaves_it_but_three_numbers(options):
    """On pretended tensors, so that it runs without a GPU; an operation whose result's size depends on values fails."""
    with FakeTensorMode(), OnlyOnCuda(500, 1, 1) as device:
        images = torch.empty(3, 3, 40, 41, device="cuda", dtype=torch.uint8)
        values = torch.empty(3, 21, 40, 41, device="cuda", dtype=torch.bfloat16)
        out = bilateral_filter(images, values, 15, 50, **options)
    assert (out.shape, out.dtype, out.device.type) == (values.shape, values.dtype, "cuda")
    assert not device.answers


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("options", OPERATORS, ids=str)
@pytest.mark.parametrize("kind", ["noise", "flat"])
def test_cuda_gives_the_result_of_the_cpu(kind, options):
    images, values = problem(n=3, k=21, h=61, w=83)
    if kind == "flat":
        images.fill_(100)
    for sigma_rgb, sigma_xy in ((15, 50), (60, 5), (0.3, 0.3), (1000, 1000)):
        out = bilateral_filter(images.cuda(), values.cuda(), sigma_rgb, sigma_xy, **options)
        assert out.device.type == "cuda"
        assert relative_error(out.cpu(), bilateral_filter(images, values, sigma_rgb, sigma_xy, **options)) < 1e-5


@pytest.mark.gpu
@needs_cuda
def test_cuda_gives_the_same_bits_every_time():
    images, values = (tensor.cuda() for tensor in problem(n=3, k=21, h=61, w=83))
    expected = bilateral_filter(images, values, 15, 50)
    assert all(torch.equal(bilateral_filter(images, values, 15, 50), expected) for _ in range(5))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(bilateral_filter(images, values, 15, 50), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@needs_cuda
def test_cuda_waits_once():
    images, values = (tensor.cuda() for tensor in problem(n=3, k=21, h=61, w=83))
    assert cuda_synchronisations(lambda: bilateral_filter(images, values, 15, 50)) == 1

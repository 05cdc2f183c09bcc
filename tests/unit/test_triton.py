"""The filter in Triton kernels, on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from filtering import bilateral, native, torch_lattice
from helpers import ENVIRONMENT, cuda_synchronisations, needs_cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Earlier interpreters compare and swap one number at a time, or warn of what they compute.
pytest.importorskip("triton", minversion="3.3" if DEVICE.type == "cpu" else None)
from filtering import triton_lattice  # noqa: E402

SLOW = {"filter_photos_13x11_k3", "filter_photos_33x33_k2"}  # the interpreter takes longer the more images there are
REFERENCE = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW and DEVICE.type == "cpu" else [])
    for path in sorted((Path(__file__).parents[1] / "reference").glob("filter_*.npz"))
]


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch):
    """Let the interpreter, which takes as long for many numbers as for few, work on many at a time."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton_lattice, "POINTS", 4096)
        monkeypatch.setattr(triton_lattice, "NUMBERS", 8192)


def problem(n=2, k=3, h=11, w=13):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, h, w), generator=generator).float()
    return images, torch.rand(n, k, h, w, generator=generator)


def filtered(images, values, *settings, **options):
    out = triton_lattice.bilateral_filter(images.to(DEVICE), values.to(DEVICE), *settings, **options)
    assert (out.device.type, out.shape, out.dtype) == (DEVICE.type, values.shape, values.dtype)
    return out.cpu()


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def error(images, values, *settings, **options):
    return relative_error(
        filtered(images, values, *settings, **options), native.bilateral_filter(images, values, *settings, **options)
    )


@pytest.mark.parametrize("file", REFERENCE)
def test_gives_the_original_s_numbers(file):
    data = np.load(file)
    values = torch.from_numpy(data["segmentations_u16"].astype(np.float32) / 65535)
    found = filtered(
        torch.from_numpy(data["images"]).float(), values, float(data["sigma_rgb"]), float(data["sigma_xy"])
    )
    assert relative_error(found, torch.from_numpy(data["filtered"])) < 1e-5


@pytest.mark.parametrize(
    ("kind", "sizes", "sigmas", "options"),
    [
        ("noise", (1, 1, 1, 1), (15, 5), {}),
        ("noise", (2, 3, 1, 7), (0.5, 0.5), {"transpose": True}),
        ("noise", (1, 150, 8, 9), (1000, 2), {"symmetric": True}),
        ("flat", (3, 2, 17, 19), (1000, 1000), {}),
        ("flat", (2, 21, 13, 5), (0.7, 3), {"transpose": True}),
        ("another range", (1, 3, 7, 6), (2, 1000), {}),
        pytest.param("noise", (64, 1, 5, 6), (60, 5), {}, marks=pytest.mark.slow),
        pytest.param("flat", (64, 2, 5, 6), (60, 5), {}, marks=pytest.mark.slow),
        pytest.param("noise", (2, 33, 31, 6), (0.7, 3), {"symmetric": True}, marks=pytest.mark.slow),
        pytest.param("another range", (2, 3, 31, 33), (1000, 0.5), {"symmetric": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_size_and_sigma(kind, sizes, sigmas, options):
    images, values = problem(*sizes)
    if kind == "flat":
        images.fill_(77)
    elif kind == "another range":
        images = 9 * images - 700
    assert error(images, values, *sigmas, **options) < 1e-5


def test_blocks_of_other_sizes(monkeypatch):
    """Blocks that end within an image, and in a flat one blocks all of whose pixels have one vertex."""
    monkeypatch.setattr(triton_lattice, "POINTS", 256)
    monkeypatch.setattr(triton_lattice, "NUMBERS", 256)
    images, values = problem(k=2, h=17, w=19)
    images[1] = 100
    assert error(images, values, 60, 1000) < 1e-5


def test_codes_of_64_bits():
    images, values = problem(n=1)
    coding = torch_lattice.make_coding(images, 0.3, 0.3, [0.0] * 3, [255.0] * 3, images.device)
    assert coding.dtype == torch.int64
    assert error(images, values, 0.3, 0.3) < 1e-5


def test_a_table_that_overflows_is_made_larger():
    images, values = problem(n=1, k=1, h=16, w=16)
    on_device = images.to(DEVICE), values.to(DEVICE)
    lattice = torch_lattice.build_lattice(*on_device, 0.5, 0.5, triton_lattice.Lattice)
    assert lattice.count > 2 * 16 * 16  # the slots of the first table
    found = lattice.slice(lattice.blur(lattice.splat(on_device[1]), range(6))).cpu()
    assert relative_error(found, native.bilateral_filter(images, values, 0.5, 0.5)) < 1e-5


@pytest.mark.skipif(DEVICE.type == "cuda", reason="compiled kernels do not see constants change")
def test_without_room_in_any_table_tensor_operations_filter(monkeypatch):
    monkeypatch.setattr(triton_lattice, "_LAST", 1)  # every vertex has one slot, which others have too
    images, values = problem(n=1)
    assert torch.equal(filtered(images, values, 15, 5), torch_lattice.bilateral_filter(images, values, 15, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computes_in_float32_and_returns_the_dtype_of_values(dtype):
    images, values = problem(n=1, h=4, w=5)
    found, expected = (f(images, values.to(dtype), 15.0, 5.0) for f in (filtered, native.bilateral_filter))
    assert relative_error(found.double(), expected.double()) < max(1e-5, torch.finfo(dtype).eps)


def test_other_strides():
    images, values = (tensor.to(memory_format=torch.channels_last) for tensor in problem(h=5, w=6))
    assert not images.is_contiguous() and not values.is_contiguous()
    assert error(images, values, 15, 5) < 1e-5


def test_names_what_is_not_finite():
    for index, name, value in ((0, "images", float("nan")), (1, "values", -float("inf"))):
        tensors = problem(n=1, h=3, w=4)
        tensors[index].view(-1)[7] = value
        with pytest.raises(ValueError, match=rf"{name}: expected finite values, found {value} at index 7"):
            filtered(*tensors, 15, 5)


def test_sigmas_too_small():
    images, values = problem(n=1, h=64, w=67)
    with pytest.raises(ValueError, match=r"62 bits can number, found \d+ bits"):
        filtered(images, values, 0.01, 0.01)


def test_only_who_asks_for_it_gets_it(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("RLOSS_TRITON", raising=False)
    assert bilateral.choose_engine(cuda) is torch_lattice
    monkeypatch.setenv("RLOSS_TRITON", "1")
    assert bilateral.choose_engine(cuda) is triton_lattice
    assert bilateral.choose_engine(cpu) is native
    torch.use_deterministic_algorithms(True)
    try:
        assert bilateral.choose_engine(cuda) is torch_lattice
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "filtering.triton_lattice")
    monkeypatch.delattr("filtering.triton_lattice")
    with pytest.raises(ModuleNotFoundError, match="triton"):
        bilateral.choose_engine(cuda)


COMPILE = """
import sys

from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from filtering import triton_lattice

code = sys.argv[1]
types = dict.fromkeys(("images", "weights", "pixels", "vertices", "blurred"), "*fp32")
types |= dict.fromkeys(("full", "slots", "numbers", "number", "neighbours"), "*i32")
types |= dict.fromkeys(("sigma_rgb", "sigma_xy"), "fp32") | {"table": f"*{code}"}
types |= dict.fromkeys(("image_stride", "offset", "carry", *(f"stride{i}" for i in range(6))), code)
sizes = {"POINTS": 256, "ROWS": 64, "CHANNELS": 4}
for name in sys.argv[2:]:
    kernel = getattr(triton_lattice, name)
    constants = {argument: sizes[argument] for argument in kernel.arg_names if argument in sizes}
    signature = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
    signature |= {argument: kind for argument, kind in types.items() if argument in signature}
    options = {"enable_fp_fusion": name != "_build"}
    for capability in (80, 90):
        compiled = compile(ASTSource(kernel, signature, constants), GPUTarget("cuda", capability, 32), options)
        assert compiled.asm["cubin"]
        inexact = [word for word in ("fma.", "div.full", ".ftz") if word in compiled.asm["ptx"]]
        assert name != "_build" or not inexact, inexact
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", ["i32", "i64"])
def test_compiles_for_gpus_without_one(tmp_path, code):
    """What the interpreter accepts the compiler may not; and it must not fuse what rounds twice on the CPU."""
    pytest.importorskip("triton", minversion="3.3", reason="compiles otherwise")
    environment = {name: text for name, text in ENVIRONMENT.items() if name != "TRITON_INTERPRET"}
    kernels = ["_build", "_link", *(["_splat", "_blur", "_slice"] if code == "i32" else [])]
    command = [sys.executable, "-c", COMPILE, code, *kernels]
    environment["TRITON_CACHE_DIR"] = os.fspath(tmp_path)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.gpu
@needs_cuda
def test_waits_once():
    images, values = (tensor.cuda() for tensor in problem(n=3, k=21, h=61, w=83))
    assert cuda_synchronisations(lambda: triton_lattice.bilateral_filter(images, values, 15, 50)) == 1


@pytest.mark.gpu
@needs_cuda
def test_large_images():
    images, values = problem(n=2, k=21, h=257, w=257)
    for image, sigmas in ((images, (15, 50)), (torch.full_like(images, 90), (15, 50)), (images, (0.5, 0.5))):
        assert error(image, values, *sigmas) < 1e-5

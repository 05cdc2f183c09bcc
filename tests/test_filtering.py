"""`filtering.bilateral_filter`: tensors in, tensors out."""

import sys

import numpy as np
import pytest
import torch
from bilateralfilter import bilateralfilter_batch

from filtering import bilateral_filter, native


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
    before = images.clone(), values.detach().clone()
    out = bilateral_filter(images, values, 60.0, 5.0)
    assert not out.requires_grad
    assert torch.equal(images, before[0]) and torch.equal(values.detach(), before[1])


def test_contiguous_float32_tensors_are_not_copied(monkeypatch):
    seen = []
    monkeypatch.setattr(native, "_load", lambda: lambda *arguments: seen.extend(arguments[:3]))
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_result_of_the_cpu():
    images, values = problem()
    out = bilateral_filter(images.cuda(), values.cuda(), 60.0, 5.0)
    assert out.device.type == "cuda"
    torch.testing.assert_close(out.cpu(), bilateral_filter(images, values, 60.0, 5.0), rtol=1e-5, atol=1e-5)

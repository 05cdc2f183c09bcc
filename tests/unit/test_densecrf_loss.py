"""The DenseCRF loss: the original's numbers, the true gradient, the size-free form, and its checks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import DenseCRFLoss as densecrf
from DenseCRFLoss import DenseCRFLoss, DenseCRFLossFunction
from filtering import bilateral_filter
from helpers import CODE, OnlyOnCuda, cuda_synchronisations, needs_cuda, pretends_a_gpu

REFERENCE = Path(__file__).parents[1] / "reference"


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def case(height: int = 12, width: int = 10, classes: int = 3, images: int = 2, dtype=torch.float32):
    """Random smooth images, probabilities and regions that leave out a corner."""
    generator = torch.Generator().manual_seed(7)
    image = torch.nn.functional.interpolate(
        255 * torch.rand(images, 3, 4, 4, generator=generator), size=(height, width), mode="bilinear"
    )
    probabilities = (2 * torch.randn(images, classes, height, width, generator=generator)).softmax(1).to(dtype)
    region = torch.ones(images, height, width)
    region[:, -3:, -4:] = 0
    return image, probabilities, region


@pytest.mark.parametrize("file", ["loss_scale1.npz", "loss_scale05_roi.npz"])
def test_loss_and_gradient_of_the_original(file):
    data = np.load(REFERENCE / file)
    images = torch.from_numpy(data["images"]).float()
    probabilities = torch.from_numpy(data["segmentations_u16"].astype(np.float32) / 65535).requires_grad_()
    rois = torch.from_numpy(data["rois"]).float()
    layer = DenseCRFLoss(
        weight=float(data["weight"]),
        sigma_rgb=float(data["sigma_rgb"]),
        sigma_xy=float(data["sigma_xy"]),
        scale_factor=float(data["scale_factor"]),
    )
    loss = layer(images, probabilities, rois)
    loss.backward()
    assert loss.item() == pytest.approx(float(data["loss"]), rel=1e-5)
    assert relative_error(probabilities.grad, torch.from_numpy(data["grad"])) < 1e-5


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("size_free", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exact_gradient_against_finite_differences(size_free, scale, normalised):
    image, probabilities, region = case(dtype=torch.float64)
    how = {"exact_gradient": True, "size_free": size_free, "normalised_kernel": normalised}
    layer = DenseCRFLoss(1.0, 15, 20, scale, **how)
    probabilities.requires_grad_()
    layer(image, probabilities, region).backward()
    gradient = probabilities.grad
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        # The energy is quadratic, so that central differences are exact for any step: a large one drowns the rounding.
        direction = torch.randn(probabilities.shape, generator=generator, dtype=torch.float64)
        direction *= 0.004 / direction.abs().max()
        with torch.no_grad():
            plus = layer(image, probabilities + direction, region)
            minus = layer(image, probabilities - direction, region)
        expected = ((plus - minus) / 2).item()
        scale_of_error = (gradient.norm() * direction.norm()).item()
        assert (gradient * direction).sum().item() == pytest.approx(expected, abs=2e-4 * scale_of_error)


def test_exact_gradient_in_every_coordinate():
    image, probabilities, region = case(height=4, width=5, classes=2, images=1, dtype=torch.float64)
    layer = DenseCRFLoss(1.0, 20, 5, 1.0, exact_gradient=True)
    probabilities = probabilities.mul(0.5).add(0.2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: layer(image, s, region), (probabilities,), eps=0.1, atol=1e-4, rtol=1e-4, nondet_tol=0.0
    )


def test_the_original_gradient_is_minus_two_a_s_and_nearly_the_exact_one():
    image, probabilities, region = case(height=40, width=30)
    gradients = {}
    for exact in (False, True):
        s = probabilities.clone().requires_grad_()
        DenseCRFLoss(1.0, 15, 20, 1.0, exact_gradient=exact)(image, s, region).backward()
        gradients[exact] = s.grad
    masked = probabilities * region[:, None]
    a_s = bilateral_filter(image, masked, 15, 20)
    assert relative_error(gradients[False], -2 * a_s * region[:, None] / len(image)) < 1e-6
    assert 1e-4 < relative_error(gradients[False], gradients[True]) < 0.1


def test_energy_by_hand_on_one_pixel():
    """One pixel, fully sure of one class: the energy is -A_11, and -1 in the size-free form."""
    image = torch.full((1, 3, 1, 1), 100.0)
    probabilities = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    region = torch.ones(1, 1, 1)
    a_11 = bilateral_filter(image, torch.ones(1, 1, 1, 1), 15, 80).item()
    assert a_11 > 0
    assert DenseCRFLoss(3.0, 15, 80, 1.0)(image, probabilities, region).item() == pytest.approx(-3 * a_11)
    assert DenseCRFLoss(3.0, 15, 80, 1.0, size_free=True)(image, probabilities, region).item() == pytest.approx(-3)


def test_size_free_form_lies_between_minus_one_and_zero_at_every_size():
    for height, width in ((1, 1), (3, 7), (20, 20), (64, 48)):
        image, probabilities, region = case(height, width)
        region = torch.ones_like(region)
        sure = torch.zeros_like(probabilities)
        sure[:, 1] = 1
        layer = DenseCRFLoss(1.0, 15, 20, 1.0, size_free=True)
        assert layer(image, sure, region).item() == pytest.approx(-1, abs=1e-5)
        assert -1 < layer(image, probabilities, region).item() < 0
        third = torch.full_like(probabilities, 1 / 3)
        assert layer(image, third, region).item() == pytest.approx(-1 / 3, abs=1e-5)


def test_size_free_is_the_energy_over_the_kernel_mass_of_each_image():
    image, probabilities, region = case()
    expected = 0.0
    for i, s, r in zip(image.split(1), probabilities.split(1), region.split(1), strict=True):
        energy = DenseCRFLossFunction.apply(i, s, 15, 20, r)
        mass = (r * bilateral_filter(i, r[:, None], 15, 20)[:, 0]).sum()
        expected += (energy / mass).item() / len(image)
    found = DenseCRFLoss(1.0, 15, 20, 1.0, size_free=True)(image, probabilities, region)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_normalised_kernel_against_its_matrix():
    """The kernel's matrix is read off the filter, pixel by pixel, and normalised by the sums over the region."""
    image, probabilities, region = case(height=4, width=5, classes=2, images=1)
    unit = torch.eye(20).reshape(1, 20, 4, 5)
    matrix = bilateral_filter(image, unit, 15, 3, symmetric=True)[0].flatten(1).T  # (pixel, pixel)
    inside = region.flatten().float()
    root = (matrix @ inside).clamp_min(1e-20).rsqrt() * inside
    normalised = root[:, None] * matrix * root
    s = probabilities[0].flatten(1)
    energy = (s @ normalised * s).sum()
    for size_free, expected in ((False, -energy), (True, -energy / normalised.sum())):
        layer = DenseCRFLoss(1.0, 15, 3, 1.0, exact_gradient=True, size_free=size_free, normalised_kernel=True)
        assert layer(image, probabilities, region).item() == pytest.approx(expected.item(), rel=1e-4)


def test_normalised_kernel_weighs_a_speckled_patch_like_a_plain_one():
    """Half of the image is plain and half noise; the gradient at each is compared, for the two kernels."""
    torch.manual_seed(0)
    image = torch.full((1, 3, 32, 32), 128.0)
    image[..., 16:] = 255 * torch.rand(1, 3, 32, 16)
    ratios = []
    for normalised in (False, True):
        s = torch.full((1, 2, 32, 32), 0.5, requires_grad=True)
        layer = DenseCRFLoss(1.0, 15, 10, 1.0, size_free=True, normalised_kernel=normalised)
        layer(image, s, torch.ones(1, 32, 32)).backward()
        plain, speckled = s.grad[..., :16].abs().mean(), s.grad[..., 16:].abs().mean()
        ratios.append((speckled / plain).item())
    assert ratios[0] < 0.1 and 0.5 < ratios[1] < 1.5


@pytest.mark.parametrize("size_free", [False, True])
def test_an_empty_region_costs_nothing_and_has_no_gradient(size_free):
    image, probabilities, region = case()
    probabilities.requires_grad_()
    loss = DenseCRFLoss(1.0, 15, 20, 1.0, size_free=size_free)(image, probabilities, torch.zeros_like(region))
    loss.backward()
    assert loss.item() == 0
    assert not probabilities.grad.any()


def test_nothing_outside_the_region_matters_but_the_image():
    image, probabilities, region = case()
    layer = DenseCRFLoss(1.0, 15, 20, 1.0)
    other = torch.where(region[:, None] == 1, probabilities, probabilities.roll(1, 1)).requires_grad_()
    loss = layer(image, other, region)
    loss.backward()
    assert loss.item() == layer(image, probabilities, region).item()
    assert not other.grad[(region == 0)[:, None].expand_as(other)].any()


def test_scaling_samples_as_the_original_for_odd_sizes():
    """513 * 0.5 gives 256 pixels sampled with step 2, which `size=256` would not."""
    image, probabilities, region = case(height=13, width=13, images=1)
    layer = DenseCRFLoss(1.0, 15, 20, 0.5)
    small = torch.nn.functional.interpolate(probabilities, scale_factor=0.5, mode="bilinear", align_corners=False)
    expected = DenseCRFLossFunction.apply(image[:, :, :12:2, :12:2], small, 15, 10, region[:, :12:2, :12:2])
    assert layer(image, probabilities, region).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    image, probabilities, region = case()
    layer = DenseCRFLoss(1e-3, 15, 20, 0.5)
    rounded = probabilities.to(dtype)
    s = rounded.clone().requires_grad_()
    reference = rounded.float().requires_grad_()
    loss, expected = layer(image, s, region), layer(image, reference, region)
    loss.backward()
    expected.backward()
    assert loss.dtype == s.grad.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert relative_error(s.grad.float(), reference.grad) < 1e-2


def test_float16_does_not_overflow_at_full_scale():
    """The energy of 128x128 pixels is beyond float16's 65504 before its weight makes it small, and 2e-9 below."""
    image, probabilities, region = case(height=128, width=128, images=1)
    image = torch.full_like(image, 100)
    half = probabilities.half().requires_grad_()
    reference = half.detach().float().requires_grad_()
    layer = DenseCRFLoss(2e-9, 15, 80, 1.0)
    loss, expected = 1000 * layer(image, half, region).float(), 1000 * layer(image, reference, region)
    loss.backward()
    expected.backward()
    assert expected.item() < -65504 * 2e-9 * 1000
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert half.grad.any()


def test_inputs_are_not_changed_and_regions_may_be_boolean():
    image, probabilities, region = case()
    copies = [tensor.clone() for tensor in (image, probabilities, region)]
    s = probabilities.requires_grad_()
    loss = DenseCRFLoss(1.0, 15, 20, 0.5)(image, s, region)
    loss.backward()
    for tensor, copy in zip((image, probabilities.detach(), region), copies, strict=True):
        assert tensor.shape == copy.shape and torch.equal(tensor, copy)
    assert DenseCRFLoss(1.0, 15, 20, 0.5)(image, s, region.bool()).item() == loss.item()


def test_weight_and_incoming_gradient_multiply():
    image, probabilities, region = case()
    grads = []
    for weight, factor in ((1.0, 6.0), (2.0, 3.0)):
        s = probabilities.clone().requires_grad_()
        (factor * DenseCRFLoss(weight, 15, 20, 1.0)(image, s, region)).backward()
        grads.append(s.grad)
    assert relative_error(*grads) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, s, r: (i[:, :2], s, r), r"images must be \(2, 3, 12, 10\)"),
        (lambda i, s, r: (i[:1], s, r), "images must be"),
        (lambda i, s, r: (i, s[0], r), "segmentations must be floating"),
        (lambda i, s, r: (i, s.long(), r), "segmentations must be floating"),
        (lambda i, s, r: (i, s, r[:, None]), r"regions_of_interest must be \(2, 12, 10\)"),
        (lambda i, s, r: (i / 127 - 1, s, r), "not normalised"),
        (lambda i, s, r: (i * 2, s, r), "0..255"),
        (lambda i, s, r: (i, s * 9 - 3, r), "must be probabilities"),
        (lambda i, s, r: (i, s * float("nan"), r), "must be probabilities"),
        (lambda i, s, r: (i, s, r * 0.5), "only 0 and 1"),
        (lambda i, s, r: (i, s.to("meta"), r), "one device"),
        (lambda i, s, r: (i.numpy(), s, r), "images: expected a tensor, found numpy.ndarray"),
        (lambda i, s, r: (i, s.numpy(), r), "segmentations: expected a tensor, found numpy.ndarray"),
        (lambda i, s, r: (i, s, r.tolist()), "regions_of_interest: expected a tensor, found list"),
        (lambda i, s, r: (i[..., :0, :], s[..., :0, :], r[..., :0, :]), "must not be empty"),
    ],
)
def test_bad_inputs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DenseCRFLoss(1.0, 15, 20, 1.0)(*change(*case()))


def test_bad_settings_are_refused():
    for settings in ((1, 0, 20, 1), (1, 15, -1, 1), (1, 15, float("inf"), 1), (1, 15, 20, 0), (1, 15, 20, 1.5)):
        with pytest.raises(ValueError, match="must"):
            DenseCRFLoss(*settings)
    with pytest.raises(ValueError, match="weight must be a number, found the text '2e-9'"):
        DenseCRFLoss("2e-9", 15, 100, 0.5)
    with pytest.raises(ValueError, match="leaves nothing"):
        DenseCRFLoss(1.0, 15, 20, 0.05)(*case())


def test_an_image_in_0_to_1_is_pointed_out():
    image, probabilities, region = case()
    with pytest.warns(UserWarning, match="expected 0..255"):
        DenseCRFLoss(1.0, 15, 20, 1.0)(image / 255, probabilities, region)


@pytest.mark.parametrize("exact_gradient", [False, True])
@pytest.mark.parametrize("size_free", [False, True])
def test_forward_and_backward_filter_once(monkeypatch, exact_gradient, size_free):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments[1].shape[1])
        return bilateral_filter(*arguments, **options)

    monkeypatch.setattr(densecrf, "bilateral_filter", counted)
    image, probabilities, region = case()
    s = probabilities.requires_grad_()
    DenseCRFLoss(1.0, 15, 20, 0.5, exact_gradient=exact_gradient, size_free=size_free)(image, s, region).backward()
    assert calls == [3 + size_free]


@pytest.mark.parametrize("size_free", [False, True])
def test_exact_gradient_does_not_change_the_energy(size_free):
    image, probabilities, region = case(height=40, width=30)
    energies = [
        DenseCRFLoss(1.0, 15, 20, 1.0, exact_gradient=exact, size_free=size_free)(image, probabilities, region)
        for exact in (False, True)
    ]
    assert energies[0].item() == pytest.approx(energies[1].item(), rel=1e-5)


def test_backward_twice_gives_the_same_gradient():
    image, probabilities, region = case()
    s = probabilities.requires_grad_()
    loss = DenseCRFLoss(1.0, 15, 20, 1.0)(image, s, region)
    first, second = (torch.autograd.grad(loss, s, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_loss_works_as_a_copy_in_another_project(tmp_path):
    """Regression: the two parts that the README says to copy imported a third."""
    shutil.copy(CODE / "DenseCRFLoss.py", tmp_path)
    shutil.copytree(CODE / "filtering", tmp_path / "filtering")
    words = "import torch; from DenseCRFLoss import DenseCRFLoss; x = torch.ones(1, 3, 9, 9)"
    words += "; print(DenseCRFLoss(1.0, 15, 20, 1.0)(100 * x, x[:, :2] / 2, x[:, 0]).item())"
    environment = {**os.environ, "PYTHONPATH": ""}
    made = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert made.returncode == 0 and float(made.stdout) < 0, made.stderr


def test_there_is_no_second_derivative():
    """Regression: it was left out without a word where another loss has one."""
    image, probabilities, region = case()
    s = probabilities.requires_grad_()
    loss = (s**2).sum() + DenseCRFLoss(1.0, 15, 20, 1.0)(image, s, region)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(loss, s, create_graph=True)


@pretends_a_gpu
def test_on_a_gpu_the_host_reads_twice():
    """The five numbers of the checks in one transfer and the three of the filter, on pretended tensors."""
    with FakeTensorMode(), OnlyOnCuda(0.0, 255.0, 0.0, 1.0, 1.0, 500, 1, 1) as device:
        s = torch.empty(2, 3, 40, 41, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        region = torch.empty(2, 40, 41, device="cuda", dtype=torch.bool)
        layer = DenseCRFLoss(1.0, 15, 20, 0.5, exact_gradient=True, size_free=True)
        loss = layer(torch.empty(2, 3, 40, 41, device="cuda"), s, region)  # the backward needs a GPU even so
    assert (loss.device.type, loss.dtype) == ("cuda", s.dtype)
    assert not device.answers


@pytest.mark.gpu
@needs_cuda
def test_cuda_waits_twice():
    image, probabilities, region = (tensor.cuda() for tensor in case())
    s = probabilities.requires_grad_()
    layer = DenseCRFLoss(1.0, 15, 20, 0.5, size_free=True)
    assert cuda_synchronisations(lambda: layer(image, s, region).backward()) <= 2


@pytest.mark.gpu
@needs_cuda
def test_result_lives_on_the_gpu():
    image, probabilities, region = (tensor.cuda() for tensor in case())
    s = probabilities.requires_grad_()
    loss = DenseCRFLoss(1.0, 15, 20, 0.5)(image, s, region)
    loss.backward()
    assert loss.is_cuda and s.grad.is_cuda
    expected = DenseCRFLoss(1.0, 15, 20, 0.5)(image.cpu(), s.detach().cpu(), region.cpu())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

"""The training step: what the regularisers get, and what it waits for."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench_scores import Given, Large
from DenseCRFLoss import DenseCRFLoss
from filtering import Lattice
from losses.cross_entropy import PartialCrossEntropy
from losses.densecrf import DenseCRF
from losses.kernel_cut import KernelCut
from losses.normalized_cut import NormalizedCut
from modeling.deeplab import DeepLab
from training import in_parts
from training.step import NotFinite, TrainingStep

CLASSES, SIDE = 3, 32


class Spy(nn.Module):
    """A regulariser that keeps what it was called with."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, image, probabilities, region_of_interest, labels, features):
        self.seen = image, probabilities, region_of_interest, labels, features
        return self.weight * probabilities.square().sum((1, 2, 3)).mean()


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for a device: reading one number of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def make_step(*regularisers: nn.Module, **options) -> TrainingStep:
    torch.manual_seed(0)
    model = DeepLab(CLASSES, "mobilenet")
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=1e-3, momentum=0.9)
    named = {type(regulariser).__name__: regulariser for regulariser in regularisers}
    return TrainingStep(model, optimizer, PartialCrossEntropy(ignore_index=255), named, **options)


def make_batch(images: int = 4) -> dict:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(CLASSES, (images, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    label[:, ::2] = 255
    label[:, :, 28:] = 254
    image = torch.randint(256, (images, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return {"image": image, "label": label, "name": [f"image {number}" for number in range(images)]}


def test_a_regulariser_gets_the_image_as_it_was_read_and_what_it_names():
    spy, batch = Spy(), make_batch()
    make_step(spy)(batch)
    image, probabilities, region, labels, features = spy.seen
    assert image.dtype == torch.float32 and torch.equal(image, batch["image"].float())
    assert torch.allclose(probabilities.sum(1), torch.ones(4, SIDE, SIDE), atol=1e-5)
    assert torch.equal(region, batch["label"] != 254)
    expected = batch["label"].long()
    expected[expected == 254] = 255
    assert torch.equal(labels, expected)
    assert features.shape == (4, 256, SIDE // 4, SIDE // 4) and features.requires_grad


def test_micro_batches_add_up_to_the_batch():
    whole, parts = (make_step(Spy(), accumulate=number) for number in (1, 2))
    for step in (whole, parts):
        step.network.freeze_bn = True
        step.network.train()
        for module in step.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0
    expected, found = whole.gradients(make_batch()), parts.gradients(make_batch())
    assert found.keys() == {"cross_entropy", "Spy"}
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-5)


def test_a_step_with_a_regulariser_does_not_wait_for_the_device():
    step = make_step(Spy())
    with Waits() as waits:
        step(make_batch())
    # One number, that of the images, is read of a tensor which lies on the CPU on every machine.
    assert waits.count == 1


def test_the_first_losses_are_inspected_once():
    seen = []
    step = make_step(Spy(), inspect=lambda terms, logits: seen.append((list(terms), logits.shape)))
    step(make_batch())
    step(make_batch())
    assert seen == [(["cross_entropy", "Spy"], (4, CLASSES, SIDE, SIDE))]


class Refuses(nn.Module):
    def forward(self, image, probabilities, region_of_interest):
        if not probabilities.isfinite().all():
            raise ValueError("expected probabilities")
        return probabilities.mean()


def test_the_cross_entropy_is_blamed_where_the_network_is_the_cause():
    step = make_step(Refuses())
    with torch.no_grad():
        step.network.decoder.last_conv[8].bias.fill_(float("nan"))
    with pytest.raises(NotFinite) as caught:
        step(make_batch())
    assert caught.value.name == "cross_entropy"


class Small(nn.Module):
    """A regulariser of the logits."""

    def forward(self, image, probabilities, region_of_interest, logits):
        return logits.square().mean()


def step_on(scores: torch.Tensor, *regularisers: nn.Module, **options) -> TrainingStep:
    network, named = Given(scores), {type(regulariser).__name__: regulariser for regulariser in regularisers}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    return TrainingStep(network, optimizer, PartialCrossEntropy(ignore_index=255), named, **options)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, in_parts.AT_ONCE])
@pytest.mark.parametrize("named", [Spy, Small])
def test_losses_in_parts_are_those_of_the_batch_in_float32(monkeypatch, layout, dtype, at_once, named):
    monkeypatch.setattr(in_parts, "AT_ONCE", at_once)
    batch, densecrf = make_batch(3), DenseCRFLoss(1e-5, 15, 20, 0.5)
    scores = torch.randn(3, CLASSES, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = scores.contiguous(memory_format=layout)
    step = step_on(scores, densecrf, named())
    losses = step.gradients(batch)

    plain = scores.detach().float().requires_grad_()
    labels, region = batch["label"].long(), batch["label"] != 254
    soft = plain.softmax(1)
    expected = {
        "cross_entropy": step.criterion(plain, labels.masked_fill(~region, 255)),
        "DenseCRFLoss": densecrf(batch["image"].float(), soft, region),
        named.__name__: plain.square().mean() if named is Small else soft.square().sum((1, 2, 3)).mean(),
    }
    sum(expected.values()).backward()
    assert losses == {name: pytest.approx(value.item(), rel=1e-6) for name, value in expected.items()}
    gradient = step.network.scores.grad
    assert gradient.dtype == dtype and gradient.is_contiguous(memory_format=layout)
    assert torch.allclose(gradient.float(), plain.grad.to(dtype).float(), rtol=1e-5 if dtype == torch.float32 else 0)


def test_a_step_makes_no_other_tensor_of_the_scores_size_than_their_gradient(monkeypatch):
    monkeypatch.setattr(in_parts, "AT_ONCE", 1)
    scores = torch.randn(4, 21, SIDE, SIDE).bfloat16()
    step = step_on(scores, DenseCRFLoss(1e-5, 15, 20, 0.5))
    batch = make_batch()
    with Large(scores.numel()) as large:
        step.gradients(batch)
    assert large.count == 1 and step.network.scores.grad is not None


@pytest.mark.parametrize("at_once", [1, in_parts.AT_ONCE])
def test_what_has_no_gradient_adds_none(monkeypatch, at_once):
    monkeypatch.setattr(in_parts, "AT_ONCE", at_once)
    scores = torch.randn(3, CLASSES, 4, 4, requires_grad=True)
    labels = torch.zeros(3, 4, 4, dtype=torch.int64)
    total, soft = in_parts.in_parts(lambda part, seen: (part.sum(), part.softmax(1).detach()), scores, labels)
    (total + soft.sum()).backward()
    assert (scores.grad == 1).all()


def test_small_gradients_can_be_inspected_in_float16():
    slopes = []

    def inspect(terms, scores):
        slopes.extend(torch.autograd.grad(term, scores, retain_graph=True)[0].abs().max() for term in terms.values())

    scores = torch.randn(2, CLASSES, SIDE, SIDE).half()
    step_on(scores, DenseCRFLoss(1e-10, 15, 20, 0.5), amp="fp16", inspect=inspect).gradients(make_batch(2))
    assert len(slopes) == 2 and min(slopes) > 0


class OwnForward(DenseCRFLoss):
    """A loss derived from another one, which computes something else."""

    def forward(self, images, segmentations, regions_of_interest):
        return segmentations.sum() * 0 + 7


def test_a_derived_loss_is_its_own_forward():
    step = step_on(torch.randn(2, CLASSES, SIDE, SIDE), OwnForward(1.0, 15, 20, 0.5))
    assert step.gradients(make_batch(2))["OwnForward"].item() == 7


def test_losses_with_the_same_kernel_share_a_lattice(monkeypatch):
    built = []

    class Counted(Lattice):
        def __init__(self, *arguments):
            built.append(arguments[1:])
            super().__init__(*arguments)

    monkeypatch.setattr("DenseCRFLoss.Lattice", Counted)
    scores = torch.randn(2, CLASSES, SIDE, SIDE)
    kernel = {"sigma_rgb": 15, "sigma_xy": 20, "rloss_scale": 0.5}
    several = DenseCRF(1e-5, **kernel), NormalizedCut(0.1, **kernel), KernelCut(0.1, **kernel | {"sigma_xy": 30})
    together = step_on(scores, *several)
    losses = together.gradients(make_batch(2))
    assert built == [(15, 10)]
    alone = [step_on(scores, one).gradients(make_batch(2)) for one in several]
    assert built == [(15, 10)] and losses == {name: value for one in alone for name, value in one.items()}

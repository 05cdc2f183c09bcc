"""Cross-entropies by hand, the registry of regularisers, and a regulariser from outside."""

import math

import pytest
import torch
from torch import nn

import losses
from common.errors import InputError
from dataloaders import DataOptions
from losses import build_regulariser, parse_regulariser, register
from losses.cross_entropy import PartialCrossEntropy, balanced_class_weights
from losses.registry import FACTORIES, apply_regulariser, describe_regularisers, settings_of
from training import TrainOptions

LOGITS = torch.tensor([[[[2.0, 0.0, 1.0]], [[0.0, 0.0, 3.0]]]] * 2)  # (2, 2, 1, 3)
LABELS = torch.tensor([[[0, 1, 255]], [[255, 255, 1]]])
# Three labelled pixels: -log softmax of the true class.
TERMS = [math.log(1 + math.exp(-2)), math.log(2), math.log(1 + math.exp(-2))]


def loss(logits=LOGITS, labels=LABELS, kind="ce", **options) -> float:
    return PartialCrossEntropy(kind, ignore_index=255, **options)(logits, labels).item()


def test_cross_entropy_is_the_mean_over_labelled_pixels_over_the_batch_size():
    mean = sum(TERMS) / 3
    assert loss() == pytest.approx(mean / 2)
    assert loss(reduction="mean") == pytest.approx(mean)


def test_focal_loss_is_the_originals_formula():
    mean = sum(TERMS) / 3
    assert loss(kind="focal") == pytest.approx(0.5 * mean * (1 - math.exp(-mean)) ** 2 / 2)


def test_class_weights_weight_the_mean():
    weights = torch.tensor([3.0, 1.0])
    mean = (3 * TERMS[0] + TERMS[1] + TERMS[2]) / 5
    assert loss(class_weights=weights) == pytest.approx(mean / 2)


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 1.0])])
def test_a_batch_without_labels_costs_nothing(weights):
    logits = LOGITS.clone().requires_grad_()
    value = PartialCrossEntropy(ignore_index=255, class_weights=weights)(logits, torch.full_like(LABELS, 255))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_half_precision_logits_are_computed_in_float32():
    assert PartialCrossEntropy(ignore_index=255)(LOGITS.half(), LABELS).dtype == torch.float32


@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 1.0])])
def test_where_it_has_to_be_deterministic_no_sum_is_taken_that_a_gpu_refuses(weights, monkeypatch):
    expected = loss(class_weights=weights)
    reductions, cross_entropy = [], torch.nn.functional.cross_entropy

    def watched(*args, reduction, **how):
        reductions.append(reduction)
        return cross_entropy(*args, reduction=reduction, **how)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    torch.use_deterministic_algorithms(True)
    try:
        assert loss(class_weights=weights) == pytest.approx(expected)
    finally:
        torch.use_deterministic_algorithms(False)
    assert reductions == ["none"]


def test_balanced_weights_are_the_originals():
    weights = balanced_class_weights(torch.tensor([90, 10, 0]))
    assert weights.tolist() == pytest.approx([1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)])


def test_an_unknown_regulariser_is_answered_with_the_known():
    with pytest.raises(InputError, match="regulariser: expected one of densecrf, .*, found 'nothing'"):
        parse_regulariser("nothing=1")


def test_a_name_is_registered_once():
    @register("twice")
    def build(weight, options):
        return nn.Identity()

    try:
        with pytest.raises(ValueError, match="registered already"):
            register("twice")(build)
    finally:
        del FACTORIES["twice"]


class Disc(nn.Module):
    """Prefers round things."""

    def __init__(self, weight: float, *, radius: int = 5, sigma_rgb: float = 0.1, wrap: bool = False) -> None:
        super().__init__()
        self.weight, self.radius, self.sigma_rgb, self.wrap = weight, radius, sigma_rgb, wrap

    def forward(self, image, probabilities, region_of_interest, labels, logits):
        self.seen = labels, logits
        return self.weight * probabilities.mean()


@pytest.fixture
def disc():
    register("disc")(Disc)
    yield
    del FACTORIES["disc"]


def test_settings_are_the_keywords_of_the_constructor(disc):
    assert settings_of("disc") == {"radius": 5, "sigma_rgb": 0.1, "wrap": False}
    wanted = parse_regulariser("disc=0.5,radius=3,wrap=true")
    assert (wanted.name, wanted.weight, wanted.settings) == ("disc", 0.5, {"radius": 3, "wrap": True})
    built = build_regulariser(wanted, {})
    assert (built.weight, built.radius, built.sigma_rgb, built.wrap) == (0.5, 3, 0.1, True)
    assert "disc: Prefers round things." in describe_regularisers() and "    radius=5" in describe_regularisers()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disc", "expected a number, found '' in 'disc'"),
        ("disc=-1", "a weight of 0 or more, found 'disc=-1'"),
        ("disc=1,size=3", "disc has no setting 'size'; it has: radius, sigma_rgb, wrap"),
        ("disc=1,radius=3,radius=4", "expected each setting once, found radius twice"),
        ("disc=1,radius=3.5", "expected an integer, found '3.5'"),
        ("disc=1,wrap=maybe", "expected True or False, found 'maybe'"),
    ],
)
def test_what_cannot_be_parsed_is_named(disc, text, said):
    with pytest.raises(InputError, match=said):
        parse_regulariser(text)


def test_forward_gets_what_it_names(disc):
    built, (image, soft, region) = build_regulariser(parse_regulariser("disc=1"), {}), torch.rand(3, 2, 3, 4, 4)
    apply_regulariser(built, image, soft, region, labels="labels", logits="logits", features="features")
    assert built.seen == ("labels", "logits")


@pytest.mark.parametrize("name", ["options", "args"])
def test_a_builder_may_ask_for_the_options_of_the_training(name):
    """The way in which regularisers were declared before they had settings: `options` was the parsed command line."""
    scope = {"Disc": Disc}
    exec(f"def build(weight, {name}): return Disc(weight * {name}.batch_size, sigma_rgb={name}.sigma_rgb)", scope)
    register("old")(scope["build"])
    try:
        settings = TrainOptions(sigma_rgb=7.0, data=DataOptions(batch_size=4)).settings()
        built = build_regulariser(parse_regulariser("old=2"), settings)
        assert (built.weight, built.sigma_rgb) == (8.0, 7.0)
    finally:
        del FACTORIES["old"]


def test_the_first_three_inputs_may_have_any_names():
    class Old(nn.Module):
        def forward(self, images, labels, region):
            return labels.mean()

    soft = torch.rand(2, 3, 4, 4)
    inputs = {"labels": None, "logits": None, "features": None}
    assert apply_regulariser(Old(), soft, soft, soft, **inputs) == soft.mean()


@pytest.mark.parametrize(
    ("returned", "found"),
    [(torch.zeros(2), r"the shape \(2,\)"), (torch.zeros(1), r"the shape \(1,\)"), (0.5, "0.5"), (None, "None")],
)
def test_what_is_no_scalar_is_refused(returned, found):
    """Regression: errors about a Scalar, about sizes of a stack, and about `item`."""

    class Wrong(nn.Module):
        def forward(self, image, probabilities, region_of_interest):
            return returned

    with pytest.raises(InputError, match=f"Wrong: expected forward to return a scalar, .* found {found}"):
        apply_regulariser(Wrong(), None, None, None)


def test_densecrf_by_name_takes_the_options_of_the_loss():
    options = TrainOptions(regulariser=("densecrf=2,sigma_rgb=9",), sigma_xy=20.0, size_free=True)
    (wanted,) = options.regularisers
    built = build_regulariser(wanted, options.settings())
    assert (built.weight, built.sigma_rgb, built.sigma_xy, built.size_free) == (2, 9, 20, True)


def test_a_file_that_cannot_be_used_does_not_hide_the_others(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "_helpers.py").write_text("")
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    text = describe_regularisers()
    assert "broken: cannot be used: ZeroDivisionError" in text and "densecrf: " in text and "_helpers" not in text
    with pytest.raises(ZeroDivisionError):
        TrainOptions(regulariser=("broken=1",))


class Ranked(nn.Module):
    """Settings whose type only their annotation says, and one that no command line can give."""

    def __init__(self, weight: float, *, alpha: float, top: int | None = None, scales: tuple = (1.0, 0.5)) -> None:
        super().__init__()
        self.settings = alpha, top, scales

    def forward(self, probabilities, image, region_of_interest):
        return probabilities.mean()


def test_a_setting_without_a_default_has_the_type_of_its_annotation():
    register("ranked")(Ranked)
    try:
        built = build_regulariser(parse_regulariser("ranked=1,alpha=0.5,top=3"), {})
        assert built.settings == (0.5, 3, (1.0, 0.5))
        with pytest.raises(InputError, match="ranked: expected a setting of bool, int, float, str .* found `scales"):
            parse_regulariser("ranked=1,alpha=1,scales=0.5")
        with pytest.raises(InputError, match=r"Ranked: expected forward\(image, probabilities, region_of_interest"):
            apply_regulariser(built, None, None, None)
    finally:
        del FACTORIES["ranked"]

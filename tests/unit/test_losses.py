"""Cross-entropies by hand, the registry of regularisers, and a regulariser from outside."""

import math

import pytest
import torch
from torch import nn

from common.errors import InputError
from losses import parse_regulariser, register
from losses.cross_entropy import PartialCrossEntropy, balanced_class_weights
from losses.registry import FACTORIES

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


def test_balanced_weights_are_the_originals():
    weights = balanced_class_weights(torch.tensor([90, 10, 0]))
    assert weights.tolist() == pytest.approx([1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)])


def test_an_unknown_regulariser_is_answered_with_the_known():
    with pytest.raises(InputError, match="no regulariser is called 'nothing'; there are: densecrf"):
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

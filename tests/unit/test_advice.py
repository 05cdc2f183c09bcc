"""What a run says early about itself."""

import math

import pytest
import torch

from helpers import train
from losses.cross_entropy import PartialCrossEntropy
from training.advice import guessing_loss, progress_advice, steps_advice


@pytest.mark.parametrize("kind", ["ce", "focal"])
@pytest.mark.parametrize("reduction", ["batch", "mean"])
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 2.0, 3.0, 7.0])])
def test_guessing_costs_what_the_criterion_says_of_it(kind, reduction, class_weights):
    counts = torch.tensor([60, 30, 10, 0])
    criterion = PartialCrossEntropy(kind, ignore_index=255, class_weights=class_weights, reduction=reduction)
    options = {"class_weights": class_weights, "kind": kind, "reduction": reduction}
    guess = (counts * (1 if class_weights is None else class_weights)).double().clamp_min(1e-30).log()
    labels = torch.repeat_interleave(torch.arange(4), counts).view(1, 10, 10).repeat(2, 1, 1)

    def loss(logits):
        return criterion(logits.float().view(1, 4, 1, 1).expand(2, 4, 10, 10), labels).item()

    expected = guessing_loss(counts, [2, 2], **options)
    assert loss(guess) == pytest.approx(expected, rel=1e-5)
    for k in range(3):  # and no other guess is cheaper
        assert loss(guess + 0.1 * torch.eye(4)[k]) > expected


def test_guessing_costs_more_in_a_short_batch():
    """Regression: the loss is divided by the images that a batch has, and a false alarm was given on ten images."""
    halves = torch.tensor([1, 1])
    assert guessing_loss(halves, [8, 2]) == pytest.approx((1 / 8 + 1 / 2) / 2 * math.log(2))
    assert guessing_loss(halves, [8, 2], reduction="mean") == pytest.approx(math.log(2))


def test_a_run_of_few_steps_is_told_how_many_epochs_it_wants():
    assert "90 steps in all are few: fine-tuning needs at least 100 (--epochs 34)" in steps_advice(3, 30)
    assert steps_advice(3, 34) is None and steps_advice(1000, 1) is None


def test_a_loss_that_stays_at_guessing_is_reported_once_and_early():
    def told(losses, steps_per_epoch):
        history, told = [], []
        for loss in losses:
            history.append({"losses": {"cross_entropy": loss}})
            told.append(progress_advice(history, steps_per_epoch, 1.0) is not None)
        return [index + 1 for index, one in enumerate(told) if one]

    assert told([1.2] * 50, 10) == [10]
    assert told([1.2] * 50, 3) == [34]
    assert told([1.2] * 5, 2000) == [2]
    assert told([1.2] * 9 + [0.9] * 20, 10) == []
    assert progress_advice([{"losses": {"cross_entropy": 1.2}}] * 10, 10, 1.0, early=300) is None


def test_training_warns_of_both(voc, capsys, monkeypatch):
    monkeypatch.setattr("training.build.EARLY_FROM_RANDOM", 4)
    assert train(voc, "--epochs", 3, "--lr", 1e-12, "--no-val") == 0
    printed = capsys.readouterr().out
    assert "optimisation: 6 steps (3 epochs of 2)" in printed
    assert "WARNING: 6 steps in all are few" in printed and "--epochs 50" in printed
    assert printed.count("nothing is learned yet") == 1


def test_a_collapse_is_noticed_when_it_happens():
    def told(*cross_entropies: float, **others: float) -> str | None:
        history = [{"losses": {"cross_entropy": value, **others}} for value in cross_entropies]
        return progress_advice(history, 75, 1.3)

    assert told(0.8, 0.7, densecrf=-6) is None
    assert "collapses to few classes, because densecrf outweighs" in told(0.8, 1.5, densecrf=-6)
    assert told(0.8, 1.5, 1.6, densecrf=-6) is None  # once
    assert told(0.8, 1.5, 1.2, 1.5, densecrf=-6) is None
    assert told(1.3, 1.2, 1.25, densecrf=-6) is None  # it jitters before anything is learned
    assert "lower the weight of densecrf" in told(1.6, 1.5, densecrf=-6)  # a second stage that begins with it
    assert "nothing is learned" in told(0.8, 1.5) and "densecrf" not in told(0.8, 1.5)

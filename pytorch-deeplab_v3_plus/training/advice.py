"""Early warnings: is a run long enough, has it learned anything yet?"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losses.cross_entropy import focal

FEW_STEPS = 100  # of fine-tuning; measured, see docs/data.md
EARLY = 100  # steps after which the loss of a pretrained network has to have fallen
EARLY_FROM_RANDOM = 300  # of a random one; after 100 it often has not, and learns well later
FALLEN = 0.95  # below this share of the loss of guessing


def steps_advice(steps_per_epoch: int, epochs: int) -> str | None:
    """Return what to do about a run of too few steps, or None."""
    steps = steps_per_epoch * epochs
    if steps >= FEW_STEPS:
        return None
    enough = -(-FEW_STEPS // steps_per_epoch)
    return (
        f"{steps} steps in all are few: fine-tuning needs at least {FEW_STEPS} (--epochs {enough}), training from "
        "random weights thousands"
    )


def guessing_loss(
    class_counts: Tensor,
    batch_sizes: Sequence[int],
    *,
    class_weights: Tensor | None = None,
    kind: str = "ce",
    reduction: str = "batch",
) -> float:
    """Return the lowest loss of a network that gives every pixel the same probabilities, whatever the image shows.

    They are the classes' (weighted) frequencies, and the cross-entropy is their entropy. Arguments as of
    losses.cross_entropy.PartialCrossEntropy, with the labelled pixels of each class and the images of each batch of an
    epoch, over which the loss is averaged.
    """
    share = class_counts.double() * (1 if class_weights is None else class_weights.double())
    share /= share.sum()
    mean = torch.special.entr(share).sum()
    loss = focal(mean) if kind == "focal" else mean
    return loss.item() * (statistics.mean(1 / images for images in batch_sizes) if reduction == "batch" else 1)


def progress_advice(
    history: Sequence[dict[str, Any]], steps_per_epoch: int, guessing: float, early: int = EARLY
) -> str | None:
    """Return what to do about a cross-entropy that is still that of guessing, once, after `early` steps; else None.

    Args:
        history: the records of the epochs so far (of scores.jsonl).
        steps_per_epoch: steps in an epoch.
        guessing: what guessing_loss gave.
        early: EARLY, or EARLY_FROM_RANDOM.
    """
    epochs = max(2, -(-early // steps_per_epoch))  # the first epoch's mean holds the start
    loss = history[-1]["losses"]["cross_entropy"]
    if len(history) != epochs or loss < FALLEN * guessing:
        return None
    return (
        f"the cross-entropy is {loss:.3g} after {epochs * steps_per_epoch} steps, and guessing by how frequent the "
        f"classes are gives {guessing:.3g}: nothing is learned yet. Look at the scribbles over their images, try "
        "another --lr (a tenth, or ten times this), or start from a trained network (--resume MODEL --ft)"
    )

"""Early warnings: is a run long enough, do its losses balance, has it learned anything yet?"""

import logging
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common import distributed
from losses.cross_entropy import focal

logger = logging.getLogger(__name__)

FEW_STEPS = 100  # of fine-tuning; measured, see docs/data.md
EARLY = 100  # steps after which the loss of a pretrained network has to have fallen
EARLY_FROM_RANDOM = 300  # of a random one; after 100 it often has not, and learns well later
EXPECT_OF_RANDOM = (
    "from random weights expect ragged blobs until after thousands of steps, and classes that are confused; "
    "--pretrained bundled (with --backbone mobilenet) or imagenet starts far ahead"
)
FALLEN, LEARNED = 0.95, 0.8  # shares of the loss of guessing below which it has fallen, and something is learned
NEGLIGIBLE, OVERWHELMING = 0.01, 0.95  # shares of one regulariser worth a warning: of loss and gradient; of gradient


def steps_advice(steps_per_epoch: int, epochs: int, steps: int | None = None) -> str | None:
    """Return what to do about a run of too few steps, or None; `steps` where they were asked for, not the epochs."""
    enough = f"--steps {FEW_STEPS}" if steps else f"--epochs {-(-FEW_STEPS // steps_per_epoch)}"
    steps = steps or steps_per_epoch * epochs
    if steps >= FEW_STEPS:
        return None
    return (
        f"{steps} steps in all are few: fine-tuning needs at least {FEW_STEPS} ({enough}), training from "
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

    They are the (weighted) frequencies of the classes, of which `class_counts` (K,) are the labelled pixels, and the
    cross-entropy is their entropy. With the reduction `batch` it is divided by the images of each batch, and the mean
    is taken over the batches of an epoch (`batch_sizes`). For the rest see PartialCrossEntropy.
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

    With a regularised loss also where it is so again, which is a collapse. `history` are the records of the epochs so
    far (of scores.jsonl), and `guessing` is what guessing_loss gave.
    """
    epochs = max(2, -(-early // steps_per_epoch))  # the first epoch's mean includes the start
    losses = history[-1]["losses"]
    *earlier, loss = (record["losses"]["cross_entropy"] for record in history)
    regularisers = " and ".join(name for name in losses if name != "cross_entropy")
    learned = [value < LEARNED * guessing for value in earlier]
    risen = regularisers and any(learned) and all(value < FALLEN * guessing for value in earlier[learned.index(True) :])
    if loss < FALLEN * guessing or not (risen or len(history) == epochs):
        return None
    comparison = f"the cross-entropy is {loss:.3g} after {len(history) * steps_per_epoch} steps"
    comparison += f", and guessing by how frequent the classes are gives {guessing:.3g}"
    if risen:
        return (
            f"{comparison}: the network collapses to few classes, because {regularisers} outweighs the scribbles. "
            "Lower its weight to a half or less, or --lr, or narrow its kernel"
        )
    return (
        f"{comparison}: nothing is learned yet. Look at the scribbles over their images, try another --lr (a tenth, or "
        "ten times this), or start from a trained network (--resume MODEL --ft)"
        + (f"; or lower the weight of {regularisers}" if regularisers else "")
    )


def report_shares(terms: dict[str, Tensor], scores: Tensor) -> None:
    """Log the share of the regularisers in the loss and in its gradient at the scores, and warn where it is odd."""
    sizes = {name: abs(term.item()) for name, term in terms.items()}
    slopes = {name: slope(term, scores) for name, term in terms.items()}
    # Too large for float16, as terms are scaled there: in all processes or none, as backward passes exchange data.
    if distributed.any_process(not all(map(math.isfinite, slopes.values()))):
        slopes = {name: slope(term * 2.0**-16, scores) for name, term in terms.items()}
    for name in list(terms)[1:]:
        of_loss = sizes[name] / (sum(sizes.values()) or 1.0)
        of_gradient = slopes[name] / (sum(slopes.values()) or 1.0)
        shares = (percentage(of_loss), percentage(of_gradient))
        logger.info("%s: %s of the loss, %s of its gradient in the first step", name, *shares)
        if max(of_loss, of_gradient) < NEGLIGIBLE:
            logger.warning(
                "%s is negligible: it will change nothing. Raise its weight (the plain DenseCRF "
                "loss shrinks with the image; --size-free does not)",
                name,
            )
        elif OVERWHELMING < of_gradient < 1:  # all of it: the cross-entropy found no label in this micro-batch
            logger.warning("%s overwhelms the cross-entropy: expect one class everywhere. Lower its weight", name)


def slope(term: Tensor, scores: Tensor) -> float:
    """Return the norm of a term's gradient at the scores."""
    if not term.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(term, scores, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else gradient.float().norm().item()


def percentage(share: float) -> str:
    """Return a share as text with two digits that count."""
    return f"{100 * share:.0f} %" if share > 0.1 else f"{100 * share:.2g} %"

"""The balance of the losses: what share the regularisers have in the first step."""

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

NEGLIGIBLE, OVERWHELMING = 0.01, 0.95  # shares of one regulariser worth a warning: of loss and gradient; of gradient


def report_shares(terms: dict[str, Tensor], logits: Tensor) -> None:
    """Log the share of the regularisers in the loss and in its gradient at the logits, and warn where it is odd."""
    names = list(terms)
    sizes = [abs(terms[name].item()) for name in names]
    gradients = [
        torch.autograd.grad(terms[name], logits, retain_graph=True, allow_unused=True)[0]
        if terms[name].requires_grad
        else None
        for name in names
    ]
    norms = [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]
    for name, size, norm in zip(names[1:], sizes[1:], norms[1:], strict=True):
        of_loss = size / (sum(sizes) or 1.0)
        of_gradient = norm / (sum(norms) or 1.0)
        logger.info(
            "%s: %s of the loss, %s of its gradient in the first step",
            name,
            percentage(of_loss),
            percentage(of_gradient),
        )
        if max(of_loss, of_gradient) < NEGLIGIBLE:
            logger.warning(
                "%s is negligible: it will change nothing. Raise its weight (the plain DenseCRF "
                "loss shrinks with the image; --size-free with a weight of about 1 does not)",
                name,
            )
        elif of_gradient > OVERWHELMING:
            logger.warning("%s overwhelms the cross-entropy: expect one class everywhere. Lower its weight", name)


def percentage(share: float) -> str:
    """Return a share as text with two digits that count."""
    return f"{100 * share:.2g} %"

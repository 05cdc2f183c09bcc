"""Losses of a batch's scores, a few images at a time, so that little else is ever there of the scores' size."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

AT_ONCE = 1 << 23  # scores whose losses are computed at once: 32 MB in float32
OfPart = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def in_parts(function: OfPart, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return what `function` returns for scores (N, K, H, W), in float32, and labels (N, ...) of a batch.

    That is a scalar, which adds up over images, and any number of tensors (N, ...). A large batch is passed to it in
    parts, once more in the backward pass, so that nothing of what it computes on the way is kept. Scores are of any
    floating dtype; all gradients are added in float32 before they get it.
    """
    if scores.numel() <= AT_ONCE:
        return function(scores.float(), labels)
    return InParts.apply(function, scores, labels)


class InParts(Function):
    """`in_parts` for large batches."""

    @staticmethod
    def forward(ctx, function: OfPart, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(scores, labels)
        ctx.set_materialize_grads(False)
        found = [function(plain(part), seen) for part, seen in split(scores, labels)]
        scalars, *tensors = zip(*found, strict=True)
        return sum(scalars), *(torch.cat(values) for values in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scalar: Tensor | None, *grads: Tensor | None) -> tuple[None, Tensor, None]:
        scores, labels = ctx.saved_tensors
        gradient = torch.empty_like(scores)
        wanted = [number for number, grad in enumerate((grad_scalar, *grads)) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
        for part, seen, result, *given in split(scores, labels, gradient, *grads):
            with torch.enable_grad():
                part = plain(part.detach()).requires_grad_()
                found = ctx.function(part, seen)
            given = given if grad_scalar is None else [grad_scalar, *given]
            pairs = [(found[n], grad) for n, grad in zip(wanted, given, strict=True) if found[n].requires_grad]
            if pairs:
                values, slopes = zip(*pairs, strict=True)
                result.copy_(torch.autograd.grad(values, part, slopes)[0])
            else:
                result.zero_()
        return None, gradient, None


def split(scores: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors with a row for each image into parts."""
    # The less, the more of it stays in a processor's cache; for a GPU every part is work that the host has to start.
    images = 1 if scores.device.type == "cpu" else max(1, AT_ONCE // scores[0].numel())
    return zip(*(values.split(images) for values in (scores, *others)), strict=True)


def plain(scores: Tensor) -> Tensor:
    """Return scores in float32 and contiguous, as softmax and cross-entropy would make them, each for itself."""
    return scores.to(torch.float32, memory_format=torch.contiguous_format)

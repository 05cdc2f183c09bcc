"""Losses of a batch's scores, a few images at a time: nothing else that is as large as the scores is ever there."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

AT_ONCE = 1 << 23  # scores: one image of 513 pixels and 21 classes (22 MB in float32), or several smaller ones


class InParts(Function):
    """What a function gives for the images of a batch, and its gradient at their scores.

    The function is called once more in the backward pass, so that nothing of what it computes has to be kept. Its
    gradients are added in float32 before they become numbers of the scores' type.
    """

    @staticmethod
    def forward(ctx, function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], scores: Tensor, labels: Tensor):
        """Return the sum of the scalars, and then, joined, the tensors that `function` returns for parts of the batch.

        It gets scores (n, K, H, W), in float32 and contiguous, and labels (n, ...) of n images, and returns a scalar
        and any number of tensors (n, ...). Scores (N, K, H, W) are of any floating dtype and memory format.
        """
        ctx.function = function
        ctx.save_for_backward(scores, labels)
        ctx.set_materialize_grads(False)
        found = [function(plain(part), seen) for part, seen in parts(scores, labels)]
        scalars, *tensors = zip(*found, strict=True)
        return sum(scalars), *(torch.cat(values) for values in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scalar: Tensor | None, *grads: Tensor | None):
        scores, labels = ctx.saved_tensors
        gradient = torch.empty_like(scores)
        wanted = [number for number, grad in enumerate((grad_scalar, *grads)) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
        for part, seen, result, *some in parts(scores, labels, gradient, *grads):
            with torch.enable_grad():
                part = plain(part.detach()).requires_grad_()
                found = ctx.function(part, seen)
            given = some if grad_scalar is None else [grad_scalar, *some]
            result.copy_(torch.autograd.grad([found[number] for number in wanted], part, given)[0])
        return None, gradient, None


def parts(scores: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors that have a row for each image into parts of at most AT_ONCE scores, of one image at least."""
    images = max(1, AT_ONCE // max(1, scores[0].numel()))
    return zip(*(values.split(images) for values in (scores, *others)), strict=True)


def plain(scores: Tensor) -> Tensor:
    """Return scores in float32 and contiguous, as softmax and cross-entropy would make them, each for itself."""
    return scores.to(torch.float32, memory_format=torch.contiguous_format)

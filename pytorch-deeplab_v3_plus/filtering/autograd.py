"""What the hand-written gradients have in common."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def never_twice(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `backward` refuse to be differentiated again: what it returns would be taken for constant."""

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the gradient of this loss cannot be differentiated again (create_graph=True)")
        return backward(ctx, *gradients)

    return checked

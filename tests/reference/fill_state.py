"""Reproducible weights and input of the reference logits in this folder.

The logits are those of the original DeepLabv3+ code after filling its state dict as `filled_state` does, each entry
from its own name and shape alone: a compatible network with the same state returns the same.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent


def original_shapes(backbone: str) -> dict[str, list[int]]:
    """Every key of the original state dict, in its order, with its shape, for 21 classes."""
    return json.loads((FOLDER / f"state_dict_{backbone}.json").read_text())


def filled_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict of the reference logits: He-scaled weights, norms near 1, small biases, counters 0."""
    return {name: torch.as_tensor(_value(name, tuple(shape))) for name, shape in shapes.items()}


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if name.endswith("running_var"):
        value = 0.75 + 0.5 * rng.random_sample(shape)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:  # normalisation weight
        value = 1.0 + 0.1 * rng.standard_normal(shape)
    else:  # convolution weight
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    return value.astype(np.float32)


def reference_input(height: int = 65, width: int = 97) -> torch.Tensor:
    """The normalised image (1, 3, height, width), float32, of the reference logits."""
    rng = np.random.RandomState(20181)
    return torch.as_tensor(rng.standard_normal((1, 3, height, width)), dtype=torch.float32)

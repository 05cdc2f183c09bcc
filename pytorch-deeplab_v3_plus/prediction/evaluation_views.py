"""The network's prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dataloaders.transforms import normalize, resize_short_side, to_tensor


def predict_probabilities(
    model: nn.Module, images: Tensor, size: tuple[int, int], scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Return probabilities (N, K, *size) for normalised images (N, 3, h, w), averaged over scales and mirroring."""
    total: Tensor | float = 0.0
    for scale in scales:
        scaled = images
        if scale != 1:
            shape = [max(1, round(length * scale)) for length in images.shape[2:]]
            scaled = F.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=True)
        logits = [model(scaled)] + ([model(scaled.flip(3)).flip(3)] if flip else [])
        for values in logits:
            total = total + F.interpolate(values.float(), size, mode="bilinear", align_corners=True).softmax(1)
    return total / (len(scales) * (1 + flip))


@torch.inference_mode()
def predict(model: nn.Module, image: Image.Image, size: int) -> tuple[Tensor, Tensor]:
    """Segment a whole RGB image of any shape, its short side scaled to `size`.

    Returns:
        The network's input (1, 3, h, w) and logits (1, K, h, w) at the scaled size, on the model's device.
    """
    scaled = resize_short_side(image, size)
    inputs = normalize(to_tensor(scaled).unsqueeze(0).to(next(model.parameters()).device))
    training = model.training
    model.eval()
    logits = model(inputs)
    model.train(training)
    return inputs, logits


def label_map(logits: Tensor, height: int, width: int) -> Tensor:
    """Return the classes (height, width) uint8 of logits (1, K, h, w), scaled back to an image's own size."""
    return (
        F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=True)[0]
        .argmax(0)
        .to(torch.uint8)
        .cpu()
    )


def segment(model: nn.Module, image: Image.Image, size: int) -> np.ndarray:
    """Return the class map (H, W) uint8 of an RGB image at its own size."""
    return label_map(predict(model, image, size)[1], image.height, image.width).numpy()

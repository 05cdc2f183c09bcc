"""Make mobilenet_v2.pth from a Keras MobileNetV2: `python data/weights/from_keras.py MODEL.h5 mobilenet_v2.pth`.

Needs h5py (`pip install h5py`). The result has the feature layers alone, in half precision, under torchvision's names
and for its images: (x / 255 - mean) / std. Three things differ between the two, and are folded into the weights:

- Keras's images are x / 127.5 - 1. The first convolution is scaled by each channel's standard deviation, and its batch
  norm's mean shifted by what the channels' means add.
- Keras's batch norms add 1e-3 to the variance, PyTorch's 1e-5: the difference goes into the variance.
- Keras pads a stride of 2 at the bottom and right only, PyTorch on all sides: the same kernels then look at places half
  a stride further up and left. No weight changes.
"""

from __future__ import annotations

import argparse

import h5py
import numpy as np
import torch

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of torchvision's images
BLOCKS = 17  # features.1 to features.17
EXTRA_VARIANCE = 1e-3 - 1e-5


def convert(model: h5py.Group) -> dict[str, torch.Tensor]:
    """Return the state dict of torchvision's `features.0` to `features.17`, in half precision."""
    weights: dict[str, np.ndarray] = {}

    def convolution(name: str, source: str) -> None:
        kernel = model[source]["kernel"][()]
        # (height, width, in, out) becomes (out, in, height, width); a depthwise kernel is (height, width, channels, 1).
        weights[f"{name}.weight"] = (
            kernel.transpose(2, 3, 0, 1) if "depthwise" in source else kernel.transpose(3, 2, 0, 1)
        )

    def batch_norm(name: str, source: str) -> None:
        weights[f"{name}.weight"] = model[source]["gamma"][()]
        weights[f"{name}.bias"] = model[source]["beta"][()]
        weights[f"{name}.running_mean"] = model[source]["moving_mean"][()]
        weights[f"{name}.running_var"] = model[source]["moving_variance"][()] + EXTRA_VARIANCE

    convolution("features.0.0", "Conv1")
    batch_norm("features.0.1", "bn_Conv1")
    first = weights["features.0.0.weight"]
    # With y the normalised image, x / 127.5 - 1 = 2 * std * y + (2 * mean - 1) in each channel.
    weights["features.0.1.running_mean"] -= (first * (2 * MEAN - 1)[:, None, None]).sum((1, 2, 3))
    weights["features.0.0.weight"] = first * (2 * STD)[:, None, None]

    for block in range(1, BLOCKS + 1):
        keras, layer = "expanded_conv" if block == 1 else f"block_{block - 1}", 0
        for part in ("expand", "depthwise") if block > 1 else ("depthwise",):
            convolution(f"features.{block}.conv.{layer}.0", f"{keras}_{part}")
            batch_norm(f"features.{block}.conv.{layer}.1", f"{keras}_{part}_BN")
            layer += 1
        convolution(f"features.{block}.conv.{layer}", f"{keras}_project")
        batch_norm(f"features.{block}.conv.{layer + 1}", f"{keras}_project_BN")
    return {name: torch.from_numpy(np.ascontiguousarray(value)).half() for name, value in weights.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="Keras's .h5")
    parser.add_argument("target", help="PyTorch's .pth")
    args = parser.parse_args()
    try:
        with h5py.File(args.source) as file:
            models = [group for name, group in file["model_weights"].items() if name.startswith("mobilenetv2")]
            torch.save(convert(*models), args.target)
    except (OSError, KeyError, TypeError) as error:
        parser.error(f"{args.source}: expected the weights of one Keras MobileNetV2 ({error})")

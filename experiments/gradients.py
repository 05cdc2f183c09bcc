"""The picture of docs/losses.md: the gradient of each regularised loss on the same photograph and prediction.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/gradients.py --output docs/losses.png

The photograph, `coffee` of scikit-image (`pip install scikit-image`), has strokes on cup and background. The prediction
is made up: a blurred ellipse about where the cup is, too large on one side and too small on the other, and at its edge
unsure. A panel shows the gradient at the cup's probability less that at the background's, at each loss's own scale.
Takes seconds on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import exit_status
from dataloaders.transforms import resize_short_side, to_tensor
from figures.colours import scribble_picture
from figures.plotting import new_figure, save_figure
from losses import build_regulariser, parse_regulariser
from losses.registry import apply_regulariser
from scribbled_photographs import draw_strokes, photographs

import numpy as np
import torch
from PIL import Image

NAME, SIDE = "coffee", 161
SHOWN = {
    "DenseCRF": "densecrf=1,size_free=True,sigma_xy=50",
    "normalised cut": "normalized_cut=1,sigma_xy=50",
    "KernelCut": "kernel_cut=1,sigma_xy=50",
    "Gated CRF": "gated_crf=1,sigma_rgb=0.3",
    "Potts": "potts=1",
    "tree energy": "tree_energy=1,sigma=0.2",
    "size (at least 40 %)": "size=1,lower=0.4",
    "entropy": "entropy=1",
}
CLIPPED = 0.99  # quantile of the absolute gradient that gets the full colour


def prediction(height: int, width: int) -> np.ndarray:
    """Return the made-up probability of the cup, float32 (height, width)."""
    y, x = np.mgrid[0:height, 0:width] / height
    radius = np.hypot((x - 0.70) / 0.42, (y - 0.52) / 0.38)
    return (1 / (1 + np.exp(8 * (radius - 1)))).astype(np.float32)


def gradient(text: str, image: torch.Tensor, labels: torch.Tensor, cup: torch.Tensor) -> np.ndarray:
    """Return the gradient at the cup's probability less that at the background's, (H, W)."""
    soft = torch.stack([1 - cup, cup])[None].requires_grad_()
    inputs = {"labels": labels[None], "logits": None, "features": None}
    regulariser = build_regulariser(parse_regulariser(text), {})
    region = torch.ones_like(labels[None], dtype=torch.bool)
    apply_regulariser(regulariser, image[None], soft, region, **inputs).backward()
    return (soft.grad[0, 1] - soft.grad[0, 0]).numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Draw as the command line says; return the exit status."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("run/losses.png"), metavar="FILE", help="the picture")
    path = parser.parse_args(argv).output
    photograph = photographs()[NAME]
    strokes = draw_strokes(NAME, photograph.size)
    small = resize_short_side(photograph, SIDE)
    labels = np.array(Image.fromarray(strokes).resize(small.size, Image.Resampling.NEAREST))
    cup = prediction(small.height, small.width)
    image, target = to_tensor(small).float(), torch.from_numpy(labels).long()
    figure = new_figure(11, 4.0)
    panels = figure.subplots(2, 5).flatten()
    panels[0].imshow(scribble_picture(photograph, strokes))
    panels[1].imshow(cup, cmap="gray", vmin=0, vmax=1)
    panels[0].set_title("photograph, strokes")
    panels[1].set_title("prediction")
    for panel, (title, text) in zip(panels[2:], SHOWN.items(), strict=True):
        found = gradient(text, image, target, torch.from_numpy(cup))
        largest = np.quantile(np.abs(found), CLIPPED) or 1.0
        panel.imshow(found, cmap="RdBu_r", vmin=-largest, vmax=largest)
        panel.set_title(title)
    for panel in panels:
        panel.set(xticks=[], yticks=[])
    figure.suptitle("gradient of each loss: blue where it wants more of the cup, red where less", fontsize=11)
    save_figure(figure, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""The figure of photographs in the README: scribbles, what networks learn from them, and the gradient of the loss.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/photograph.py

Trains on three photographs (scribbled_photographs.py), one or two strokes on each thing: first partial CE alone, then,
from that network, the same number of steps without and with the DenseCRF loss. Writes photograph.png to --output, in
some minutes on a CPU; repeated, it keeps the trainings that have ended.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import exit_status
from common.files import make_folder
from common.logs import configure_logging
from dataloaders.images import write_label
from dataloaders.layout import IMAGES, SCRIBBLES, write_class_names, write_lists
from dataloaders.transforms import normalize, resize_short_side, to_tensor
from DenseCRFLoss import DenseCRFLoss
from figures.colours import mask_picture, scribble_picture
from figures.sheets import save_contact_sheet
from modeling.checkpoint import load_network
from prediction import segment
from scribbled_photographs import CLASSES, STROKES, draw_strokes, photographs
from training.checkpoint import LAST
from training.two_stages import Comparison

import numpy as np
import torch
from PIL import Image

logger = logging.getLogger(__name__)

SIZE, WEIGHT, SIGMA_RGB, SIGMA_XY = 257, 5.0, 6.0, 80.0
STEPS = (60, 60)  # of both stages; one step is all photographs


def write_data(folder: Path) -> None:
    """Write the photographs and their scribbles in the project's layout."""
    for part in (IMAGES, SCRIBBLES):
        make_folder(folder / part)
    for name, image in photographs().items():
        image.save(folder / IMAGES / f"{name}.png")
        write_label(folder / SCRIBBLES / f"{name}.png", draw_strokes(name, image.size))
    write_lists(folder, list(STROKES), list(STROKES))
    write_class_names(folder, CLASSES)


def gradient_picture(network: torch.nn.Module, image: Image.Image) -> np.ndarray:
    """Return where the DenseCRF loss wants more (blue) and less (red) of the objects, uint8 (H, W, 3).

    It is the gradient at what `network` predicts: of the object that the loss wants most, less the background's.
    """
    from matplotlib import colormaps

    pixels = to_tensor(resize_short_side(image, SIZE)).float()[None]
    with torch.no_grad():
        soft = network.whole(normalize(pixels)).softmax(1)
    soft.requires_grad_()
    loss = DenseCRFLoss(WEIGHT, SIGMA_RGB, SIGMA_XY, 1.0, size_free=True, normalised_kernel=True)
    loss(pixels, soft, torch.ones_like(pixels[:, 0])).backward()
    # Among the classes only differences matter.
    objects = (soft.grad[:, 1:].amin(1) - soft.grad[:, 0])[0].numpy()
    largest = np.quantile(np.abs(objects), 0.995) or 1.0
    return (255 * colormaps["RdBu_r"](0.5 + 0.5 * objects / largest)[..., :3]).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Train and draw as the command line says; return the exit status."""
    configure_logging()
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("run/photograph"), metavar="FOLDER", help="for everything")
    folder = parser.parse_args(argv).output
    write_data(folder / "data")
    size = ("--crop-size", str(SIZE), "--base-size", str(SIZE), "--batch-size", str(len(STROKES)))
    loss = ("--densecrfloss", str(WEIGHT), "--sigma-xy", str(SIGMA_XY), "--sigma-rgb", str(SIGMA_RGB))
    comparison = Comparison(
        folder=folder / "trainings",
        seeds=(1,),
        stage_epochs=STEPS,
        options=("--preset", "80", *size, "--data-root", str(folder / "data"), "--workers", "0", "--no-val"),
        variants={"regularised": loss},
        full=False,
        stage2_lr=2e-4,
    )
    comparison.train(jobs=1)
    rows = []
    titles = {"partial CE": "partial_ce", "+ DenseCRF loss": "regularised"}
    networks = {title: load_network(comparison.run_folder(1, arm) / LAST)[0] for title, arm in titles.items()}
    for name, image in photographs().items():
        row = {"scribbles": scribble_picture(image, draw_strokes(name, image.size))}
        row |= {title: mask_picture(image, segment(network, image, SIZE)) for title, network in networks.items()}
        rows.append({**row, "gradient of the loss": gradient_picture(networks["partial CE"], image)})
    title = "three photographs with their strokes are all that the networks were trained on"
    save_contact_sheet(folder / "photograph.png", rows, CLASSES, title, classes=range(len(CLASSES)))
    logger.info("%s", folder / "photograph.png")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

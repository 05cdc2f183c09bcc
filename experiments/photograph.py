"""The figure of photographs in the README: scribbles, what networks learn from them, and the gradient of the loss.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/photograph.py

Trains on three photographs that come with scikit-image (`pip install scikit-image`), one or two strokes on each thing:
first partial CE alone, then, from that network, the same number of steps without and with the DenseCRF loss. The
photographs are in the public domain or CC0: `coffee` by Rachel Michetti, `chelsea` by Stéfan van der Walt, `astronaut`
by NASA. Writes photograph.png to --output, in some minutes on a CPU; repeated, it keeps the trainings that have ended.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import InputError, exit_status
from common.files import make_folder
from common.logs import configure_logging
from dataloaders.images import write_label
from dataloaders.labels import UNLABELLED
from dataloaders.layout import IMAGES, SCRIBBLES, write_class_names, write_lists
from dataloaders.transforms import normalize, resize_short_side, to_tensor
from DenseCRFLoss import DenseCRFLoss
from figures.colours import mask_picture, scribble_picture
from figures.sheets import save_contact_sheet
from modeling.checkpoint import load_network
from prediction import segment
from training.checkpoint import LAST
from training.two_stages import Comparison

import numpy as np
import torch
from PIL import Image, ImageDraw

logger = logging.getLogger(__name__)

CLASSES = ("background", "cup", "cat", "person")
SIZE, WEIGHT, SIGMA_RGB, SIGMA_XY = 257, 5.0, 6.0, 80.0
STEPS = (60, 60)  # of both stages; one step is all photographs
WIDTH = 7  # of a stroke, in pixels
BACKGROUND, CUP, CAT, PERSON = range(4)
Stroke = tuple[int, list[tuple[int, int]]]  # class, and the corners (x, y) of a line
STROKES: dict[str, list[Stroke]] = {
    "coffee": [
        (CUP, [(105, 190), (140, 310), (240, 362), (380, 340)]),
        (CUP, [(190, 50), (215, 120), (300, 150), (375, 110)]),
        (CUP, [(340, 300), (375, 265), (400, 110)]),
        (BACKGROUND, [(25, 150), (60, 330), (140, 390)]),
        (BACKGROUND, [(40, 40), (120, 60)]),
        (BACKGROUND, [(480, 40), (560, 200), (510, 370)]),
    ],
    "chelsea": [
        (CAT, [(70, 40), (160, 50), (250, 60), (340, 90)]),
        (CAT, [(40, 170), (80, 260), (180, 230), (260, 240), (330, 170)]),
        (BACKGROUND, [(10, 40), (14, 110)]),
        (BACKGROUND, [(410, 30), (430, 130), (425, 270)]),
    ],
    "astronaut": [
        (PERSON, [(175, 90), (215, 40), (270, 60), (215, 130), (240, 250)]),
        (PERSON, [(70, 390), (110, 300), (190, 340), (330, 330)]),
        (PERSON, [(160, 490), (230, 430), (330, 440), (470, 420)]),
        (BACKGROUND, [(20, 30), (50, 200), (20, 400)]),
        (BACKGROUND, [(110, 40), (130, 170)]),
        (BACKGROUND, [(340, 40), (350, 200), (410, 180), (410, 60)]),
        (BACKGROUND, [(400, 310), (490, 305)]),
    ],
}


def photographs() -> dict[str, Image.Image]:
    """Return the photographs by name."""
    try:
        import skimage.data
    except ImportError:
        raise InputError("expected scikit-image, which brings the photographs: pip install scikit-image") from None
    return {name: Image.fromarray(getattr(skimage.data, name)()) for name in STROKES}


def draw_strokes(name: str, size: tuple[int, int]) -> np.ndarray:
    """Return the scribbles of a photograph, uint8 (H, W), 255 where there are none."""
    label = Image.new("L", size, UNLABELLED)
    for value, corners in STROKES[name]:
        ImageDraw.Draw(label).line(corners, fill=value, width=WIDTH, joint="curve")
    return np.asarray(label)


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

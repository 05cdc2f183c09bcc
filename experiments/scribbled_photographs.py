"""Photographs that may be shown, with strokes: three that come with scikit-image (`pip install scikit-image`).

They are in the public domain or CC0: `coffee` by Rachel Michetti, `chelsea` by Stéfan van der Walt, `astronaut` by
NASA.
"""

from __future__ import annotations

from common.errors import InputError
from dataloaders.labels import UNLABELLED

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("background", "cup", "cat", "person")
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

"""Several label maps of an image side by side, and a close-up of where two of them differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dataloaders.labels import PADDING
from figures.colours import classes_in, mask_picture, scribble_picture

FRAME = (255, 255, 255)
CLOSE_UP = 0.36  # its side, as a share of the image's short side


class Compared(NamedTuple):
    """An image with its scribbles and truth, None where there are none, and what networks make of it."""

    image: Image.Image
    scribble: np.ndarray | None
    truth: np.ndarray | None
    predictions: Mapping[str, np.ndarray]  # title -> (H, W)

    def row(self, box: tuple[int, int, int, int] | None = None) -> dict[str, Any]:
        """Return the pictures of a contact sheet's row; `box` (left, top, right, bottom) is framed in each."""
        row = {"scribbles": scribble_picture(self.image, self.scribble)}
        row |= {title: mask_picture(self.image, labels) for title, labels in self.predictions.items()}
        row["truth"] = None if self.truth is None else mask_picture(self.image, self.truth)
        return {title: picture if picture is None else framed(picture, box) for title, picture in row.items()}

    @property
    def classes(self) -> set[int]:
        """The classes that occur in the scribbles, the truth and the predictions."""
        return classes_in(self.scribble, self.truth, *self.predictions.values())

    def cut(self, box: tuple[int, int, int, int]) -> "Compared":
        """Return the part in `box`."""
        left, top, right, bottom = box

        def part(labels: np.ndarray | None) -> np.ndarray | None:
            return None if labels is None else labels[top:bottom, left:right]

        predictions = {title: part(labels) for title, labels in self.predictions.items()}
        return Compared(self.image.crop(box), part(self.scribble), part(self.truth), predictions)


def framed(picture: np.ndarray, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """Draw a frame one pixel wide around `box`."""
    if box is None:
        return picture
    left, top, right, bottom = box
    picture = picture.copy()
    picture[top:bottom, [left, right - 1]] = picture[[top, bottom - 1], left:right] = FRAME
    return picture


def close_up(compared: Sequence[Compared], before: str, after: str) -> tuple[int, tuple[int, int, int, int]] | None:
    """Return which image, and the square of it, in which `after` is right and `before` wrong in most pixels.

    Pixels in which it is the other way round count against it. Returns None where there is no such square.
    """
    most, best = 0, None
    for number, one in enumerate(compared):
        if one.truth is None:
            continue
        right = {title: (one.predictions[title] == one.truth) & (one.truth < PADDING) for title in (before, after)}
        gained = right[after].astype(np.int64) - right[before]
        side = max(1, round(CLOSE_UP * min(gained.shape)))
        sums = np.pad(gained, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        within = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        top, left = (int(place) for place in np.unravel_index(within.argmax(), within.shape))
        if within.max() > most:
            most, best = int(within.max()), (number, (left, top, left + side, top + side))
    return best

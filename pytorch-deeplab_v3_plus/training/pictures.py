"""The pictures of a run: its curves, and what the network makes of some validation images."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dataloaders.datasets.pascal import VOCSegmentation
from figures.colours import scribble_picture
from figures.curves import save_curves
from figures.sheets import evenly_spaced, save_contact_sheet
from prediction import segment
from training.journal import Journal


def draw_curves(journal: Journal, history: Sequence[dict[str, Any]]) -> None:
    """Draw curves.png from the records of the epochs so far."""
    path = journal.folder / "curves.png"
    save_curves(path, history)
    journal.picture("curves", path, history[-1]["epoch"])


def draw_validation(journal: Journal, epoch: int, model: nn.Module, images: VOCSegmentation, size: int) -> None:
    """Draw validation.png: images with their scribbles, predictions and truth; the network sees them at `size`."""
    rows = []
    for index in evenly_spaced(len(images)):
        image, scribble, truth = images.pictures(index)
        prediction = segment(model, image, size)
        scribbles = scribble_picture(image, scribble)
        rows.append({"image": image, "scribbles": scribbles, "prediction": prediction, "truth": truth})
    path = journal.folder / "validation.png"
    save_contact_sheet(path, rows, images.class_names, f"validation images after epoch {epoch}")
    journal.picture("validation", path, epoch)

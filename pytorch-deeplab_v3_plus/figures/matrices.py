"""Arrays as pictures with a colour bar: confusion matrices and gradients."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figures.fonts import drawable, drawable_names
from figures.plotting import new_figure, plain_text, save_figure, text_width, wrapped

LARGEST = 16  # side of a confusion matrix without its texts, in inches
SMALLEST = 2.4  # likewise, so that the texts beside it fit
LONGEST = 30  # characters of a name beside it
TITLE = 10  # points


@plain_text()
def save_confusion(path: Path, counts: np.ndarray, class_names: Sequence[str], title: str) -> None:
    """Draw a confusion matrix (K, K) of pixel counts, rows the truth; cells show shares of their row in percent."""
    total = counts.sum(1, keepdims=True)
    share = 100 * counts / np.maximum(total, 1)
    cell = min(0.42, LARGEST / len(class_names))
    small, smallest = min(8, 60 * cell), min(7, 40 * cell)  # points
    names = [
        name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"
        for name in drawable_names(class_names)
    ]
    names = [name if total[k] else f"({name})" for k, name in enumerate(names)]
    side = max(SMALLEST, cell * len(names))
    margin = max(text_width(name, small) for name in names)
    width = side + margin + 2.0  # of which the colour bar and the axes' names have the rest
    title = wrapped(drawable(title), width - 0.2, TITLE)
    figure = new_figure(width, side + margin + 0.7 + 0.18 * len(title.split("\n")))
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*counts.shape):
        part = share[row, column]
        if part >= 0.5:
            color = "white" if part > 60 else "black"
            axes.text(column, row, f"{part:.0f}", ha="center", va="center", fontsize=smallest, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.set(xlabel="predicted", ylabel="true\n(in brackets: not in the truth)")
    figure.suptitle(title, fontsize=TITLE)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="% of the true pixels")
    save_figure(figure, path)


@plain_text()
def save_gradient(path: Path, gradient: np.ndarray, title: str) -> None:
    """Draw a gradient (H, W) in colours that diverge from zero."""
    height, width = gradient.shape
    figure = new_figure(5.2, min(8.0, 4.2 * height / width + 0.7))
    axes = figure.subplots()
    largest = float(np.abs(gradient).max()) or 1.0
    shown = axes.imshow(gradient, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.axis("off")
    axes.set_title(drawable(title), fontsize=10)
    figure.colorbar(shown, ax=axes, shrink=0.85)
    save_figure(figure, path)

"""The pictures that a run leaves behind: training curves, a contact sheet, gradients by class."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataloaders.labels import PADDING, UNLABELLED, voc_palette
from training.checkpoint import replace_file
from training.fonts import families, say_that_characters_are_missing


def _with_plain_text(draw: Callable[..., None]) -> Callable[..., None]:
    """Have a function draw its texts as they are, not as mathematics, in fonts of any language."""

    @functools.wraps(draw)
    def with_plain_text(*args: Any, **kwargs: Any) -> None:
        from matplotlib import rc_context  # here, since matplotlib takes a second to import

        settings = {"text.parse_math": False, "font.family": families()}
        with rc_context(settings), warnings.catch_warnings():
            show = warnings.showwarning

            def show_once(message: Warning | str, *more: Any) -> None:
                if "missing from" in str(message):
                    say_that_characters_are_missing()
                else:
                    show(message, *more)

            warnings.showwarning = show_once
            draw(*args, **kwargs)

    return with_plain_text


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def _save(figure: Any, path: Path) -> None:
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))


def save_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw losses, scores and learning rate by epoch from the records of scores.jsonl."""
    figure = _figure(12, 3.6)
    losses, scores, rate = figure.subplots(1, 3)
    epochs = [record["epoch"] + 1 for record in history]
    marker = "o" if len(epochs) < 30 else None
    names = dict.fromkeys(name for record in history for name in record["losses"])
    for name in names:
        values = [record["losses"].get(name, np.nan) for record in history]
        losses.plot(epochs, values, marker=marker, markersize=3, label=name.replace("_", " "))
    losses.set(title="training losses", xlabel="epoch")
    evaluated = [record for record in history if record.get("val")]
    for name, label in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("class_accuracy", "class accuracy")):
        values = [100 * record["val"][name] for record in evaluated]
        scores.plot([record["epoch"] + 1 for record in evaluated], values, marker=marker, markersize=3, label=label)
    scores.set(title="validation scores (crop protocol)", xlabel="epoch", ylabel="%", ylim=(0, 100))
    rate.plot(epochs, [record["lr"] for record in history], marker=marker, markersize=3, color="tab:gray")
    rate.set(title="learning rate of the backbone", xlabel="epoch", ylim=(0, None))
    for axes in (losses, scores, rate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(frameon=False)
    if evaluated:
        scores.legend(frameon=False)
    _save(figure, path)


def colour(labels: np.ndarray) -> np.ndarray:
    """Return the VOC colours (H, W, 3) uint8 of a label map (H, W); unlabelled pixels are white."""
    palette = voc_palette()
    palette[UNLABELLED] = 255
    return palette[labels]


def evenly_spaced(length: int, rows: int = 6) -> list[int]:
    """Return the indices of up to `rows` of `length` images, spread over all of them."""
    return np.linspace(0, length - 1, min(rows, length)).astype(int).tolist()


def _faded(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").convert("RGB")).astype(np.float32)
    return (0.45 * grey + 0.55 * 255).astype(np.uint8)


def scribble_picture(image: Image.Image, scribble: np.ndarray | None) -> np.ndarray | None:
    """Draw scribbles (H, W), 255 where there are none, over a faded grey version of their image; None without any."""
    if scribble is None:
        return None
    picture = _faded(image)
    drawn = scribble < PADDING
    picture[drawn] = colour(scribble)[drawn]
    return picture


def error_picture(image: Image.Image, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw wrongly predicted pixels red over a faded grey version of the image, and unlabelled ones white."""
    picture = _faded(image)
    picture[(prediction != truth) & (truth < PADDING)] = (214, 39, 40)
    picture[truth >= PADDING] = 255
    return picture


@_with_plain_text
def save_contact_sheet(
    path: Path,
    rows: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    title: str,
    captions: Sequence[str] | None = None,
) -> None:
    """Draw one row an image, with a legend of the classes that occur.

    Each of `rows` maps a column's title to a picture: a PIL image or an array (H, W, 3), shown as it is, or a label map
    (H, W) in the palette's colours; None leaves a gap. `captions` stand at the left of the rows.
    """
    columns = list(rows[0])
    # Upright pictures get narrower cells than their row, so that no row is taller than a square.
    heights = [min(1.0, row[columns[0]].height / row[columns[0]].width) for row in rows]
    figure = _figure(2.3 * len(columns), 2.4 * sum(heights) + 0.9)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    seen = set()
    for row, line in zip(rows, axes, strict=True):
        for name, cell in zip(columns, line, strict=True):
            cell.axis("off")
            picture = row[name]
            if picture is None:
                continue
            picture = np.asarray(picture)
            if picture.ndim == 2:
                seen |= set(np.unique(picture).tolist())
                picture = colour(picture)
            cell.imshow(picture, interpolation="nearest")
    for name, cell in zip(columns, axes[0], strict=True):
        cell.set_title(name, fontsize=10)
    for caption, line in zip(captions or (), axes, strict=False):
        line[0].text(-0.04, 0.5, caption, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=11)
    _legend(figure, [k for k in range(len(class_names)) if k in seen], class_names)
    _save(figure, path)


@_with_plain_text
def save_confusion(path: Path, counts: np.ndarray, class_names: Sequence[str], title: str) -> None:
    """Draw a confusion matrix (K, K) of pixel counts, rows the truth: each cell is its share of the row in percent."""
    total = counts.sum(1, keepdims=True)
    share = 100 * counts / np.maximum(total, 1)
    size = 2.2 + 0.42 * len(class_names)
    figure = _figure(size + 0.6, size)
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*counts.shape):
        if share[row, column] >= 0.5:
            dark = share[row, column] > 60
            text = f"{share[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    names = [name if total[k] else f"({name})" for k, name in enumerate(class_names)]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true; (in brackets: not in the truth)")
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="% of the true pixels")
    _save(figure, path)


def _legend(figure: Any, classes: Sequence[int], class_names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=voc_palette()[k] / 255, edgecolor="0.5", label=class_names[k]) for k in classes]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 7) or 1, frameon=False, fontsize=9
    )


@_with_plain_text
def save_gradient(path: Path, gradient: np.ndarray, title: str) -> None:
    """Draw a gradient (H, W) in diverging colours about zero, with their scale."""
    height, width = gradient.shape
    figure = _figure(5.2, min(8.0, 4.2 * height / width + 0.7))
    axes = figure.subplots()
    largest = float(np.abs(gradient).max()) or 1.0
    shown = axes.imshow(gradient, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes, shrink=0.85)
    _save(figure, path)

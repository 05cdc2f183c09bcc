"""Contact sheets: rows of pictures with a legend."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures.colours import colour
from figures.plotting import new_figure, plain_text, save_figure


def evenly_spaced(length: int, rows: int = 6) -> list[int]:
    """Return the indices of up to `rows` of `length` images, evenly spaced."""
    return np.linspace(0, length - 1, min(rows, length)).astype(int).tolist()


@plain_text()
def save_contact_sheet(
    path: Path,
    rows: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    title: str,
    captions: Sequence[str] = (),
    classes: Iterable[int] = (),
) -> None:
    """Draw one row per image, with a legend of the classes that occur in label maps or in `classes`.

    Each row maps the columns' titles to pictures: a PIL image or an array (H, W, 3) is shown as it is, a label map
    (H, W) in the palette's colours; None leaves a gap. `captions` stand at the left of the rows.
    """
    from matplotlib.patches import Patch

    columns = list(rows[0])
    # Upright pictures get narrower cells than their row, so that no row is taller than a square.
    shapes = [next(np.shape(picture) for picture in row.values() if picture is not None) for row in rows]
    heights = [min(1.0, height / width) for height, width, *_ in shapes]
    figure = new_figure(2.3 * len(columns), 2.4 * sum(heights) + 0.9)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    seen = set(classes)
    for row, line in zip(rows, axes, strict=True):
        for name, cell in zip(columns, line, strict=True):
            cell.axis("off")
            if row[name] is None:
                continue
            picture = np.asarray(row[name])
            if picture.ndim == 2:
                seen |= set(np.unique(picture).tolist())
                picture = colour(picture)
            cell.imshow(picture, interpolation="nearest")
    for name, cell in zip(columns, axes[0], strict=True):
        cell.set_title(name, fontsize=10)
    for caption, line in zip(captions, axes, strict=False):
        line[0].text(-0.04, 0.5, caption, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=11)
    named = [(colour(k) / 255, name) for k, name in enumerate(class_names) if k in seen]
    handles = [Patch(facecolor=fill, edgecolor="0.5", label=name) for fill, name in named]
    ncols = min(len(handles), 7) or 1
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    save_figure(figure, path)

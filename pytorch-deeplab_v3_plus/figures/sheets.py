"""Contact sheets: rows of pictures with a legend."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures.colours import classes_in, colour
from figures.fonts import drawable, drawable_names
from figures.plotting import new_figure, plain_text, save_figure, text_width, wrapped

TITLE, CAPTION = 11, 8  # points
ROW = 2.4  # height of a row of square pictures, in inches


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
    (H, W) in the palette's colours; None leaves a gap, and a column without any picture is left out. `captions` stand
    at the left of the rows.
    """
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    # Upright pictures get narrower cells than their row, so that no row is taller than a square.
    shapes = [next(np.shape(picture) for picture in row.values() if picture is not None) for row in rows]
    heights = [min(1.0, max(0.1, height / width)) for height, width, *_ in shapes]
    maps = [row[name] for row in rows for name in columns if np.ndim(row[name]) == 2]
    seen = {*classes, *classes_in(*maps)}
    legend = Legend([k for k in range(len(class_names)) if k in seen], class_names, 2.3 * len(columns))
    title = wrapped(drawable(title), legend.width, TITLE)
    figure = new_figure(legend.width, ROW * sum(heights) + 0.5 + 0.2 * len(title.split("\n")) + legend.height)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for row, line in zip(rows, axes, strict=True):
        for name, cell in zip(columns, line, strict=True):
            cell.axis("off")
            if row[name] is None:
                continue
            picture = np.asarray(row[name])
            cell.imshow(colour(picture) if picture.ndim == 2 else picture, interpolation="nearest")
    for name, cell in zip(columns, axes[0], strict=True):
        cell.set_title(drawable(name), fontsize=10)
    for caption, line, height in zip(captions, axes, heights, strict=False):
        text = "\n".join(wrapped(part, ROW * height, CAPTION) for part in drawable(caption).split("\n"))
        how = {"rotation": 90, "ha": "right", "va": "center", "ma": "center", "fontsize": CAPTION}
        line[0].text(-0.04, 0.5, text, transform=line[0].transAxes, **how)
    figure.suptitle(title, fontsize=TITLE)
    legend.draw(figure)
    save_figure(figure, path)


class Legend:
    """The colours of classes with their names, in as many columns as fit a width in inches, or one that is wider."""

    FONT, LINE, SWATCH = 9, 0.19, 0.55  # size in points, height of a line and width beside a name in inches
    LONGEST = 2.6  # line of a name, in inches

    def __init__(self, classes: Sequence[int], class_names: Sequence[str], width: float) -> None:
        names = drawable_names(class_names)
        self.names = {k: wrapped(names[k], self.LONGEST, self.FONT) for k in classes}
        widest = max((text_width(name, self.FONT) for name in self.names.values()), default=0) + self.SWATCH
        self.width = max(width, widest)
        self.columns = max(1, min(len(self.names), int(width / widest)))
        lines = max((name.count("\n") + 1 for name in self.names.values()), default=0)
        self.height = self.LINE * lines * -(-len(self.names) // self.columns)  # in inches

    def draw(self, figure: Any) -> None:
        """Draw it at the bottom of a Matplotlib figure."""
        from matplotlib.patches import Patch

        handles = [Patch(facecolor=colour(k) / 255, edgecolor="0.5", label=name) for k, name in self.names.items()]
        how = {"ncols": self.columns, "frameon": False, "fontsize": self.FONT, "columnspacing": 1.0}
        figure.legend(handles=handles, loc="outside lower center", **how)

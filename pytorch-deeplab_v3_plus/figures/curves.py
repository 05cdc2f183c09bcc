"""The curves of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from figures.plotting import new_figure, save_figure


def save_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw losses, scores and learning rate by epoch from the records of scores.jsonl."""
    figure = new_figure(12, 3.6)
    losses, scores, rate = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) < 30 else None
    names = dict.fromkeys(name for record in history for name in record["losses"])
    for name in names:
        values = [record["losses"].get(name, np.nan) for record in history]
        losses.plot(epochs, values, marker=marker, markersize=3, label=name.replace("_", " "))
    losses.set(title="training losses", xlabel="epoch")
    evaluated = [record for record in history if record.get("val")]
    for name, label in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("class_accuracy", "class accuracy")):
        values = [100 * record["val"][name] for record in evaluated]
        scores.plot([record["epoch"] for record in evaluated], values, marker=marker, markersize=3, label=label)
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
    save_figure(figure, path)

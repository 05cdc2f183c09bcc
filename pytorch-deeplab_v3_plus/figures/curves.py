"""The curves of a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures.plotting import new_figure, save_figure

SCORES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "class_accuracy": "class accuracy"}


def save_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw losses, scores and learning rate by epoch from the records of scores.jsonl."""
    figure = new_figure(12, 3.6)
    losses, scores, rate = figure.subplots(1, 3)
    style = {"marker": "o" if len(history) < 30 else None, "markersize": 3}
    epochs = [record["epoch"] for record in history]
    for name in dict.fromkeys(name for record in history for name in record["losses"]):
        values = [record["losses"].get(name, float("nan")) for record in history]
        losses.plot(epochs, values, label=name.replace("_", " "), **style)
    losses.set(title="training losses", xlabel="epoch")
    evaluated = {record["epoch"]: record["val"] for record in history if record.get("val")}
    for name, label in SCORES.items():
        scores.plot(list(evaluated), [100 * val[name] for val in evaluated.values()], label=label, **style)
    scores.set(title="validation scores (crop protocol)", xlabel="epoch", ylabel="%", ylim=(0, 100))
    rate.plot(epochs, [record["lr"] for record in history], color="tab:gray", **style)
    rate.set(title="learning rate of the backbone", xlabel="epoch", ylim=(0, None))
    for axes in (losses, scores, rate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(frameon=False)
    if evaluated:
        scores.legend(frameon=False)
    save_figure(figure, path)

"""What an evaluation leaves behind: scores.json, and for each column of its table two figures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from torch.utils.data import default_collate

from dataloaders import WholeImages
from dataloaders.datasets.pascal import VOCSegmentation
from errors import InputError
from training.checkpoint import replace_file
from training.evaluation import Protocol, Tally, predict_batch
from training.figures import error_picture, save_confusion, save_contact_sheet

EXTREMES = 4  # images in the figure, of the worst and of the best each


def make_folder(folder: Path) -> None:
    """Make the folder of a report, or raise InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None


def column_record(protocol: Protocol, tally: Tally, class_names: Sequence[str]) -> dict[str, Any]:
    """Return all that was counted, for JSON: the protocol, the scores, the confusion matrix, and each image's mIoU."""
    scores = tally.scores()
    return {
        "protocol": protocol.view,
        "description": str(protocol),
        "settings": asdict(protocol),
        **scores,
        "iou": dict(zip(class_names, scores["iou"], strict=True)),
        "frequency": dict(zip(class_names, scores["frequency"], strict=True)),
        "confusion_matrix": tally.matrix.counts.tolist(),
        "images": tally.images,
    }


def write_scores(folder: Path, columns: dict[str, Any], **about: str) -> None:
    """Write scores.json into `folder`: the records of the columns by their titles, and what they are about."""
    text = json.dumps({**about, "columns": columns}, indent=1) + "\n"
    replace_file(folder / "scores.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def draw(
    folder: Path, model: nn.Module, images: VOCSegmentation, protocol: Protocol, tally: Tally, title: str
) -> list[Path]:
    """Draw the confusion matrix, and the worst and best images with their errors; return the files.

    Args:
        folder: where they go, as <title>_confusion.png and <title>_worst_best.png with _ for blanks.
        model: the network.
        images: the data set that `tally` has counted by `protocol`.
        title: of the column, such as 'val full'.
    """
    heading = f"{title}: {protocol}"
    stem = title.replace(" ", "_")
    files = [folder / f"{stem}_confusion.png", folder / f"{stem}_worst_best.png"]
    save_confusion(files[0], tally.matrix.counts.numpy(), images.class_names, textwrap.fill(heading, 60))

    views = WholeImages(images, protocol.size) if protocol.view == "full" else images
    rows, captions = [], []
    training = model.training
    model.eval()
    for name in tally.extremes(EXTREMES):
        item = views[images.ids.index(name)]
        truth, prediction = (
            labels[0].cpu().numpy() for labels in predict_batch(model, default_collate([item]), protocol)
        )
        picture = Image.fromarray(item.get("original", item["image"]).permute(1, 2, 0).numpy())
        wrong = error_picture(picture, truth, prediction)
        rows.append({"image": picture, "prediction": prediction, "truth": truth, "errors": wrong})
        captions.append(f"{name}\n{100 * tally.images[name]:.1f} %")
    model.train(training)
    heading = f"worst and best images by mIoU, {heading}"
    save_contact_sheet(files[1], rows, images.class_names, textwrap.fill(heading, 100), captions)
    return files

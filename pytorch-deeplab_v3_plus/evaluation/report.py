"""What an evaluation leaves behind for each column of its table: all that was counted, as JSON, and two figures."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from torch.utils.data import default_collate

from common.errors import InputError
from common.files import replace_file
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.loaders import WholeImages
from evaluation.protocols import Protocol, predict_batch
from evaluation.scores import Tally
from figures.colours import error_picture
from figures.matrices import save_confusion
from figures.sheets import save_contact_sheet

EXTREMES = 4  # images in the figure, of the worst and of the best each


def make_folder(folder: Path) -> None:
    """Make the folder of reports; raise InputError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None


def write_report(
    folder: Path,
    title: str,
    model: nn.Module,
    images: VOCSegmentation,
    protocol: Protocol,
    tally: Tally,
    **about: Any,
) -> list[Path]:
    """Write <title>.json, <title>_confusion.png and <title>_worst_best.png, with _ for blanks, and return them.

    Args:
        folder: where they go; made if absent.
        title: of the column, such as 'val full'.
        model: the network.
        images: the data set that `tally` has counted by `protocol`.
        about: further entries of the JSON.
    """
    make_folder(folder)
    stem = title.replace(" ", "_")
    files = [folder / f"{stem}.json", folder / f"{stem}_confusion.png", folder / f"{stem}_worst_best.png"]
    scores, counts = tally.scores(), tally.matrix.counts
    record = {
        **about,
        "title": title,
        "protocol": protocol.view,
        "description": str(protocol),
        "settings": asdict(protocol),
        **scores,
        "iou": dict(zip(images.class_names, scores["iou"], strict=True)),
        "frequency": dict(zip(images.class_names, scores["frequency"], strict=True)),
        "confusion_matrix": counts.tolist(),
        "images": tally.images,
    }
    text = json.dumps(record, indent=1) + "\n"
    replace_file(files[0], lambda temporary: temporary.write_text(text, encoding="utf-8"))

    heading = f"{title}: {protocol}"
    save_confusion(files[1], counts.numpy(), images.class_names, textwrap.fill(heading, 60))

    views = WholeImages(images, protocol.size) if protocol.view == "full" else images
    rows, captions = [], []
    training = model.training
    model.eval()
    for name in tally.extremes(EXTREMES):
        item = views[images.ids.index(name)]
        labels = predict_batch(model, default_collate([item]), protocol)
        truth, prediction = (values[0].cpu().numpy().astype(np.uint8) for values in labels)
        picture = Image.fromarray(item.get("original", item["image"]).permute(1, 2, 0).numpy())
        wrong = error_picture(picture, truth, prediction)
        rows.append({"image": picture, "prediction": prediction, "truth": truth, "errors": wrong})
        captions.append(f"{name}\n{100 * tally.images[name]:.1f} %")
    model.train(training)
    heading = f"worst and best images by mIoU, {heading}"
    save_contact_sheet(files[2], rows, images.class_names, textwrap.fill(heading, 100), captions)
    return files

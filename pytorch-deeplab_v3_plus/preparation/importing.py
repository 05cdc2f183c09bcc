"""Annotations become a data set: images, label maps, class names and lists."""

import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import InputError
from dataloaders.datasets.pascal import IMAGES, LISTS, SCRIBBLES, TRUTH
from dataloaders.images import IMAGE_SUFFIXES, image_size, listing, value_counts, write_label
from dataloaders.labels import PADDING, read_class_names, write_class_names
from dataloaders.layout import CLASS_FILE, write_lists

logger = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """An image and how to get its label map."""

    name: str
    """Of the image file; without its suffix it is the id."""
    image: Path | bytes
    """The image file, or its content."""
    source: Path
    """File that the labels come from, for messages."""
    draw: Callable[[tuple[int, int]], np.ndarray]
    """From (width, height) of the upright image to uint8 (H, W), or InputError."""

    @property
    def id(self) -> str:
        """The image's id."""
        return Path(self.name).stem


def stratified_split(classes: dict[str, set[int]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split ids for training and validation so that each class goes to both in the same proportion.

    The classes are dealt one after the other, the rarest first, because it has the least choice (Sechidis, Tsoumakas
    and Vlahavas 2011). A class of a single image trains.

    Args:
        classes: of each id; at least two ids.
        share: of the ids that validate, in (0, 1).
        seed: chooses which.

    Returns:
        Training ids and validation ids, each in order; of two and more ids neither is empty.
    """
    order = sorted(classes)
    np.random.default_rng(seed).shuffle(order)
    members = {value: [i for i in order if value in classes[i]] for value in set().union(*classes.values())}
    total = min(max(1, round(share * len(order))), len(order) - 1)
    val: set[str] = set()
    train: set[str] = set()
    for value in sorted(members, key=lambda value: (len(members[value]), value)):
        ids = members[value]
        wanted = min(round(share * len(ids)) - len(val & set(ids)), total - len(val))
        for image_id in ids:
            if image_id not in val | train:
                (val if wanted > 0 else train).add(image_id)
                wanted -= 1
    val |= set() if val else {order[0]}
    return sorted(set(order) - val), sorted(val)


def import_labels(
    folder: Path,
    items: Sequence[Labelled],
    class_names: Sequence[str],
    *,
    truth: bool = False,
    val_share: float = 0.2,
    seed: int = 1,
    new_lists: bool = False,
    overwrite: bool = False,
) -> np.ndarray:
    """Write images and label maps into a data set, new or there already, and make its lists if it has none.

    Nothing in the folder changes before every label map is drawn.

    Args:
        folder: of the data set.
        items: what to write; an image's name without suffix is its id.
        class_names: in the order of the labels.
        truth: whether the labels are the full ground truth, not scribbles.
        val_share, seed: of the lists, see stratified_split.
        new_lists: whether lists that are there already are replaced.
        overwrite: whether labels and images of these ids that are there already are replaced; others stay.

    Returns:
        How many pixels have each value, int64 (256,).

    Raises:
        InputError: a file is wrong, two images have one id, the folder has such labels, or others of other classes.
    """
    name = TRUTH if truth else SCRIBBLES
    if (folder / name).exists() and not overwrite:
        raise InputError(
            f"{folder / name} is there already: --overwrite replaces the labels of these images and adds new ones; or "
            "choose another folder"
        )
    sources: dict[str, Path] = {}
    for item in items:
        if item.id in sources:
            raise InputError(
                f"expected one image of each name, found '{item.id}' in {sources[item.id]} and {item.source}: "
                "rename one"
            )
        sources[item.id] = item.source
    stay = [
        path
        for kind in (SCRIBBLES, TRUTH)
        for image_id, path in listing(folder / kind, (".png",)).items()
        if kind != name or image_id not in sources
    ]
    classes = folder / CLASS_FILE
    if classes.is_file() and (stay or not overwrite) and read_class_names(classes) != tuple(class_names):
        raise InputError(
            f"expected the classes of {classes}{f', by which {stay[0]} is numbered' if stay else ''}, found "
            f"{', '.join(class_names)}: give that file as --classes, or choose another folder"
        )
    counts = np.zeros(256, dtype=np.int64)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as workshop:
            labels, images = (Path(workshop) / part for part in ("labels", "images"))
            labels.mkdir()
            images.mkdir()
            present = listing(folder / IMAGES, IMAGE_SUFFIXES)
            for item in tqdm(items, desc="importing", unit="file", disable=None, leave=False):
                label = item.draw(image_size(io.BytesIO(item.image) if isinstance(item.image, bytes) else item.image))
                counts += value_counts(label)
                write_label(labels / f"{item.id}.png", label)
                if item.id not in present or overwrite:
                    content = item.image if isinstance(item.image, bytes) else item.image.read_bytes()
                    (images / item.name).write_bytes(content)
            (folder / IMAGES).mkdir(exist_ok=True)
            for image in images.iterdir():
                if image.stem in present:
                    present[image.stem].unlink()
                image.rename(folder / IMAGES / image.name)
            (folder / name).mkdir(exist_ok=True)
            for label in labels.iterdir():
                label.replace(folder / name / label.name)
        write_class_names(classes, class_names)
        if new_lists or not (folder / LISTS).exists():
            make_lists(folder, val_share, seed)
        else:
            texts = [path.read_text("utf-8-sig", "replace") for path in (folder / LISTS).rglob("*.txt")]
            unlisted = sources.keys() - set("\n".join(texts).splitlines())
            more = f"; {len(unlisted)} of these images stand in none" if unlisted else ""
            logger.info("lists: kept as they are in %s (--new-lists makes new ones)%s", folder / LISTS, more)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error}; free space or choose another folder") from None
    return counts


def make_lists(folder: Path, val_share: float, seed: int) -> None:
    """Choose which images train and which validate; only those with ground truth validate, where there is any."""
    scribbles, truth = (listing(folder / name, (".png",)) for name in (SCRIBBLES, TRUTH))
    labels = scribbles or truth
    candidates = sorted(labels.keys() & truth.keys()) if truth else sorted(labels)
    if len(labels) < 3 or len(candidates) < 2:
        raise InputError(
            f"expected at least three labelled images, two of them fit for validation, found {len(labels)} and "
            f"{len(candidates)} in {folder}: label more"
        )
    classes = {}
    for image_id in candidates:
        with Image.open(labels[image_id]) as label:
            classes[image_id] = set(np.unique(np.asarray(label)).tolist()) - set(range(PADDING, 256))
    # The share is of all images, also where only some can validate.
    _, val = stratified_split(classes, min(0.9, val_share * len(labels) / len(candidates)), seed)
    write_lists(folder, sorted(labels.keys() - set(val)), val)
    logger.info("lists: %d images train, %d validate", len(labels) - len(val), len(val))

"""Make data sets of the layout that training reads: images, labels, class names and lists (see datasets/pascal.py)."""

import contextlib
import functools
import io
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataloaders.datasets.pascal import IMAGES, LISTS, SCRIBBLES, TRUTH
from dataloaders.files import IMAGE_SUFFIXES, image_size, listing, read_label, value_counts, write_label
from dataloaders.labels import PADDING, read_class_names, write_class_names
from dataloaders.synthetic.scribbles import simulate_scribbles
from errors import InputError

logger = logging.getLogger(__name__)

CLASS_FILE = "classes.txt"


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


def write_lists(folder: Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Write the lists of a data set."""
    lists = folder / LISTS / "SegmentationAug"
    lists.mkdir(parents=True, exist_ok=True)
    for name, ids in (("train", train), ("val", val)):
        (lists / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place, without a second copy of its content where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which becomes `folder` when all went well and vanishes when not.

    Raises InputError where `folder` holds something already, or cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"expected an empty or no folder, found other files in {folder}: choose another, or delete it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            made = Path(workshop) / "made"
            made.mkdir()
            yield made
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error}; free space or choose another folder") from None


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


def simulate_folder(folder: Path, target: Path, num_classes: int, seed: int, **how: Any) -> np.ndarray:
    """Write a copy of a data set with scribbles simulated from its ground truth; its images are linked.

    The strokes of an image depend on its id and the seed alone.

    Args:
        folder: data set with ground truth.
        target: new folder.
        num_classes: of the ground truth.
        seed: not negative.
        how: arguments of simulate_scribbles.

    Returns:
        How many pixels of the scribbles have each value, int64 (256,).

    Raises:
        InputError: there is no truth, a label map is wrong, or the target is not empty.
    """
    truth = listing(folder / TRUTH, (".png",))
    if not truth:
        raise InputError(f"expected ground truth to simulate scribbles from, found no *.png in {folder / TRUTH}")
    counts = np.zeros(256, dtype=np.int64)
    with new_folder(target) as made:
        (made / SCRIBBLES).mkdir()
        simulate = functools.partial(_simulate, made / SCRIBBLES, num_classes, seed, how)
        with ProcessPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            done = pool.map(simulate, truth.values(), chunksize=4)
            for some in tqdm(done, total=len(truth), desc="simulating", unit="image", disable=None, leave=False):
                counts += some
        for path in listing(folder / IMAGES, IMAGE_SUFFIXES).values():
            link_or_copy(path, made / IMAGES / path.name)
        (made / TRUTH).mkdir()
        for path in truth.values():
            shutil.copyfile(path, made / TRUTH / path.name)
        if (folder / LISTS).is_dir():
            shutil.copytree(folder / LISTS, made / LISTS)
        if (folder / CLASS_FILE).is_file():
            shutil.copyfile(folder / CLASS_FILE, made / CLASS_FILE)
    return counts


def _simulate(folder: Path, num_classes: int, seed: int, how: dict[str, Any], truth: Path) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(truth.stem.encode())])
    scribbles = simulate_scribbles(read_label(truth, num_classes), rng, **how)
    write_label(folder / truth.name, scribbles)
    return value_counts(scribbles)

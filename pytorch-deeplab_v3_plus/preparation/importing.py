"""Write what a format's module collected into a data set: images, label maps, class names and lists."""

import contextlib
import fcntl
import io
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import InputError, signals_held
from common.faults import advice
from dataloaders.images import (
    check_area,
    check_name,
    check_sizes,
    id_of_file,
    image_size,
    open_image,
    read_label,
    stored_size,
    value_counts,
    write_label,
)
from dataloaders.labels import PADDING
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    LISTS,
    SCRIBBLES,
    TRUTH,
    has_lists,
    list_files,
    read_class_names,
    read_lines,
    write_class_names,
    write_lists,
)
from preparation.formats import Collection, ImportOptions, Labelled
from preparation.shapes import WrongSize

logger = logging.getLogger(__name__)

PREFIX = ".import-"  # of the folder in which an import prepares everything


def import_labels(folder: Path, collection: Collection, options: ImportOptions) -> np.ndarray:
    """Write images and label maps into a data set, new or existing, and make its lists if it has none.

    Nothing in the folder changes before every label map is drawn. Returns how many pixels have each value, int64
    (256,); raises InputError where a file is wrong, two images have one id, or the folder has such labels or others of
    other classes.
    """
    items, kind = collection.items, TRUTH if options.truth else SCRIBBLES
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder), tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder) as workshop:
            check_target(folder, kind, collection, options.overwrite)
            keeps_lists = has_lists(folder) and not options.new_lists
            listed = ids_in_lists(folder) if keeps_lists else set()
            images, labels = (Path(workshop) / name for name in (IMAGES, kind))
            present = list_files(folder, IMAGES)
            counts, others = draw_label_maps(items, images, labels, present, options.overwrite)
            check_others(folder, kind, others, options.overwrite)
            if not counts[:PADDING].any():
                raise InputError(f"expected labelled pixels, found none in any label map, as in {items[0].source}")
            lists = None
            if not keeps_lists:
                known = {name: list_files(folder, name) for name in (SCRIBBLES, TRUTH)}
                known[kind] |= list_files(labels.parent, kind)
                lists = choose_lists(folder, known[SCRIBBLES], known[TRUTH], options.val, options.seed)
            with signals_held():
                write_class_names(folder, collection.class_names)  # first: label maps without it would be VOC's
                move_into_place(images, labels, folder, present)
                if lists:
                    write_lists(folder, *lists)
        if lists:
            logger.info("lists: %d images for training, %d for validation", *map(len, lists))
        else:
            unlisted = {item.id for item in items} - listed
            more = f"; {len(unlisted)} of these images are in none" if unlisted else ""
            logger.info("lists: unchanged in %s (--new-lists makes new ones)%s", folder / LISTS, more)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); {advice(error)}") from None
    finally:
        for path in absent:  # what was made for nothing
            with contextlib.suppress(OSError):
                path.rmdir()
    return counts


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other imports out of a data set; raise InputError where one is at work. What killed ones left is removed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"expected no other import into {folder}, found one at work: wait for its end") from None
        for leftover in folder.glob(f"{PREFIX}{8 * '?'}"):  # as tempfile calls it
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def check_target(folder: Path, kind: str, collection: Collection, overwrite: bool) -> None:
    """Raise InputError where labels would be lost, two images have one id, or classes would be renumbered."""
    if (folder / kind).exists() and not overwrite:
        raise InputError(
            f"{folder / kind} exists already: --overwrite replaces the labels of these images and adds new ones; or "
            "choose another folder"
        )
    sources: dict[str, Labelled] = {}
    for item in collection.items:
        if other := sources.get(item.id):
            if item.image == other.image:
                raise InputError(
                    f"expected all labels of an image in one place, found those of '{item.name}' in {other.source} and "
                    f"again in {item.source}: keep one, or join them (of masks of one class each: call them, or their "
                    "folders, after the classes)"
                )
            both = " and ".join(str(one.image if isinstance(one.image, Path) else one.source) for one in (other, item))
            raise InputError(f"expected one image of each name, found '{item.id}' twice, {both}: rename one")
        check_name(item.name, item.source)
        sources[item.id] = item
    present = [(name, *file) for name in (SCRIBBLES, TRUTH) for file in list_files(folder, name).items()]
    others = [path for name, image_id, path in present if name != kind or image_id not in sources]
    if has_lists(folder) and not (folder / LISTS).is_dir():
        raise InputError(f"expected a folder of lists, found a file or a broken link, {folder / LISTS}: remove it")
    file = folder / CLASS_FILE
    if os.path.lexists(file) and (others or not overwrite) and read_class_names(file) != tuple(collection.class_names):
        raise InputError(
            f"expected the classes of {file}{f', by which {others[0]} is numbered' if others else ''}, found "
            f"{', '.join(collection.class_names)}: give that file as --classes, or choose another folder"
        )


def ids_in_lists(folder: Path) -> set[str]:
    """Return the lines of all lists of a data set; raise InputError where one cannot be read."""
    return {line for path in (folder / LISTS).rglob("*.txt") for line in read_lines(path, "a list of images")}


def check_others(folder: Path, kind: str, others: dict[Path, tuple[int, int]], overwrite: bool) -> None:
    """Warn of images of a data set that are `others`, of these sizes, where the labels come from.

    Raises InputError where one would take the place of an image with labels of another kind, which do not fit it.
    """
    if not others:
        return
    labels = list_files(folder, TRUTH if kind == SCRIBBLES else SCRIBBLES)
    for path, size in others.items() if overwrite else ():
        if label := labels.get(id_of_file(path.name)):
            check_sizes(path, size, label, read_label(label, PADDING))
    what = "replaced" if overwrite else "kept, and get the new labels"
    line = "%d images are other files than those of the same names in the source (first %s): they are %s"
    logger.warning(line, len(others), next(iter(others)), what)


def draw_label_maps(
    items: Sequence[Labelled], images: Path, labels: Path, present: Mapping[str, Path], overwrite: bool
) -> tuple[np.ndarray, dict[Path, tuple[int, int]]]:
    """Draw all label maps into the folder `labels`, and put their images into `images` that are not `present`, or all.

    Returns how many pixels have each value, int64 (256,), and those of the present images that are not the same files,
    with the sizes (width, height) of the new ones.
    """
    counts, by_turning, others = np.zeros(256, dtype=np.int64), defaultdict(list), {}
    images.mkdir()
    labels.mkdir()
    for item in tqdm(items, desc="importing", unit="file", disable=None, leave=False):
        content = None if isinstance(item.image, Path) else item.image()
        label, turned = upright_label(item, item.image if content is None else io.BytesIO(content))
        by_turning[turned].append(item)
        counts += value_counts(label)
        write_label(labels / f"{item.id}.png", label)
        content, there = item.image.read_bytes() if content is None else content, present.get(item.id)
        if there and there.read_bytes() != content:
            others[there] = label.shape[::-1]
        if there and not overwrite:
            check_sizes(there, image_size(there), item.source, label)
        else:
            (images / item.name).write_bytes(content)
    if turned := by_turning[True]:
        number = f"{len(turned)} photographs carry an EXIF rotation"
        logger.info("%s that their labels lack (%s): these were turned", number, turned[0].source)
        if doubtful := by_turning[None]:
            raise InputError(
                f"expected labels that show by their size whether a photograph was turned by its EXIF tag, found "
                f"{doubtful[0].source}, where both fit, beside unturned ones: save it without that tag, and "
                "draw its labels anew"
            )
    return counts, others


def upright_label(item: Labelled, image: Path | io.BytesIO) -> tuple[np.ndarray, bool | None]:
    """Draw a label map for an upright image, and turn it as the image where it fits that only before its EXIF rotation.

    Returns also whether it was turned; None where its size fits both.
    """
    size, stored, turn = image_size(image), *stored_size(image)
    check_area(size, item.source if isinstance(image, io.BytesIO) else image)  # that it can be trained on
    try:
        return item.draw(size), None if turn and stored == size else False
    except WrongSize as error:
        if not turn or error.found != stored:
            raise
        return np.asarray(Image.fromarray(item.draw(stored)).transpose(turn)), True


def move_into_place(images: Path, labels: Path, folder: Path, present: dict[str, Path]) -> None:
    """Move drawn images and labels into a data set, in the place of the files that are `present` there, by id."""
    for source in (images, labels):
        (folder / source.name).mkdir(exist_ok=True)
    made = {id_of_file(image.name): image for image in images.iterdir()}
    for label in labels.iterdir():  # each image with its labels, so that what interrupts parts no more than one pair
        image_id = id_of_file(label.name)
        if image := made.get(image_id):
            target, other = folder / images.name / image.name, present.get(image_id)
            image.replace(target)
            if other and not other.samefile(target):  # of another suffix
                other.unlink()
        label.replace(folder / labels.name / label.name)


def choose_lists(
    folder: Path, scribbles: dict[str, Path], truth: dict[str, Path], val_share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Choose the images for training and for validation: for the latter, where there is ground truth, only with it.

    Those with ground truth and without scribbles, which cannot be trained on, validate first. Both come as the files by
    id; raises InputError where there are too few for the data set in `folder`.
    """
    labels = scribbles or truth
    only = sorted(truth.keys() - labels.keys())
    wanted = val_share * (len(labels) + len(only)) - len(only)
    if only:
        logger.info("%d images have ground truth and no scribbles: they are for validation", len(only))
        if wanted < 1 and len(labels) > 1:
            return sorted(labels), only
    candidates = sorted(labels.keys() & truth.keys()) if truth else sorted(labels)
    if len(labels) < 3 or len(candidates) < 2:
        raise InputError(
            f"expected at least three labelled images, two of them fit for validation, found {len(labels)} and "
            f"{len(candidates)} for {folder}: label more"
        )
    classes = {}
    for image_id in candidates:
        with open_image(labels[image_id]) as label:
            classes[image_id] = set(np.flatnonzero(label.histogram()[:PADDING]).tolist())
    # The share is of all images, even where only some can be used for validation.
    _, val = stratified_split(classes, min(0.9, wanted / len(candidates)), seed)
    return sorted(labels.keys() - set(val)), sorted([*val, *only])


def stratified_split(classes: dict[str, set[int]], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split ids for training and validation so that each class goes to both in the same proportion.

    The classes are distributed one after the other, the rarest first, because it has the least choice (Sechidis,
    Tsoumakas and Vlahavas 2011). A class of a single image goes to training, unless most images are for validation.

    `classes` has the classes in each image, by id, of at least two; `share`, in (0, 1), of them is held out for
    validation; `seed` chooses which. Returns training ids and validation ids, each in order, neither empty.
    """
    order = sorted(classes)
    np.random.default_rng(seed).shuffle(order)
    members = {value: [i for i in order if value in classes[i]] for value in set().union(*classes.values())}
    total = min(max(1, round(share * len(order))), len(order) - 1)
    train: set[str] = set()
    val: set[str] = set()
    for value in sorted(members, key=lambda value: (len(members[value]), value)):
        ids = members[value]
        wanted = min(round(share * len(ids)) - len(val & set(ids)), total - len(val))
        for image_id in ids:
            if image_id not in val | train:
                (val if wanted > 0 else train).add(image_id)
                wanted -= 1
    val = val or {order[0]}
    return sorted(set(order) - val), sorted(val)

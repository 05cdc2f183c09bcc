"""Look at every file of a data set and say what training would trip over, and what it would silently get wrong."""

import hashlib
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from common.errors import InputError
from dataloaders.datasets.pascal import IMAGES, LISTS, SCRIBBLES, TRUTH, held_out
from dataloaders.images import (
    EXIF_ORIENTATION,
    IMAGE_SUFFIXES,
    grey_bits,
    listing,
    read_image,
    read_label,
    value_counts,
)
from dataloaders.inspection import count_problems
from dataloaders.labels import PADDING, UNLABELLED, voc_palette
from preparation.problems import KINDS, NOTE, Item, Problem, Report

logger = logging.getLogger(__name__)

THUMBNAIL = 32  # side of the grey pictures by which look-alikes are found

ALIKE = 2.0  # root of the mean squared difference, in grey levels, below which two pictures are the same scene

DISAGREE = 0.05, 0.2  # share of wrong scribble pixels: in an image, and in the whole set


def check_dataset(folder: Path, class_names: tuple[str, ...]) -> Report:
    """Read every image and label map of a data set in VOC's layout (see datasets/pascal.py), several at a time.

    Raises InputError only where there is no data set at all, or two files have one id.
    """
    files = {
        IMAGES: listing(folder / IMAGES, IMAGE_SUFFIXES),
        SCRIBBLES: listing(folder / SCRIBBLES, (".png",)),
        TRUTH: listing(folder / TRUTH, (".png",)),
    }
    if not files[IMAGES] or not (files[SCRIBBLES] or files[TRUTH]):
        raise InputError(
            f"expected a data set, found no images in {folder / IMAGES} or no label maps in {folder / SCRIBBLES}: "
            "import_scribbles.py makes one from annotations"
        )
    lists, problems = read_lists(folder, sorted(files[IMAGES].keys() & files[SCRIBBLES].keys()))
    has_truth = bool(files[TRUTH])
    for name, ids in lists.items():
        needed = [IMAGES, TRUTH if name == "val" and has_truth else SCRIBBLES]
        problems += [
            Problem("missing", f"{kind}/{image_id}", f"of the {name} list", image_id)
            for image_id in ids
            for kind in needed
            if image_id not in files[kind]
        ]

    listed = dict.fromkeys(lists["train"] + lists["val"])
    problems += [Problem("not listed", f"{IMAGES}/{i}", "") for i in files[SCRIBBLES] if i not in listed]
    for kind in (SCRIBBLES, TRUTH):
        problems += [Problem("no image", f"{kind}/{i}.png", "") for i in files[kind] if i not in files[IMAGES]]

    def check(image_id: str) -> Item:
        return check_item(folder, image_id, *(files[kind].get(image_id) for kind in files), len(class_names))

    wanted = [image_id for image_id in listed if image_id in files[IMAGES]]
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))  # decoding and hashing release the GIL
    try:
        done = tqdm(
            pool.map(check, wanted), total=len(wanted), desc="checking", unit="image", disable=None, leave=False
        )
        items = {item.id: item for item in done}
    finally:
        pool.shutdown(cancel_futures=True)
    problems += [problem for item in items.values() for problem in item.problems]
    problems += set_problems(lists, items, class_names, has_truth)
    return Report(folder, class_names, lists, items, problems)


def read_lists(folder: Path, scribbled: list[str]) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the ids of train and val, each once, and what is wrong with the lists."""
    if not (folder / LISTS).is_dir():
        val = held_out(scribbled)
        return {"train": sorted(set(scribbled) - set(val)), "val": val}, []
    lists, problems = {}, []
    for name in ("train", "val"):
        file = f"{LISTS}/SegmentationAug/{name}.txt"
        try:
            lines = (folder / file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            lines = []
            problems.append(Problem("list", file, str(getattr(error, "strerror", None) or error)))
        times = Counter(line.strip() for line in lines if line.strip())
        lists[name] = list(times)
        problems += [Problem("listed twice", file, f"'{i}' {count} times") for i, count in times.items() if count > 1]
    return lists, problems


def check_item(
    folder: Path, image_id: str, image_file: Path, scribble_file: Path | None, truth_file: Path | None, num_classes: int
) -> Item:
    """Check the files of one image."""
    item = Item(image_id)

    def found(kind: str, file: Path, detail: str) -> None:
        item.problems.append(Problem(kind, str(file.relative_to(folder)), detail, image_id))

    unturned_size = None  # of a photograph that is to be turned
    labels_unturned = False
    try:
        image = read_image(image_file)
        with Image.open(image_file) as raw:
            if raw.mode.startswith("I"):
                item.bits = grey_bits(np.asarray(raw))
                found("16 bits", image_file, f"the upper 8 of {item.bits} in use" if item.bits > 8 else "the lower 8")
            if raw.has_transparency_data and np.asarray(raw.convert("RGBA"))[..., 3].min() < 255:
                found("transparency", image_file, "")
            orientation = raw.getexif().get(EXIF_ORIENTATION, 1)
            if orientation != 1:
                unturned_size = raw.size
        item.size = image.size
        item.digest = hashlib.sha1(repr(image.size).encode() + image.tobytes()).digest()
        item.thumbnail = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    except InputError as error:
        found("unreadable", image_file, str(error))

    labels = {}
    for name, file in (("scribbles", scribble_file), ("truth", truth_file)):
        if file is None:
            continue
        label, kind, detail = look_at_label(file, num_classes)
        if kind:
            found(kind, file, detail)
        if label is None:
            continue
        labels[name] = label
        counts = value_counts(label)
        setattr(item, name, counts)
        if counts[PADDING]:
            found("value 254", file, f"{counts[PADDING]} pixels")
        if item.size and item.size != label.shape[::-1]:
            if label.shape[::-1] == unturned_size:
                labels_unturned = True
            else:
                height, width = label.shape
                found("label size", file, f"{width}x{height}, the image {item.size[0]}x{item.size[1]}")
    if unturned_size:
        kind = "EXIF rotation, labels not turned" if labels_unturned else "EXIF rotation"
        found(kind, image_file, f"orientation {orientation}")

    if "scribbles" in labels:
        counts, share = item.scribbles, item.scribbles[:num_classes].sum() / labels["scribbles"].size
        if not share:
            found("no labels", scribble_file, "")
        elif zero_means_unlabelled(labels["scribbles"]):
            found("0 for unlabelled", scribble_file, f"{counts[0] / counts.sum():.0%} of the pixels are 0")
        elif share > 0.5:
            found("full masks", scribble_file, f"{share:.0%} of the pixels")
    if len(labels) == 2 and labels["scribbles"].shape == labels["truth"].shape:
        compared = (labels["scribbles"] < num_classes) & (labels["truth"] < num_classes)
        item.compared = int(compared.sum())
        item.wrong = int((compared & (labels["scribbles"] != labels["truth"])).sum())
        if item.wrong > DISAGREE[0] * item.compared:
            found("contradiction", scribble_file, f"{item.wrong / item.compared:.0%} of its labelled pixels")
    return item


def look_at_label(file: Path, num_classes: int) -> tuple[np.ndarray | None, str | None, str]:
    """Read a label map as far as possible: class numbers uint8 (H, W) or None, the kind of problem or None, details."""
    try:
        label = read_label(file, num_classes)
    except InputError as error:
        detail = str(error)
    else:
        with Image.open(file) as image:
            return label, *(("palette", "") if has_foreign_palette(image, label) else (None, ""))
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return None, "unreadable", detail
    if image.mode in ("P", "L"):
        return None, "label values", detail
    label = plain_class_numbers(image, num_classes)
    return label, "label mode" if label is None else "label mode, plain", f"mode {image.mode}"


def has_foreign_palette(image: Image.Image, label: np.ndarray) -> bool:
    """Whether every colour in use is one of VOC's, but stands at another number."""
    if image.mode != "P":
        return False
    own = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    values = [value for value in np.unique(label) if value < len(own)]
    voc = {tuple(colour): value for value, colour in enumerate(voc_palette().tolist())}
    meant = [voc.get(tuple(own[value].tolist())) for value in values]
    return None not in meant and meant != values


def plain_class_numbers(image: Image.Image, num_classes: int) -> np.ndarray | None:
    """Return class numbers, uint8 (H, W), of a picture of another mode where there is no doubt about them, else None.

    That is: class numbers of 1, 16 or 32 bits, grey in three channels, VOC's colours. Transparent means unlabelled.
    """
    allowed = np.zeros(256, dtype=bool)
    allowed[:num_classes] = allowed[UNLABELLED] = True
    if image.mode == "1" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        fits = values.min() >= 0 and values.max() < 256 and allowed[values].all()
        return values.astype(np.uint8) if fits else None
    pixels = np.asarray(image.convert("RGBA"))
    colours, opaque = pixels[..., :3], pixels[..., 3] > 127
    grey = colours[..., 0]
    if not ((colours == grey[..., None]).all(-1) & allowed[grey] | ~opaque).all():
        grey = np.full(grey.shape, PADDING, dtype=np.uint8)
        for value in np.flatnonzero(allowed):
            grey[(colours == voc_palette()[value]).all(-1)] = value
        if (grey[opaque] == PADDING).any():
            return None
    return np.where(opaque, grey, np.uint8(UNLABELLED))


def zero_means_unlabelled(label: np.ndarray) -> bool:
    """Whether a scribble map is thin strokes on 0, without a single 255."""
    drawn = label != 0
    if (label == UNLABELLED).any() or not 0 < drawn.mean() < 0.5:
        return False
    radius = max(3, round(0.02 * min(label.shape)))
    # A pixel farther than the radius from the edge of what is drawn keeps its 255; strokes have next to none.
    inner = np.asarray(Image.fromarray(drawn.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(radius))) == 255
    return inner.sum() < 0.05 * drawn.sum()


def set_problems(
    lists: dict[str, list[str]], items: dict[str, Item], class_names: tuple[str, ...], has_truth: bool
) -> list[Problem]:
    """Find what only the set as a whole shows."""
    problems = []
    if len(lists["train"]) < 2 or not lists["val"]:
        problems.append(Problem("few images", "", f"{len(lists['train'])} and {len(lists['val'])}"))
    if not has_truth:
        problems.append(Problem("no truth", "", ""))
    bits = Counter(item.bits for item in items.values() if item.bits)
    if len(bits) > 1:
        problems.append(Problem("grey levels", IMAGES, ", ".join(f"{n} images with {b} bits" for b, n in bits.items())))
    scribbles = [items[i].scribbles for i in lists["train"] if i in items and items[i].scribbles is not None]
    # Where strokes stand on 0, a map of nothing but 0 is an image that nobody scribbled on, not pure background.
    if any(problem.kind == "0 for unlabelled" for item in items.values() for problem in item.problems):
        problems += [
            Problem("0 for unlabelled", f"{SCRIBBLES}/{item.id}.png", "nothing but 0", item.id)
            for item in items.values()
            if item.scribbles is not None and item.scribbles[0] == item.scribbles.sum()
        ]
    if scribbles:
        images = sum((counts > 0).astype(int) for counts in scribbles)
        problems += count_problems(sum(scribbles), class_names)
        if 0 < images[0] < 0.5 * len(scribbles):
            problems.append(
                Problem("background in few", "", f"{len(scribbles) - images[0]} of {len(scribbles)} images")
            )
        problems += [
            Problem("class rarely", "", f"'{name}' in {count}")
            for name, count in zip(class_names, images, strict=False)
            if 0 < count < min(3, len(scribbles))
        ]
    truth = sum((item.truth for item in items.values() if item.truth is not None), np.zeros(256, dtype=np.int64))
    if truth[UNLABELLED] and truth[0] and not truth[1:PADDING].any():
        problems.append(Problem("255 for the object", TRUTH, f"{truth[UNLABELLED] / truth.sum():.0%} of its pixels"))
    wrong, compared = (sum(getattr(item, name) for item in items.values()) for name in ("wrong", "compared"))
    if wrong > DISAGREE[1] * compared:
        problems.append(
            Problem("contradiction everywhere", SCRIBBLES, f"{wrong / compared:.0%} of all labelled pixels")
        )
    return problems + split_problems(lists, items)


def split_problems(lists: dict[str, list[str]], items: dict[str, Item]) -> list[Problem]:
    """Find pictures that train and validate, under one id or two, and pictures that only look so."""
    train, val = ([items[i] for i in lists[name] if i in items and items[i].digest] for name in ("train", "val"))
    by_digest = {item.digest: item.id for item in train}
    problems, alike = [], []
    for item in val:
        if item.digest in by_digest:
            other = by_digest[item.digest]
            name = "" if other == item.id else f"as '{item.id}' in the val list"
            problems.append(Problem("train and val", f"{IMAGES}/{other}", name, other))
        else:
            alike.append(item)
    if alike and train:
        pictures = np.stack([item.thumbnail.ravel() for item in train]).astype(np.float32)
        lengths = (pictures**2).sum(1)
        for item in alike:
            picture = item.thumbnail.ravel().astype(np.float32)
            squared = lengths - 2 * (pictures @ picture) + picture @ picture
            nearest = int(squared.argmin())
            if squared[nearest] < ALIKE**2 * picture.size:
                problems.append(Problem("look-alikes", f"{IMAGES}/{item.id}", f"like '{train[nearest].id}'", item.id))
    return problems


def sheet_rows(report: Report, rows: int = 8) -> dict[str, dict[str, Any]]:
    """Return pictures to look at, by id: image, scribbles and truth of images with problems, then of others.

    Each is None where it cannot be read; label maps are uint8 (H, W). Images that cannot be read are left out.
    """
    listed = [i for i in dict.fromkeys(report.lists["train"] + report.lists["val"]) if i in report.items]
    readable = [i for i in listed if report.items[i].size]
    troubled = {p.id for p in report.problems if KINDS[p.kind].level != NOTE}
    chosen = [i for i in readable if i in troubled][: rows // 2]
    others = [i for i in readable if i not in chosen]
    chosen += [others[at] for at in np.linspace(0, len(others) - 1, min(rows - len(chosen), len(others))).astype(int)]
    images = listing(report.folder / IMAGES, IMAGE_SUFFIXES)
    found: dict[str, dict[str, Any]] = {}
    for image_id in chosen:
        found[image_id] = {"image": read_image(images[image_id])}
        for name, kind in (("scribbles", SCRIBBLES), ("truth", TRUTH)):
            file = report.folder / kind / f"{image_id}.png"
            found[image_id][name] = look_at_label(file, len(report.class_names))[0] if file.is_file() else None
    return found

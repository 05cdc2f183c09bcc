"""Look at every file of a data set and say what training would trip over, and what it would silently get wrong."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InputError
from common.parallel import in_parallel
from dataloaders.class_names import is_background
from dataloaders.images import EXIF_ORIENTATION, grey_bits, read_image, value_counts
from dataloaders.inspection import classes_without_labels
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.layout import IMAGES, LISTS, SCRIBBLES, TRUTH, list_file, list_files, read_list, split_by_name
from preparation.label_maps import look_at_label, zero_means_unlabelled
from preparation.problems import KINDS, NOTE, Item, Problem, Report

SHEET_ROWS = 8
THUMBNAIL = 32  # side of the grey pictures by which look-alikes are found
ALIKE = 2.0  # root of the mean squared difference, in grey levels, below which two pictures are the same scene
DISAGREE = 0.05, 0.2  # share of wrong scribble pixels from which an image, and a whole set, is a problem


def check_dataset(folder: Path, class_names: tuple[str, ...]) -> Report:
    """Read every image and label map of a data set of the layout in dataloaders/layout.py, several at a time.

    Raises InputError only where there is no data set at all, or two files have one id.
    """
    files = {kind: list_files(folder, kind) for kind in (IMAGES, SCRIBBLES, TRUTH)}
    if not files[IMAGES] or not (files[SCRIBBLES] or files[TRUTH]):
        raise InputError(
            f"expected a data set, found no images in {folder / IMAGES} or no label maps in {folder / SCRIBBLES}: "
            "import_scribbles.py makes one from annotations"
        )
    lists, problems = read_lists(folder, files[IMAGES].keys() & files[SCRIBBLES].keys())
    problems += file_problems(files, lists)

    def check(image_id: str) -> Item:
        found = {kind: files[kind].get(image_id) for kind in files}
        return check_item(folder, found, Item(image_id), len(class_names))

    ids = [i for i in dict.fromkeys(lists["train"] + lists["val"]) if i in files[IMAGES]]
    items = {item.id: item for item in in_parallel(ThreadPoolExecutor, check, ids, title="checking", unit="image")}
    problems += [problem for item in items.values() for problem in item.problems]
    report = Report(folder, class_names, lists, items, problems)
    problems += set_problems(report)
    if not files[TRUTH]:
        problems.append(Problem("no truth"))
    problems += split_problems(lists, items)
    return report


def read_lists(folder: Path, scribbled: Collection[str]) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the ids of train and val, each once, and what is wrong with the lists."""
    if not (folder / LISTS).is_dir():
        return split_by_name(scribbled), []
    lists, problems = {}, []
    for name in ("train", "val"):
        file, ids = str(list_file(Path(), name)), []
        try:
            ids = read_list(folder, name)
        except InputError as error:
            problems.append(Problem("list", file, str(error)))
        times = Counter(ids)
        lists[name] = list(times)
        problems += [Problem("listed twice", file, f"'{i}' {count} times") for i, count in times.items() if count > 1]
    return lists, problems


def file_problems(files: dict[str, dict[str, Path]], lists: dict[str, list[str]]) -> list[Problem]:
    """Find files, given by kind and id, that are missing, or that nothing refers to."""
    problems = []
    for name, ids in lists.items():
        kinds = IMAGES, TRUTH if name == "val" and files[TRUTH] else SCRIBBLES
        absent = [(kind, i) for i in ids for kind in kinds if i not in files[kind]]
        problems += [Problem("missing", f"{kind}/{i}", f"of the {name} list", i) for kind, i in absent]
    listed = {*lists["train"], *lists["val"]}
    problems += [Problem("not listed", f"{IMAGES}/{i}") for i in files[SCRIBBLES] if i not in listed]
    for kind in (SCRIBBLES, TRUTH):
        problems += [Problem("no image", f"{kind}/{i}.png") for i in files[kind] if i not in files[IMAGES]]
    return problems


def check_item(folder: Path, files: dict[str, Path | None], item: Item, num_classes: int) -> Item:
    """Add to an item what is in its image, its scribbles and its truth, and what is wrong with them."""

    def found(kind: str, file: Path, detail: str = "") -> None:
        item.problems.append(Problem(kind, str(file.relative_to(folder)), detail, item.id))

    unrotated_size, orientation = look_at_image(files[IMAGES], item, found)
    labels, fit_unrotated = {}, False
    for kind in (SCRIBBLES, TRUTH):
        label, problem, detail = look_at_label(files[kind], num_classes) if files[kind] else (None, None, "")
        if problem:
            found(problem, files[kind], detail)
        if label is None:
            continue
        labels[kind], size = label, label.shape[::-1]
        if (label == PADDING).any():
            found("value 254", files[kind], f"{(label == PADDING).sum()} pixels")
        if item.size and size != item.size and size == unrotated_size:
            fit_unrotated = True
        elif item.size and size != item.size:
            found("label size", files[kind], f"{size[0]}x{size[1]}, the image {item.size[0]}x{item.size[1]}")
    if orientation != 1:
        kind = "EXIF rotation, labels not turned" if fit_unrotated else "EXIF rotation"
        found(kind, files[IMAGES], f"orientation {orientation}")
    if TRUTH in labels:
        item.truth = value_counts(labels[TRUTH])
    if SCRIBBLES in labels:
        item.scribbles = value_counts(labels[SCRIBBLES])
        check_scribbles(labels[SCRIBBLES], files[SCRIBBLES], num_classes, found)
    if len(labels) == 2 and labels[SCRIBBLES].shape == labels[TRUTH].shape:
        compared = (labels[SCRIBBLES] < num_classes) & (labels[TRUTH] < num_classes)
        item.compared = int(compared.sum())
        item.wrong = int((compared & (labels[SCRIBBLES] != labels[TRUTH])).sum())
        if item.wrong > DISAGREE[0] * item.compared:
            found("contradiction", files[SCRIBBLES], f"{item.wrong / item.compared:.0%} of its labelled pixels")
    return item


def look_at_image(file: Path, item: Item, found: Callable[..., None]) -> tuple[tuple[int, int] | None, int]:
    """Read an image; return its size before an EXIF rotation, and its EXIF orientation, 1 where there is none."""
    try:
        image = read_image(file)
    except InputError as error:
        found("unreadable", file, str(error))
        return None, 1
    item.size = image.size
    item.digest = hashlib.sha1(repr(image.size).encode() + image.tobytes()).digest()
    item.thumbnail = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    with Image.open(file) as raw:
        if raw.mode.startswith("I"):
            item.bits = grey_bits(np.asarray(raw))
            found("16 bits", file, f"the upper 8 of {item.bits} in use" if item.bits > 8 else "the lower 8")
        if raw.has_transparency_data and np.asarray(raw.convert("RGBA"))[..., 3].min() < 255:
            found("transparency", file)
        return raw.size, raw.getexif().get(EXIF_ORIENTATION, 1)


def check_scribbles(label: np.ndarray, file: Path, num_classes: int, found: Callable[..., None]) -> None:
    """Find a scribble map without labels, with 0 for unlabelled pixels, or with labels nearly everywhere."""
    counts = value_counts(label)
    share = counts[:num_classes].sum() / label.size
    if not share:
        found("no labels", file)
    elif zero_means_unlabelled(label):
        found("0 for unlabelled", file, f"{counts[0] / counts.sum():.0%} of the pixels are 0")
    elif share > 0.5:
        found("full masks", file, f"{share:.0%} of the pixels")


def set_problems(report: Report) -> list[Problem]:
    """Find what shows only in the whole set."""
    items, problems = report.items.values(), []
    train, val = (len(report.lists[name]) for name in ("train", "val"))
    if train < 2 or not val:
        problems.append(Problem("few images", "", f"{train} and {val}"))
    bits = Counter(item.bits for item in items if item.bits)
    if len(bits) > 1:
        problems.append(Problem("grey levels", IMAGES, ", ".join(f"{n} images with {b} bits" for b, n in bits.items())))
    # Where strokes are on 0, a map of nothing but 0 is an image that nobody scribbled on, not pure background.
    if any(problem.kind == "0 for unlabelled" for problem in report.problems):
        zeros = [i.id for i in items if i.scribbles is not None and i.scribbles[0] == i.scribbles.sum()]
        problems += [Problem("0 for unlabelled", f"{SCRIBBLES}/{i}.png", "nothing but 0", i) for i in zeros]
    if not is_background(report.class_names[0]):
        problems.append(Problem("class 0", "", f"'{report.class_names[0]}'"))
    if report.scribbles:
        problems += class_problems(report.scribbles, report.class_names)
    truth = report.truth
    if truth[UNLABELLED] and truth[0] and not truth[1:PADDING].any():
        problems.append(Problem("255 for the object", TRUTH, f"{truth[UNLABELLED] / truth.sum():.0%} of its pixels"))
    wrong, compared = sum(item.wrong for item in items), sum(item.compared for item in items)
    if wrong > DISAGREE[1] * compared:
        share = f"{wrong / compared:.0%} of all labelled pixels"
        problems.append(Problem("contradiction everywhere", SCRIBBLES, share))
    return problems


def class_problems(scribbles: list[np.ndarray], class_names: tuple[str, ...]) -> list[Problem]:
    """Find classes that are rarely or never labelled, by the pixel counts, int64 (256,), of each training image."""
    never = classes_without_labels(sum(scribbles), class_names)
    problems = [Problem("no background" if is_background(n) else "class never", "", f"'{n}'") for n in never]
    total, images = len(scribbles), (np.array(scribbles) > 0).sum(0)
    if is_background(class_names[0]) and 0 < images[0] < 0.5 * total:
        problems.append(Problem("background in few", "", f"{total - images[0]} of {total} images"))
    rare = [(name, n) for name, n in zip(class_names, images, strict=False) if 0 < n < min(3, total)]
    return problems + [Problem("class rarely", "", f"'{name}' in {number}") for name, number in rare]


def split_problems(lists: dict[str, list[str]], items: dict[str, Item]) -> list[Problem]:
    """Find pictures that are in both lists, under one id or two, and pictures that look as if they were."""
    train, val = ([items[i] for i in lists[name] if i in items and items[i].digest] for name in ("train", "val"))
    if not train:
        return []
    by_digest = {item.digest: item.id for item in train}
    pictures = np.array([item.thumbnail.ravel() for item in train], dtype=np.float32)
    lengths, problems = (pictures**2).sum(1), []
    for item in val:
        if other := by_digest.get(item.digest):
            detail = "" if other == item.id else f"as '{item.id}' in the val list"
            problems.append(Problem("train and val", f"{IMAGES}/{other}", detail, other))
            continue
        picture = item.thumbnail.ravel().astype(np.float32)
        squared = lengths - 2 * (pictures @ picture) + picture @ picture
        nearest = int(squared.argmin())
        if squared[nearest] < ALIKE**2 * picture.size:
            problems.append(Problem("look-alikes", f"{IMAGES}/{item.id}", f"like '{train[nearest].id}'", item.id))
    return problems


def sheet_rows(report: Report) -> dict[str, dict[str, Any]]:
    """Return pictures to look at, by id: image, scribbles and truth of images with problems, then of others.

    Label maps are uint8 (H, W), None where they cannot be read; unreadable images are left out.
    """
    listed = [i for i in dict.fromkeys(report.lists["train"] + report.lists["val"]) if i in report.items]
    readable = [i for i in listed if report.items[i].size]
    troubled = {p.id for p in report.problems if KINDS[p.kind].level != NOTE}
    chosen = [i for i in readable if i in troubled][: SHEET_ROWS // 2]
    others = [i for i in readable if i not in chosen]
    number = min(SHEET_ROWS - len(chosen), len(others))
    chosen += [others[at] for at in np.linspace(0, len(others) - 1, number).astype(int)]
    images = list_files(report.folder, IMAGES)
    found: dict[str, dict[str, Any]] = {i: {"image": read_image(images[i])} for i in chosen}
    for image_id, row in found.items():
        for name, kind in (("scribbles", SCRIBBLES), ("truth", TRUTH)):
            file = report.folder / kind / f"{image_id}.png"
            row[name] = look_at_label(file, len(report.class_names))[0] if file.is_file() else None
    return found

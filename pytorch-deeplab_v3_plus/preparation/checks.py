"""Look at every file of a data set and say what training would trip over, and what it would silently get wrong."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InputError
from common.parallel import in_threads
from dataloaders.class_names import is_background
from dataloaders.images import (
    EXIF_ORIENTATION,
    TURNS,
    grey_bits,
    is_lossy,
    open_image,
    pages,
    read_image,
    stored_size,
    value_counts,
)
from dataloaders.inspection import classes_without_labels, object_is_255
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.layout import (
    ARRAY_SUFFIXES,
    IMAGES,
    SCRIBBLES,
    TRUTH,
    find_files,
    has_lists,
    list_file,
    read_list,
    split_by_name,
    unread_files,
)
from dataloaders.sizes import DEFAULT_CROP, SMALL_CROP
from dataloaders.thinning import thin_classes, thinned_out
from preparation.label_maps import look_at_label, zero_means_unlabelled
from preparation.problems import KINDS, NOTE, Item, Problem, Report

Files = dict[str, dict[str, Path]]  # by kind and by id
SHEET_ROWS = 8
THUMBNAIL = 32  # side of the grey pictures by which look-alikes are found
ALIKE = 2.0  # root of the mean squared difference, in grey levels, below which two pictures are the same scene
SHEET_PIXELS = 400  # short side to which the pictures to look at are reduced, at least
ROWS = 256  # of an image, of which the digest is made at a time
SIDES = SMALL_CROP, DEFAULT_CROP  # of the images in training with a preset for small images, and without
DISAGREE = 0.05, 0.2  # share of wrong scribble pixels from which an image, and a whole set, is a problem


def check_dataset(folder: Path, class_names: tuple[str, ...]) -> Report:
    """Read every image and label map of a data set of the layout in dataloaders/layout.py, several at a time.

    Raises InputError only where there is no data set at all, or two files have one id.
    """
    files = {kind: find_files(folder, kind) for kind in (IMAGES, SCRIBBLES, TRUTH)}
    if not files[IMAGES] or not (files[SCRIBBLES] or files[TRUTH]):
        raise InputError(
            f"expected a data set, found no images in {folder / IMAGES} or no label maps in {folder / SCRIBBLES}: "
            "import_scribbles.py makes one from annotations"
        )
    lists, problems = read_lists(folder, files)
    problems += file_problems(folder, files, lists)

    def check(image_id: str) -> Item:
        found = {kind: files[kind].get(image_id) for kind in files}
        return check_item(folder, found, Item(image_id), len(class_names))

    ids = [i for i in dict.fromkeys(lists["train"] + lists["val"]) if i in files[IMAGES]]
    items = {item.id: item for item in in_threads(check, ids, title="checking", unit="image")}
    problems += [problem for item in items.values() for problem in item.problems]
    unreadable = {problem.file for problem in problems if problem.kind == "unreadable"}
    problems = [p for p in problems if p.kind != "label file" or p.file not in unreadable]  # it cannot become a PNG
    report = Report(folder, class_names, lists, items, problems)
    problems += set_problems(report)
    problems += [
        Problem(absent) for absent, kind in (("no truth", TRUTH), ("no scribbles", SCRIBBLES)) if not files[kind]
    ]
    problems += split_problems(lists, items)
    return report


def read_lists(folder: Path, files: Files) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the ids of train and val, each once, and what is wrong with the lists."""
    if not has_lists(folder):
        return split_by_name(files[IMAGES].keys() & (files[SCRIBBLES] or files[TRUTH]).keys()), []
    lists, problems = {}, []
    for name in ("train", "val"):
        file, ids = str(list_file(Path(), name)), []
        try:
            ids = read_list(folder, name, files[IMAGES])
        except InputError as error:
            problems.append(Problem("list", file, str(error)))
        times = Counter(ids)
        lists[name] = list(times)
        problems += [Problem("listed twice", file, f"'{i}' {count} times") for i, count in times.items() if count > 1]
    return lists, problems


def file_problems(folder: Path, files: Files, lists: dict[str, list[str]]) -> list[Problem]:
    """Find files, given by kind and id, that are missing, of kinds that are not read, or that nothing refers to."""
    problems, unread = [], {kind: unread_files(folder, kind) for kind in files}

    def instead(kind: str, image_id: str) -> str:
        file = unread[kind].get(image_id)
        return f"{file.name} is there, but such files are not read: save it as JPEG or PNG" if file else ""

    train = SCRIBBLES if files[SCRIBBLES] else TRUTH
    for name, ids in lists.items():
        kinds = IMAGES, TRUTH if name == "val" and files[TRUTH] else train
        absent = [(kind, i) for i in ids for kind in kinds if i not in files[kind]]
        for kind, i in absent:
            problems.append(Problem("missing", f"{kind}/{i}", instead(kind, i) or f"of the {name} list", i))
    listed = {*lists["train"], *lists["val"]}
    problems += [Problem("not listed", f"{IMAGES}/{i}") for i in files[SCRIBBLES] if i not in listed]
    for kind in (SCRIBBLES, TRUTH):
        for i, file in files[kind].items():
            if i not in files[IMAGES]:
                problems.append(Problem("no image", f"{kind}/{file.name}", instead(IMAGES, i)))
            if file.suffix.lower() != ".png":
                array = file.suffix.lower() in ARRAY_SUFFIXES
                what = "label file" + (", array" if array else ", lossy" if is_lossy(file) else "")
                problems.append(Problem(what, f"{kind}/{file.name}", "", i))
    paths = [path for others in unread.values() for path in others.values() if path.is_dir()]
    return problems + [Problem("sub-folder", str(path.relative_to(folder))) for path in paths]


def check_item(folder: Path, files: dict[str, Path | None], item: Item, num_classes: int) -> Item:
    """Add to an item what is in its image, its scribbles and its truth, and what is wrong with them."""

    def found(kind: str, file: Path, detail: str = "") -> None:
        item.problems.append(Problem(kind, str(file.relative_to(folder)), detail, item.id))

    unrotated_size, orientation = look_at_image(files[IMAGES], item, found)
    labels, fit_unrotated = {}, False
    for kind in (SCRIBBLES, TRUTH):
        picture = files[kind] and files[kind].suffix.lower() not in ARRAY_SUFFIXES
        label, problem, detail = look_at_label(files[kind], num_classes) if picture else (None, None, "")
        if problem:
            found(problem, files[kind], detail)
        if label is None:
            continue
        labels[kind], size = label, label.shape[::-1]
        look_for_pages(files[kind], found)
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
        item.thinned = {side: thinned_out(labels[SCRIBBLES], side) for side in SIDES}
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
    look_for_pages(file, found)
    item.size = image.size
    item.digest = digest(image)
    item.thumbnail = np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    with open_image(file) as raw:
        if raw.mode.startswith("I"):
            item.bits = grey_bits(np.asarray(raw))
            found("16 bits", file, f"the upper 8 of {item.bits} in use" if item.bits > 8 else "the lower 8")
        if raw.has_transparency_data and np.asarray(raw.convert("RGBA"))[..., 3].min() < 255:
            found("transparency", file)
        orientation = raw.getexif().get(EXIF_ORIENTATION, 1)
    return stored_size(file)[0], orientation if orientation in TURNS else 1  # 0, which some programs write: unknown


def look_for_pages(file: Path, found: Callable[..., None]) -> None:
    """Find a picture behind the first one in a file that can be opened."""
    if (number := pages(file)) > 1:
        found("pages", file, f"{number} of them")


def digest(image: Image.Image) -> bytes:
    """Return the digest of an image's pixels, made of a few rows at a time: a photograph has many."""
    sha1 = hashlib.sha1(repr(image.size).encode())
    for top in range(0, image.height, ROWS):
        sha1.update(image.crop((0, top, image.width, min(top + ROWS, image.height))).tobytes())
    return sha1.digest()


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
    if (number := len(report.lists["train"])) < 2:
        problems.append(Problem("few images", "", f"{number}"))
    if not report.lists["val"]:
        problems.append(Problem("no validation", str(list_file(Path(), "val"))))
    kind = TRUTH if find_files(report.folder, TRUTH) else SCRIBBLES  # of the validation images
    if unlabelled(report, "val", kind):
        problems.append(Problem("nothing to score", kind))
    if unlabelled(report, "train", TRUTH):
        problems.append(Problem("no fill-in score", TRUTH))
    bits = Counter(item.bits for item in items if item.bits)
    if len(bits) > 1:
        problems.append(Problem("grey levels", IMAGES, ", ".join(f"{n} images with {b} bits" for b, n in bits.items())))
    # Where strokes are on 0, a map of nothing but 0 is an image that nobody scribbled on, not pure background.
    if any(problem.kind == "0 for unlabelled" for problem in report.problems):
        zeros = [i.id for i in items if i.scribbles is not None and i.scribbles[0] == i.scribbles.sum()]
        files = find_files(report.folder, SCRIBBLES)
        problems += [Problem("0 for unlabelled", f"{SCRIBBLES}/{files[i].name}", "nothing but 0", i) for i in zeros]
    if not is_background(report.class_names[0]):
        problems.append(Problem("class 0", "", f"'{report.class_names[0]}'"))
    for kind, counts in ((SCRIBBLES, sum(report.scribbles, np.zeros(256, dtype=np.int64))), (TRUTH, report.truth)):
        if object_is_255(counts):
            share = f"{counts[UNLABELLED] / counts.sum():.0%} of the pixels are 255"
            problems.append(Problem("255 for the object", kind, share))
        elif kind == SCRIBBLES and counts.any():
            problems += class_problems(report.scribbles, report.class_names)
    labelled = sum((counts > 0 for counts in report.scribbles), np.zeros(256, dtype=np.int64))
    for side in SIDES:
        thinned = sum((item.thinned[side] for item in report.scribbled), np.zeros(256, dtype=np.int64))
        if thin := thin_classes(thinned, labelled, report.class_names, side):
            problems.append(Problem("too thin", "", thin))
    wrong, compared = sum(item.wrong for item in items), sum(item.compared for item in items)
    if wrong > DISAGREE[1] * compared:
        share = f"{wrong / compared:.0%} of all labelled pixels"
        problems.append(Problem("contradiction everywhere", SCRIBBLES, share))
    return problems


def unlabelled(report: Report, name: str, kind: str) -> bool:
    """Return whether label maps of the images in a list can be read, and no pixel of any has a class."""
    items = [report.items[i] for i in report.lists[name] if i in report.items]
    counts = [item.truth if kind == TRUTH else item.scribbles for item in items]
    known = [one[: len(report.class_names)].any() for one in counts if one is not None]
    return bool(known) and not any(known)


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
    by_digest: dict[bytes, list[str]] = {}
    for item in train:
        by_digest.setdefault(item.digest, []).append(item.id)
    pictures = np.array([item.thumbnail.ravel() for item in train], dtype=np.float32)
    lengths, problems = (pictures**2).sum(1), []
    for item in val:
        for other in (same := by_digest.get(item.digest, [])):
            detail = "" if other == item.id else f"as '{item.id}' in the val list"
            problems.append(Problem("train and val", f"{IMAGES}/{other}", detail, other))
        if same:
            continue
        picture = item.thumbnail.ravel().astype(np.float32)
        squared = lengths - 2 * (pictures @ picture) + picture @ picture
        nearest = int(squared.argmin())
        if squared[nearest] < ALIKE**2 * picture.size:
            problems.append(Problem("look-alikes", f"{IMAGES}/{item.id}", f"like '{train[nearest].id}'", item.id))
    return problems


def sheet_rows(report: Report) -> dict[str, dict[str, Any]]:
    """Return pictures to look at, by id: image, scribbles and truth of images with problems, then of others.

    Label maps are uint8 (H, W), None where they cannot be read; unreadable images are left out. Large pictures are
    reduced, to about the size at which the sheet shows them.
    """
    listed = [i for i in dict.fromkeys(report.lists["train"] + report.lists["val"]) if i in report.items]
    readable = [i for i in listed if report.items[i].size]
    troubled = {p.id for p in report.problems if KINDS[p.kind].level != NOTE}
    chosen = [i for i in readable if i in troubled][: SHEET_ROWS // 2]
    others = [i for i in readable if i not in chosen]
    number = min(SHEET_ROWS - len(chosen), len(others))
    chosen += [others[at] for at in np.linspace(0, len(others) - 1, number).astype(int)]
    files = {kind: find_files(report.folder, kind) for kind in (IMAGES, SCRIBBLES, TRUTH)}
    rows = {}
    for image_id in chosen:
        image = read_image(files[IMAGES][image_id])
        factor = max(1, min(image.size) // SHEET_PIXELS)
        rows[image_id] = {"image": image.reduce(factor)}
        for name, kind in (("scribbles", SCRIBBLES), ("truth", TRUTH)):
            file = files[kind].get(image_id)
            label = look_at_label(file, len(report.class_names))[0] if file else None
            rows[image_id][name] = None if label is None else reduced(label, factor)
    return rows


def reduced(label: np.ndarray, factor: int) -> np.ndarray:
    """Return a label map of which each `factor` x `factor` pixels have become one, so that thin strokes can be seen."""
    height, width = (-(-side // factor) for side in label.shape)
    padding = [(0, side * factor - old) for side, old in zip((height, width), label.shape, strict=True)]
    blocks = np.pad(label, padding, constant_values=UNLABELLED).reshape(height, factor, width, factor)
    return blocks.min((1, 3))  # 254 and 255 are no classes

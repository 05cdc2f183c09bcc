"""The folder of a data set: the names of its subfolders, its class names and its lists of images.

JPEGImages/ID.jpg                           images (any of IMAGE_SUFFIXES)
pascal_2012_scribble/ID.png                 scribbles: class numbers, 255 where nothing is drawn
SegmentationClassAug/ID.png                 full ground truth in the same coding, optional
ImageSets/SegmentationAug/{train,val}.txt   one image id a line; without ImageSets the ids are split by name
classes.txt                                 one class name a line, the background first
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

from common.errors import InputError
from common.files import read_text, why, write_text
from dataloaders.class_names import check_class_names, check_form, tidy
from dataloaders.images import IMAGE_SUFFIXES, id_of_file, listing
from dataloaders.labels import VOC_CLASSES

logger = logging.getLogger(__name__)

IMAGES, SCRIBBLES, TRUTH, LISTS = "JPEGImages", "pascal_2012_scribble", "SegmentationClassAug", "ImageSets"
CLASS_FILE = "classes.txt"
PREDICTION, REFINED = "_prediction.png", "_crf.png"  # ends of the names of inference.py's label maps
ARRAY_SUFFIXES = (".npy", ".mat")
OTHER_LABEL_SUFFIXES = (*(suffix for suffix in IMAGE_SUFFIXES if suffix != ".png"), ".gif", *ARRAY_SUFFIXES)
ARRAY_ADVICE = "save it as PNG, in Python with Image.fromarray(numbers.astype('uint8')).save('ID.png')"
VAL_EVERY = 5


def list_files(folder: Path, kind: str) -> dict[str, Path]:
    """Return a data set's images or label maps of a kind (IMAGES, SCRIBBLES or TRUTH) by id, as listing does.

    Raises InputError also for label maps that are no PNGs.
    """
    files = find_files(folder, kind)
    others = [path for path in files.values() if kind != IMAGES and path.suffix.lower() != ".png"]
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        arrays = others[0].suffix.lower() in ARRAY_SUFFIXES
        advice = ARRAY_ADVICE if arrays else f"check_dataset.py {folder} --fix OUT writes PNGs"
        raise InputError(f"expected label maps as PNG, found {others[0]}{more}: {advice}")
    return files


def find_files(folder: Path, kind: str) -> dict[str, Path]:
    """Return what list_files does, and of each id that has no PNG a label map of another format."""
    if kind == IMAGES:
        return listing(folder / kind, IMAGE_SUFFIXES)
    return listing(folder / kind, OTHER_LABEL_SUFFIXES) | listing(folder / kind, (".png",))


def unread_files(folder: Path, kind: str) -> dict[str, Path]:
    """Return the files beside those of find_files, of kinds that are not read (HEIC, say), by id."""
    known = find_files(folder, kind)
    paths = sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else []
    return {id_of_file(path.name): path for path in paths if path.name[0] != "." and id_of_file(path.name) not in known}


def has_lists(folder: Path) -> bool:
    """Whether a data set has lists, be it as a link that leads nowhere; otherwise split_by_name makes them."""
    return os.path.lexists(folder / LISTS)


def list_file(folder: Path, name: str) -> Path:
    """Return the file of the list `name`: train or val."""
    return folder / LISTS / "SegmentationAug" / f"{name}.txt"


def read_list(folder: Path, name: str, known: Collection[str]) -> list[str]:
    """Return the image ids in a list, repeated ones included; raise InputError where it cannot be read.

    A line may also be the file name of an image, or the paths of an image and its label map, if its id is `known`.
    """
    path = list_file(folder, name)
    if not os.path.lexists(path):
        raise InputError(f"expected the list of {name} images {path}, one id a line, but it does not exist")
    lines = [unicodedata.normalize("NFC", line) for line in read_lines(path, f"the list of {name} images")]
    ids = [line if line in known else _id_of_files(line, known) or line for line in lines]
    for line, found in zip(lines, ids, strict=True):
        if found not in known and line.split()[0] in known:
            raise InputError(f"expected one id a line, found '{line}' in {path}: leave only the ids")
    if ids != lines:
        logger.info("%s: %d lines name files, which are taken for their ids", path, sum(map(str.__ne__, ids, lines)))
    return ids


def _id_of_files(line: str, known: Collection[str]) -> str | None:
    """Return the known id of the one file, or of all files, that a line of a list names; None where it has none."""
    for words in ([line], re.split(r"[\s,;]+", line)):
        ids = {id_of_file(word.replace("\\", "/")) for word in words}
        if len(ids) == 1 and ids.issubset(known) and all(PurePath(w).suffix.lower() in IMAGE_SUFFIXES for w in words):
            return ids.pop()
    return None


def read_lines(path: Path, expected: str) -> list[str]:
    """Return the lines of a text file without blank ones; raise InputError where it is not what was `expected`."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"expected {expected}, cannot read {path}: {why(path, error)}") from None
    return [line.strip() for line in lines if line.strip()]


def check_once(names: Sequence[str], kind: str, path: Path, advice: str) -> None:
    """Raise InputError where a name is more than once in a file; `kind` says what it names."""
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise InputError(f"expected each {kind} once, found '{name}' {times} times in {path}: {advice}")


def write_lists(folder: Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Write the lists of a data set."""
    for name, ids in (("train", train), ("val", val)):
        path = list_file(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{image_id}\n" for image_id in ids))


def split_by_name(ids: Sequence[str]) -> dict[str, list[str]]:
    """Split the ids of a folder without lists: every fifth by name validates, or the last of fewer than five."""
    ids = sorted(ids)
    val = ids[VAL_EVERY - 1 :: VAL_EVERY] or ids[-1:]
    return {"train": sorted(set(ids) - set(val)), "val": val}


def find_class_names(folder: str | Path, file: str | Path | None = None, or_vocs: bool = False) -> tuple[str, ...]:
    """Return the class names in `file`, else those in the folder's classes.txt, else with `or_vocs` PASCAL VOC's.

    Raises InputError where there are none, or a file is no list of class names.
    """
    own = Path(folder) / CLASS_FILE
    if file or os.path.lexists(own):  # a link that leads nowhere is an error
        return read_class_names(file or own)
    if or_vocs:
        logger.info("%s does not exist: taking the class names of PASCAL VOC", own)
        return VOC_CLASSES
    if not Path(folder).is_dir():
        raise InputError(f"expected a data set, found no folder {folder}: correct its name")
    raise InputError(
        f"expected the class names in {own}, which does not exist: write one name a line there, the background first, "
        "or name another file with --classes FILE"
    )


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read the class names of label maps, in the order of their values, as read_class_lines does.

    Raises InputError where label maps cannot be numbered by them (see check_class_names).
    """
    names = tuple(tidy(name) for name in read_class_lines(path))
    check_class_names(names, path)
    return names


def read_class_lines(path: str | Path) -> list[str]:
    """Read a list of class names: one a line, either ``name`` or, from the first on, ``index name``.

    Raises InputError when the file cannot be read or is not of that form.
    """
    path = Path(path)
    lines = read_lines(path, "a text file with one class name a line")
    check_form(lines, path)
    if lines and _begins_with_number(lines[0]):
        for number, line in enumerate(lines):
            if not _begins_with_number(line) or int(line.split()[0]) != number:
                raise InputError(
                    f"expected '{number} NAME', found '{line}' in {path}: number all classes from 0 upwards without "
                    "gaps, or begin with a name without a number"
                )
        lines = [line.split(maxsplit=1)[1] for line in lines]
    return lines


def write_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Write a folder's classes.txt as read_class_names reads it: with indices where a name could be taken for one."""
    indexed = _begins_with_number(class_names[0])
    lines = [f"{number} {name}\n" if indexed else f"{name}\n" for number, name in enumerate(class_names)]
    write_text(folder / CLASS_FILE, "".join(lines))


def _begins_with_number(line: str) -> bool:
    words = line.split(maxsplit=1)
    return len(words) == 2 and words[0].isdecimal()

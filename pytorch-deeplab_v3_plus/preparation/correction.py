"""A corrected copy of a data set."""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import link_or_copy, new_folder
from dataloaders.images import read_image, stored_size, write_label
from dataloaders.labels import UNLABELLED
from dataloaders.layout import IMAGES, SCRIBBLES, TRUTH, find_files, write_class_names, write_lists
from preparation.label_maps import look_at_label
from preparation.problems import KINDS, LEFT_OUT, Report


def write_corrected(report: Report, target: Path) -> Counter:
    """Write a copy of a data set in which whatever can be corrected safely is corrected; other images are hard links.

    Returns how often each kind of problem was corrected. Raises InputError when `target` is not empty.
    """
    kinds_of, ids = defaultdict(set), defaultdict(set)  # what is wrong with a file; images with a kind of problem
    for problem in report.problems:
        kinds_of[problem.file].add(problem.kind)
        ids[problem.kind].add(problem.id)
    useless = ids["unreadable"] | ids["label file, lossy"] | ids["label file, array"]
    train, val = ([i for i in report.lists[name] if i not in useless | ids["missing"]] for name in ("train", "val"))
    train = [i for i in train if i not in ids["train and val"]]
    if not train or not val:
        raise InputError(
            f"expected images that can be kept in both lists, found {len(train)} for training and {len(val)} for "
            f"validation in {report.folder}: nothing was written; correct first what the check without --fix says"
        )
    unchanged = set()
    with new_folder(target) as made:
        for name in (IMAGES, SCRIBBLES, TRUTH):
            for image_id, source in find_files(report.folder, name).items():
                kinds = kinds_of[f"{name}/{source.name}"]
                (made / name).mkdir(exist_ok=True)
                if image_id in useless:
                    unchanged.add(f"{name}/{source.name}")
                elif name == IMAGES:
                    write_image(source, made / name, kinds)
                elif not write_label_map(source, made / name / f"{image_id}.png", kinds, len(report.class_names)):
                    unchanged.add(f"{name}/{source.name}")
        write_lists(made, train, val)
        write_class_names(made, report.class_names)
    fixes = ((p, KINDS[p.kind].fix) for p in report.problems)
    return Counter(p.kind for p, fix in fixes if fix and (fix == LEFT_OUT or p.file not in unchanged))


TURNED_BACK = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
TURNED_BACK |= {back: turn for turn, back in TURNED_BACK.items()}  # the other turns undo themselves


def write_image(source: Path, folder: Path, kinds: set[str]) -> None:
    """Write an image without its EXIF rotation where that is a problem; link it where nothing is."""
    turned, unturned = "EXIF rotation" in kinds, "EXIF rotation, labels not turned" in kinds
    if not turned and not unturned:
        link_or_copy(source, folder / source.name)
        return
    image = read_image(source)
    if not turned:
        turn = stored_size(source)[1]
        image = image.transpose(TURNED_BACK.get(turn, turn))
    Image.fromarray(np.asarray(image)).save(folder / f"{source.stem}.png")  # an array has no EXIF tags


def write_label_map(source: Path, target: Path, kinds: set[str], num_classes: int) -> bool:
    """Write a corrected label map, or a copy, no link, because label maps are what people edit; return which it is."""
    label = None
    if kinds & {"label file", "label mode, plain", "0 for unlabelled"}:
        label = look_at_label(source, num_classes)[0]
    if label is None:
        shutil.copyfile(source, target.with_suffix(source.suffix))
        return False
    if "0 for unlabelled" in kinds:
        label = np.where(label == 0, np.uint8(UNLABELLED), label)
    write_label(target, label)
    return True

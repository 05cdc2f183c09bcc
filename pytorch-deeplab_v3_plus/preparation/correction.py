"""A corrected copy of a data set."""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import link_or_copy, new_folder
from dataloaders.images import read_image, write_label
from dataloaders.labels import UNLABELLED
from dataloaders.layout import IMAGES, SCRIBBLES, TRUTH, list_files, write_class_names, write_lists
from preparation.label_maps import look_at_label
from preparation.problems import KINDS, Report


def write_corrected(report: Report, target: Path) -> Counter:
    """Write a copy of a data set in which whatever can be corrected safely is corrected; other images are hard links.

    Returns how often each kind of problem was corrected. Raises InputError when `target` is not empty.
    """
    kinds_of, ids = defaultdict(set), defaultdict(set)  # what is wrong with a file; images with a kind of problem
    for problem in report.problems:
        kinds_of[problem.file].add(problem.kind)
        ids[problem.kind].add(problem.id)
    missing = ids["missing"] | ids["unreadable"]
    with new_folder(target) as made:
        for name in (IMAGES, SCRIBBLES, TRUTH):
            for source in list_files(report.folder, name).values():
                kinds = kinds_of[f"{name}/{source.name}"]
                (made / name).mkdir(exist_ok=True)
                if source.stem in ids["unreadable"]:
                    continue
                if name == IMAGES:
                    write_image(source, made / name, kinds)
                else:
                    write_label_map(source, made / name, kinds, len(report.class_names))
        train, val = ([i for i in report.lists[name] if i not in missing] for name in ("train", "val"))
        write_lists(made, [i for i in train if i not in ids["train and val"]], val)
        write_class_names(made, report.class_names)
    return Counter(problem.kind for problem in report.problems if KINDS[problem.kind].fix)


def write_image(source: Path, folder: Path, kinds: set[str]) -> None:
    """Write an image without its EXIF rotation where that is a problem; link it where nothing is."""
    turned, unturned = "EXIF rotation" in kinds, "EXIF rotation, labels not turned" in kinds
    if not turned and not unturned:
        link_or_copy(source, folder / source.name)
        return
    image = read_image(source) if turned else Image.open(source).convert("RGB")
    Image.fromarray(np.asarray(image)).save(folder / f"{source.stem}.png")  # an array has no EXIF tags


def write_label_map(source: Path, folder: Path, kinds: set[str], num_classes: int) -> None:
    """Write a corrected label map, or a copy, no link, because label maps are what people edit."""
    if not kinds & {"label mode, plain", "0 for unlabelled"}:
        shutil.copyfile(source, folder / source.name)
        return
    label = look_at_label(source, num_classes)[0]
    if "0 for unlabelled" in kinds:
        label = np.where(label == 0, np.uint8(UNLABELLED), label)
    write_label(folder / source.name, label)

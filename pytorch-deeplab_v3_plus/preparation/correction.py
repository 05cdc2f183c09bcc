"""A corrected copy of a data set."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import link_or_copy, new_folder
from dataloaders.datasets.pascal import IMAGES, SCRIBBLES, TRUTH
from dataloaders.images import IMAGE_SUFFIXES, listing, read_image, write_label
from dataloaders.labels import UNLABELLED, write_class_names
from dataloaders.layout import CLASS_FILE, write_lists
from preparation.checks import look_at_label
from preparation.problems import KINDS, Report

logger = logging.getLogger(__name__)


def write_corrected(report: Report, target: Path) -> Counter:
    """Write a copy of a data set in which is corrected what can be corrected safely; images that stay are linked.

    Returns how often each kind of problem was corrected. Raises InputError when `target` is not empty.
    """
    kinds_of: dict[str, set[str]] = {}
    for problem in report.problems:
        kinds_of.setdefault(problem.file, set()).add(problem.kind)
    ids = {kind: {problem.id for problem in report.problems if problem.kind == kind} for kind in KINDS}
    gone = ids["missing"] | ids["unreadable"]
    with new_folder(target) as made:
        for name in (IMAGES, SCRIBBLES, TRUTH):
            suffixes = IMAGE_SUFFIXES if name == IMAGES else (".png",)
            for image_id, source in listing(report.folder / name, suffixes).items():
                kinds = kinds_of.get(f"{name}/{source.name}", set())
                (made / name).mkdir(exist_ok=True)
                place = link_or_copy if name == IMAGES else shutil.copyfile  # label maps are what people edit
                if "EXIF rotation" in kinds:
                    Image.fromarray(np.asarray(read_image(source))).save(made / name / f"{image_id}.png")
                elif "EXIF rotation, labels not turned" in kinds:
                    Image.fromarray(np.asarray(Image.open(source).convert("RGB"))).save(made / name / f"{image_id}.png")
                elif kinds & {"label mode, plain", "0 for unlabelled"}:
                    label = look_at_label(source, len(report.class_names))[0]
                    if "0 for unlabelled" in kinds:
                        label = np.where(label == 0, np.uint8(UNLABELLED), label)
                    write_label(made / name / source.name, label)
                elif image_id not in ids["unreadable"]:
                    place(source, made / name / source.name)
        write_lists(
            made,
            [image_id for image_id in report.lists["train"] if image_id not in gone | ids["train and val"]],
            [image_id for image_id in report.lists["val"] if image_id not in gone],
        )
        write_class_names(made / CLASS_FILE, report.class_names)
    return Counter(problem.kind for problem in report.problems if KINDS[problem.kind].fixed_by)

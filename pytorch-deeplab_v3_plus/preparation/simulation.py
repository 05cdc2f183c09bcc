"""A data set with scribbles simulated from its ground truth."""

import functools
import logging
import os
import shutil
import zlib
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import link_or_copy, new_folder
from common.parallel import in_processes
from dataloaders.images import id_of_file, read_label, value_counts, write_label
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
    read_list,
    write_class_names,
    write_lists,
)
from dataloaders.synthetic.scribbles import StrokeOptions, simulate_scribbles

logger = logging.getLogger(__name__)


def simulate_folder(
    folder: Path, target: Path, num_classes: int, seed: int, options: StrokeOptions, classes: Path | None = None
) -> np.ndarray:
    """Write a copy of a data set with scribbles simulated from its ground truth; its images are hard links.

    Its class names are those in the file `classes`, or in the data set's own, if it has one.

    The strokes of an image depend on its id, the options and the seed (not negative) alone. Returns how many pixels of
    the scribbles have each value, int64 (256,); raises InputError where there is no truth, a label map is wrong, or the
    target is not empty.
    """
    truth = list_files(folder, TRUTH)
    if not truth:
        raise InputError(f"expected ground truth to simulate scribbles from, found no *.png in {folder / TRUTH}")
    counts = np.zeros(256, dtype=np.int64)
    with new_folder(target) as made:
        (made / SCRIBBLES).mkdir()
        simulate = functools.partial(_simulate, made / SCRIBBLES, num_classes, seed, options)
        for some in in_processes(simulate, truth.values(), title="simulating", unit="image"):
            counts += some
        if not counts[:PADDING].any():
            raise InputError(f"expected scribbles, found none left on {folder}: change the options of the strokes")
        images = list_files(folder, IMAGES)
        for path in images.values():
            link_or_copy(path, made / IMAGES / path.name)
        if without := sorted(images.keys() - truth.keys()):
            lack = f"{len(without):,} of {len(images):,} images have no ground truth (first '{without[0]}')"
            logger.warning("%s: they get no scribbles and are left out of the lists", lack)
        (made / TRUTH).mkdir()
        for path in truth.values():
            shutil.copyfile(path, made / TRUTH / path.name)
        if has_lists(folder):
            lists = [[i for i in read_list(folder, name, images) if i in truth] for name in ("train", "val")]
            shutil.copytree(folder / LISTS, made / LISTS)
            if without:
                write_lists(made, *lists)
        if classes or os.path.lexists(folder / CLASS_FILE):  # a link that leads nowhere is an error
            write_class_names(made, read_class_names(classes or folder / CLASS_FILE))
    return counts


def _simulate(folder: Path, num_classes: int, seed: int, options: StrokeOptions, truth: Path) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(id_of_file(truth.name).encode())])
    scribbles = simulate_scribbles(read_label(truth, num_classes), rng, options)
    write_label(folder / truth.name, scribbles)
    return value_counts(scribbles)

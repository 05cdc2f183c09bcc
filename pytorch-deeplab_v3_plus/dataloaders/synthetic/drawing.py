"""Draw a data set into a folder of PASCAL VOC's layout."""

import functools
import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.faults import advice, lacks_memory
from common.parallel import in_processes
from dataloaders.images import write_label
from dataloaders.layout import IMAGES, SCRIBBLES, TRUTH, write_class_names, write_lists
from dataloaders.synthetic.objects import OBJECTS
from dataloaders.synthetic.scenes import draw_scene
from dataloaders.synthetic.scribbles import simulate_scribbles

logger = logging.getLogger(__name__)

CLASS_NAMES = ("background", *OBJECTS)
VERSION = 1  # to be raised with every change that draws other pictures: older sets are then redrawn
SEED, TRAIN, VAL = 1, 300, 80
STAMP = "drawn.json"


def draw_dataset(folder: str | os.PathLike, seed: int = SEED, train: int = TRAIN, val: int = VAL) -> None:
    """Draw a data set of PASCAL VOC's layout into ``folder``.

    It is drawn beside the folder and moved there when complete, so that an interrupted run leaves nothing half-made,
    and the first of two simultaneous runs to finish is kept. Picture n of a split depends on the seed (not negative),
    split and n alone; `train` and `val` are the numbers of pictures, at least 2 and 1. An earlier drawn set is
    replaced. Raises InputError where the folder holds anything else, or cannot be written.
    """
    folder = Path(folder).resolve()
    logger.info("drawing the synthetic data set, %d pictures, into %s", train + val, folder)
    stamp = {"version": VERSION, "seed": seed, "train": train, "val": val}
    if read_stamp(folder) is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"expected an empty or no folder, or a drawn data set with its {STAMP}, found other files in "
            f"{folder}: choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            drawn = Path(workshop) / "drawn"
            draw_pictures(drawn, seed, train, val)
            (drawn / STAMP).write_text(json.dumps(stamp) + "\n")
            if read_stamp(folder) == stamp:
                return  # another run was quicker: its files are the same, and may be in use by now
            if folder.exists():
                folder.rename(Path(workshop) / "replaced")
            drawn.rename(folder)
    except OSError as error:
        if read_stamp(folder) == stamp:
            return
        if lacks_memory(error):
            raise
        raise InputError(f"cannot draw the synthetic data set into {folder}: {error}; {advice(error)}") from None


def draw_pictures(folder: Path, seed: int, train: int, val: int) -> None:
    """Draw the pictures, many of them in several processes, and write class names and lists beside them."""
    for name in (IMAGES, TRUTH, SCRIBBLES):
        (folder / name).mkdir(parents=True)
    train_ids, val_ids = [f"train_{n:04d}" for n in range(train)], [f"val_{n:04d}" for n in range(val)]
    ids, draw = train_ids + val_ids, functools.partial(draw_picture, folder, seed)
    if len(ids) > 32:
        list(in_processes(draw, ids, title="drawing the synthetic data set", unit="picture"))
    else:
        list(map(draw, ids))
    write_lists(folder, train_ids, val_ids)
    write_class_names(folder, CLASS_NAMES)


def draw_picture(folder: Path, seed: int, image_id: str) -> None:
    """Draw one picture with its truth and its scribbles."""
    split, number = image_id.split("_")
    rng = np.random.default_rng([seed, ("train", "val").index(split), int(number)])
    image, label = draw_scene(rng)
    Image.fromarray(image).save(folder / IMAGES / f"{image_id}.jpg", quality=92)
    for kind, values in ((TRUTH, label), (SCRIBBLES, simulate_scribbles(label, rng))):
        write_label(folder / kind / f"{image_id}.png", values)


def ensure_drawn(folder: str | os.PathLike) -> None:
    """Draw the data set where there is none; redraw it, with its own seed, where another version drew it."""
    stamp = read_stamp(folder)
    try:
        if stamp is None:
            draw_dataset(folder)
        elif stamp["version"] != VERSION:
            draw_dataset(folder, stamp["seed"], stamp["train"], stamp["val"])
    except InputError as error:
        raise InputError(f"{error} (--data-root, or RLOSS_SYNTHETIC_ROOT)") from None


def read_stamp(folder: str | os.PathLike) -> dict[str, int] | None:
    """Return what the data set in ``folder`` was drawn from (version, seed, train, val), None if none is there."""
    try:
        return json.loads((Path(folder) / STAMP).read_text())
    except (OSError, ValueError):
        return None

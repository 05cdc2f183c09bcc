"""A data set that the project draws itself."""

import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.errors import InputError
from dataloaders.images import write_label
from dataloaders.labels import write_class_names
from dataloaders.synthetic.objects import OBJECTS
from dataloaders.synthetic.scenes import draw_scene
from dataloaders.synthetic.scribbles import simulate_scribbles

logger = logging.getLogger(__name__)

CLASS_NAMES = ("background", *OBJECTS)

VERSION = 1
"""Raise it with every change that draws other pictures: older sets are then drawn anew."""

SEED, TRAIN, VAL = 1, 300, 80

STAMP = "drawn.json"


def draw_dataset(folder: str | os.PathLike, seed: int = SEED, train: int = TRAIN, val: int = VAL) -> None:
    """Draw a data set of PASCAL VOC's layout into ``folder``.

    It is drawn beside the folder and moved there when complete, so that an interrupted run leaves nothing half-made
    and of two runs at once the first to finish is kept. Picture n of a split depends on seed, split and n alone.

    Args:
        folder: replaced if it holds an earlier drawn set; must not hold anything else.
        seed: not negative; chooses the pictures.
        train, val: numbers of pictures, at least 2 and 1.

    Raises:
        InputError: the folder holds something else, or cannot be written.
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
        # A process of the loader may still write while an interrupted run cleans up: what it leaves is out of the way.
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
        ) as workshop:
            drawn = Path(workshop) / "drawn"
            pictures = _Pictures(drawn, seed, [("train", n) for n in range(train)] + [("val", n) for n in range(val)])
            # PyTorch's loader is a pool of processes that this project relies on anyway.
            workers = min(8, os.cpu_count() or 1) if len(pictures) > 32 else 0
            for _ in tqdm(
                DataLoader(pictures, batch_size=None, num_workers=workers),
                unit="picture",
                disable=None,
                desc="drawing the synthetic data set",
                leave=False,
            ):
                pass
            write_class_names(drawn / "classes.txt", CLASS_NAMES)
            (drawn / STAMP).write_text(json.dumps(stamp) + "\n")
            if read_stamp(folder) == stamp:
                return  # another run was quicker: its files are the same, and may be in use by now
            if folder.exists():
                folder.rename(Path(workshop) / "replaced")
            drawn.rename(folder)
    except OSError as error:
        if read_stamp(folder) == stamp:
            return
        raise InputError(
            f"cannot draw the synthetic data set into {folder}: {error}; free or choose another folder "
            "(--data-root, or RLOSS_SYNTHETIC_ROOT)"
        ) from None


def ensure_drawn(folder: str | os.PathLike) -> None:
    """Draw the data set where there is none; draw it anew, by its own seed, where another version drew it."""
    stamp = read_stamp(folder)
    if stamp is None:
        draw_dataset(folder)
    elif stamp["version"] != VERSION:
        draw_dataset(folder, stamp["seed"], stamp["train"], stamp["val"])


def read_stamp(folder: str | os.PathLike) -> dict[str, int] | None:
    """Return what the data set in ``folder`` was drawn from (version, seed, train, val), None if none is there."""
    try:
        return json.loads((Path(folder) / STAMP).read_text())
    except (OSError, ValueError):
        return None


class _Pictures(Dataset):
    """Drawing by index, so that the processes of a loader share the work."""

    def __init__(self, folder: Path, seed: int, pictures: list[tuple[str, int]]) -> None:
        self.folder, self.seed, self.pictures = folder, seed, pictures
        for name in ("JPEGImages", "SegmentationClassAug", "pascal_2012_scribble", "ImageSets/SegmentationAug"):
            (folder / name).mkdir(parents=True)
        for split in ("train", "val"):
            ids = [f"{split}_{number:04d}\n" for name, number in pictures if name == split]
            (folder / "ImageSets" / "SegmentationAug" / f"{split}.txt").write_text("".join(ids))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> int:
        split, number = self.pictures[index]
        rng = np.random.default_rng([self.seed, ("train", "val").index(split), number])
        image, label = draw_scene(rng)
        name = f"{split}_{number:04d}"
        Image.fromarray(image).save(self.folder / "JPEGImages" / f"{name}.jpg", quality=92)
        scribbles = simulate_scribbles(label, rng)
        for folder, values in (("SegmentationClassAug", label), ("pascal_2012_scribble", scribbles)):
            write_label(self.folder / folder / f"{name}.png", values)
        return index

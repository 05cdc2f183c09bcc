"""PASCAL VOC 2012 with scribbles, and the base of every other data set of the same layout.

JPEGImages/ID.jpg                           images (.jpeg and .png are fine too)
pascal_2012_scribble/ID.png                 scribbles: class numbers, 255 where nothing is drawn
SegmentationClassAug/ID.png                 full ground truth, same coding (optional for one's own data)
ImageSets/SegmentationAug/{train,val}.txt   one id a line (without an ImageSets folder the ids are split here)
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import InputError
from dataloaders.images import IMAGE_SUFFIXES, check_sizes, image_size, listing, read_image, read_label, value_counts
from dataloaders.labels import VOC_CLASSES
from dataloaders.transforms import EvalTransform, TrainTransform
from mypath import Path

logger = logging.getLogger(__name__)

IMAGES, SCRIBBLES, TRUTH, LISTS = "JPEGImages", "pascal_2012_scribble", "SegmentationClassAug", "ImageSets"
SPLITS = ("train", "val", "fill_in")
VAL_EVERY = 5

HOW_TO_GET_VOC = (
    "get PASCAL VOC 2012 and its scribbles (data/VOC2012/fetchVOC2012.sh and "
    "data/pascal_scribble/fetchPascalScribble.sh), "
    "name its folder in RLOSS_PASCAL_ROOT, or use --dataset synthetic"
)


class VOCSegmentation(Dataset):
    """Images with label maps, for training or for evaluation.

    Splits:
        train: the train list, augmented; scribbles, or full ground truth if ``args.supervision`` is ``'full'``.
        val: the val list, evaluation view, ground truth; the scribbles where the folder has no ground truth at all.
        fill_in: those of the train list that have ground truth, evaluation view: how well do scribbles become masks?

    Attributes:
        class_names, num_classes: what the labels mean.
        ids: image ids in the order of the list.
        label_kind: ``'scribbles'`` or ``'truth'``: what the items' labels are.
    """

    NUM_CLASSES = len(VOC_CLASSES)
    CLASSES = VOC_CLASSES

    def __init__(
        self,
        args,
        base_dir: str | os.PathLike | None = None,
        split: str = "train",
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        """List the split and check that every file of it exists.

        Args:
            args: any object with crop_size and, for training, base_size, scale_range and supervision.
            base_dir: the folder; None takes the one that mypath.py has for 'pascal'.
            split: 'train', 'val' or 'fill_in'.
            class_names: names in the order of their labels; None takes the class attribute CLASSES.

        Raises:
            InputError: a folder, list, image or label is missing, or a list is empty or names an id twice.
        """
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {SPLITS}, found '{split}'")
        self.folder = FilePath(base_dir or Path.db_root_dir("pascal"))
        self.split = split
        self.class_names = tuple(class_names or self.CLASSES)
        self.num_classes = len(self.class_names)
        if class_names is None and self.NUM_CLASSES not in (self.num_classes, VOCSegmentation.NUM_CLASSES):
            raise InputError(
                f"{type(self).__name__} has NUM_CLASSES = {self.NUM_CLASSES} but {self.num_classes} class "
                "names: set CLASSES to a tuple of names, the background first"
            )
        self.transform = (
            TrainTransform(args.base_size, args.crop_size, args.scale_range)
            if split == "train"
            else EvalTransform(args.crop_size)
        )

        images = self._listing(IMAGES, IMAGE_SUFFIXES)
        self.ids = self._read_ids(images)
        has_truth = bool(listing(self.folder / TRUTH, (".png",)))
        wants_truth = args.supervision == "full" if split == "train" else has_truth or split == "fill_in"
        self.label_kind = "truth" if wants_truth else "scribbles"
        labels_folder = TRUTH if wants_truth else SCRIBBLES
        labels = self._listing(labels_folder, (".png",))
        if split == "fill_in":
            listed, self.ids = len(self.ids), [image_id for image_id in self.ids if image_id in labels]
            if 0 < len(self.ids) < listed:
                logger.info("fill-in score: %d of %d training images have ground truth", len(self.ids), listed)
        self.image_files = self._files(images, IMAGES, ".jpg")
        self.label_files = self._files(labels, labels_folder, ".png")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor | str]:
        """Return one sample.

        Args:
            key: an index, or (index, seed): the augmentation then depends on the seed alone.

        Returns:
            'image': uint8 (3, crop_size, crop_size); 'label': uint8 (crop_size, crop_size); 'name': the image's id.

        Raises:
            InputError: a file is damaged, of the wrong kind, or does not fit its partner.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        pair = self.read(index)
        if self.split == "train":
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            image_tensor, label_tensor = self.transform(*pair, generator)
        else:
            image_tensor, label_tensor = self.transform(*pair)
        return {"image": image_tensor, "label": label_tensor, "name": self.ids[index]}

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return an image (mode RGB) and its label map (mode L) at their own size; raises as indexing does."""
        image_file, label_file = self.image_files[index], self.label_files[index]
        image, label = read_image(image_file), read_label(label_file, self.num_classes)
        check_sizes(image_file, image.size, label_file, label)
        return image, Image.fromarray(label)

    def pictures(self, index: int) -> tuple[Image.Image, np.ndarray | None, np.ndarray | None]:
        """Return an image at its own size with its scribbles and truth, uint8 (H, W), None where there is no file."""
        labels = []
        for folder in (SCRIBBLES, TRUTH):
            file = listing(self.folder / folder, (".png",)).get(self.ids[index])
            labels.append(None if file is None else read_label(file, self.num_classes))
        return read_image(self.image_files[index]), *labels

    def count_labels(self) -> np.ndarray:
        """Read every label map once, check its values and its size against its image, and count.

        Returns how many pixels have each value, int64 (256,), before any transform; raises InputError for the first
        file that is wrong. A progress bar shows on a terminal.
        """

        def count(image_file: FilePath, label_file: FilePath) -> np.ndarray:
            label = read_label(label_file, self.num_classes)
            check_sizes(image_file, image_size(image_file), label_file, label)
            return value_counts(label)

        total = np.zeros(256, dtype=np.int64)
        pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))  # decoding releases the GIL
        try:
            counts = pool.map(count, self.image_files, self.label_files)
            for some in tqdm(counts, total=len(self), desc="checking labels", unit="file", disable=None, leave=False):
                total += some
        finally:
            pool.shutdown(cancel_futures=True)
        return total

    def _read_ids(self, images: dict[str, FilePath]) -> list[str]:
        name = "val" if self.split == "val" else "train"
        if not (self.folder / LISTS).is_dir():
            return self._split_ids(images, name)
        path = self.folder / LISTS / "SegmentationAug" / f"{name}.txt"
        try:
            ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
            raise InputError(
                f"expected the list of {name} images {path}, one id a line, but {reason}: {self._advice()}"
            ) from None
        if not ids:
            raise InputError(f"expected image ids, found none in {path}: write one id a line")
        if len(set(ids)) < len(ids):
            twice = next(image_id for number, image_id in enumerate(ids) if image_id in ids[:number])
            raise InputError(
                f"expected each image once, found '{twice}' {ids.count(twice)} times in {path}: "
                "remove the repeated lines"
            )
        return ids

    def _split_ids(self, images: dict[str, FilePath], name: str) -> list[str]:
        """Split a folder without lists: every fifth image by name is for validation, the others train."""
        ids = sorted(images.keys() & self._listing(SCRIBBLES, (".png",)).keys())
        if len(ids) < 2:
            raise InputError(
                f"expected at least two images with scribbles, found {len(ids)} under {self.folder}: "
                f"an image {IMAGES}/ID.jpg goes with its scribbles {SCRIBBLES}/ID.png"
            )
        val = held_out(ids)
        if self.split == "train":
            logger.info(
                "%s has no folder %s: %s of its %s scribbled images train, every %sth by name validates%s",
                self.folder,
                LISTS,
                f"{len(ids) - len(val):,}",
                f"{len(ids):,}",
                VAL_EVERY,
                f" ({len(images) - len(ids):,} images have no scribbles)" if len(images) > len(ids) else "",
            )
        return val if name == "val" else sorted(set(ids) - set(val))

    def _listing(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, FilePath]:
        """Return the files of a subfolder by id; it has to exist."""
        if not (self.folder / folder).is_dir():
            raise InputError(
                f"the {self.split} images of {type(self).__name__} need the folder "
                f"{self.folder / folder}, which does not exist: {self._advice()}"
            )
        return listing(self.folder / folder, suffixes)

    def _files(self, listing: dict[str, FilePath], folder: str, suffix: str) -> list[FilePath]:
        missing = [image_id for image_id in self.ids if image_id not in listing]
        if missing:
            raise InputError(
                f"the {self.split} list names '{missing[0]}', but {self.folder / folder / (missing[0] + suffix)} does "
                f"not exist ({len(missing):,} of {len(self.ids):,} files are missing there): {self._advice()}"
            )
        return [listing[image_id] for image_id in self.ids]

    def _advice(self) -> str:
        if type(self) is VOCSegmentation and self.class_names == self.CLASSES:
            return HOW_TO_GET_VOC
        return (
            f"a data set is a folder with {IMAGES}/ID.jpg, {SCRIBBLES}/ID.png, optionally {TRUTH}/ID.png, and "
            f"the lists {LISTS}/SegmentationAug/train.txt and val.txt (or no {LISTS} at all)"
        )


def held_out(ids: list[str]) -> list[str]:
    """Return the ids that validate where there are no lists: every fifth, of a shorter list simply the last."""
    return ids[VAL_EVERY - 1 :: VAL_EVERY] or ids[-1:]

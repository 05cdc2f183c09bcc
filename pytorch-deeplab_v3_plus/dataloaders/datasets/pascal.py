"""PASCAL VOC 2012 with scribbles, and the base of every other data set of its layout (dataloaders/layout.py)."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.errors import InputError
from common.parallel import in_threads
from dataloaders.class_names import check_class_names
from dataloaders.images import (
    check_scaled,
    check_sizes,
    file_digest,
    image_size,
    read_image,
    read_label,
    readable_label,
    value_counts,
)
from dataloaders.labels import VOC_CLASSES
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    LISTS,
    SCRIBBLES,
    TRUTH,
    VAL_EVERY,
    check_once,
    has_lists,
    list_file,
    list_files,
    read_class_names,
    read_list,
    split_by_name,
    unread_files,
)
from dataloaders.thinning import TOO_THIN, thin_classes, thinned_out
from dataloaders.transforms import EvalTransform, TrainTransform
from mypath import Path

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "fill_in")
HOW_TO_GET_VOC = (
    "get PASCAL VOC 2012 and its scribbles (data/VOC2012/fetchVOC2012.sh and "
    "data/pascal_scribble/fetchPascalScribble.sh), name its folder in RLOSS_PASCAL_ROOT, or use --dataset synthetic"
)


class Survey(NamedTuple):
    """What a look at every label map of a split finds."""

    counts: np.ndarray  # how many pixels have each value, int64 (256,), before any transform
    digests: dict[str, str]  # of the 'list' of ids, the 'images' (their files) and the values of the 'labels'


class VOCSegmentation(Dataset):
    """Images with label maps, in the order of `ids`; `label_kind` is 'scribbles' or 'truth'.

    Splits:
        train: the train list, augmented; scribbles, or full ground truth if the supervision is 'full'.
        val: the val list, evaluation view, ground truth; the scribbles where the folder has no ground truth at all.
        fill_in: those of the train list that have ground truth, evaluation view: how well do scribbles become masks?
    """

    NUM_CLASSES = len(VOC_CLASSES)
    CLASSES = VOC_CLASSES

    def __init__(self, args, base_dir=None, split: str = "train", class_names: Sequence[str] | None = None) -> None:
        """List the split and check that every file of it exists.

        `args` has the base_size, scale_range, crop_size and supervision of DataOptions, and may have its scales, blur
        and padding; `base_dir` None takes mypath's folder of 'pascal', and `class_names` None those of the class or of
        the folder. Raises InputError where a folder, list, image or label is missing, or a list is empty or names an id
        twice.
        """
        if split not in SPLITS:
            raise ValueError(f"expected a split out of {SPLITS}, found '{split}'")
        self.folder, self.split = FilePath(base_dir or Path.db_root_dir("pascal")), split
        self.class_names = tuple(class_names or self._own_class_names())
        check_class_names(self.class_names, type(self).__name__)
        self.num_classes = len(self.class_names)
        self.short_side = args.base_size if split == "train" else args.crop_size
        if split == "train":
            how = {name: getattr(args, name) for name in ("scales", "blur", "padding") if hasattr(args, name)}
            self.transform = TrainTransform(args.base_size, args.crop_size, args.scale_range, **how)
        else:
            self.transform = EvalTransform(args.crop_size)
        self._files = {kind: list_files(self.folder, kind) for kind in (IMAGES, SCRIBBLES, TRUTH)}
        wants_truth = args.supervision == "full" if split == "train" else bool(self._files[TRUTH]) or split == "fill_in"
        self.label_kind, labels = ("truth", TRUTH) if wants_truth else ("scribbles", SCRIBBLES)
        self.ids = self._read_ids()
        self.image_files, self.label_files = self._listed_files(IMAGES, ".jpg"), self._listed_files(labels, ".png")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor | str]:
        """Return 'image', uint8 (3, crop_size, crop_size), 'label', uint8 (crop_size, crop_size), and 'name', the id.

        A key (index, seed) makes the augmentation depend on the seed alone. Raises InputError where a file is damaged,
        of the wrong kind, or does not fit its partner.
        """
        index, seed = key if isinstance(key, tuple) else (key, None)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        image, label = self.transform(*self.read(index), generator)
        return {"image": image, "label": label, "name": self.ids[index]}

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return an image (mode RGB) and its label map (mode L) at their own size; raises as indexing does."""
        image_file, label_file = self.image_files[index], self.label_files[index]
        image, label = read_image(image_file), read_label(label_file, self.num_classes)
        check_sizes(image_file, image.size, label_file, label)
        return image, Image.fromarray(label)

    def pictures(self, index: int) -> tuple[Image.Image, np.ndarray | None, np.ndarray | None]:
        """Return an image at its own size with its scribbles and truth, uint8 (H, W), None where none can be had."""
        image_file = self.image_files[index]
        image = read_image(image_file)
        files = (self._files[kind].get(self.ids[index]) for kind in (SCRIBBLES, TRUTH))
        return image, *(readable_label(image_file, image.size, file, self.num_classes) for file in files)

    def survey(self) -> Survey:
        """Read every label map once and check its values and its size; raise InputError for the first wrong file.

        Warns of strokes that are too thin for the size of the training images.
        """

        def look(image_file: FilePath, label_file: FilePath) -> tuple[np.ndarray, bytes, bytes]:
            label, size = read_label(label_file, self.num_classes), image_size(image_file)
            check_sizes(image_file, size, label_file, label)
            check_scaled(size, self.short_side, image_file)
            counts = value_counts(label)
            found = np.stack([counts, counts > 0, thinned_out(label, self.short_side)])
            values = hashlib.blake2b(label, digest_size=8, person=b"%dx%d" % label.shape).digest()
            return found, file_digest(image_file), values

        totals = np.zeros((3, 256), dtype=np.int64)
        digests = {name: hashlib.blake2b(digest_size=8) for name in ("list", "images", "labels")}
        digests["list"].update("\n".join(self.ids).encode())
        files = self.image_files, self.label_files
        for found, image, values in in_threads(look, *files, title="checking labels", unit="file"):
            totals += found
            digests["images"].update(image)
            digests["labels"].update(values)
        counts, labelled, thinned = totals
        if self.split == "train" and (thin := thin_classes(thinned, labelled, self.class_names, self.short_side)):
            logger.warning(f"{TOO_THIN} ({thin}): train at a larger --base-size and --crop-size, or draw wider strokes")
        return Survey(counts, {name: digest.hexdigest() for name, digest in digests.items()})

    def _own_class_names(self) -> tuple[str, ...]:
        """Return the CLASSES of this class, or the names in the folder's classes.txt where it merely inherits VOC's."""
        file, names = self.folder / CLASS_FILE, tuple(self.CLASSES)
        definer = next(kind for kind in type(self).__mro__ if "CLASSES" in vars(kind))
        if os.path.lexists(file):  # a link that leads nowhere is an error
            in_folder = read_class_names(file)
            if definer is VOCSegmentation is not type(self):
                names = in_folder
            elif names != in_folder:
                kept = f"those of the class {type(self).__name__} ({', '.join(names)}) are taken"
                _warn_once(f"{file} names other classes ({', '.join(in_folder)}): {kept}")
        if self.NUM_CLASSES not in (len(names), VOCSegmentation.NUM_CLASSES):
            raise InputError(
                f"{type(self).__name__} has NUM_CLASSES = {self.NUM_CLASSES} but {len(names)} class names: set CLASSES "
                f"to a tuple of names, the background first, or write them into {file}"
            )
        return names

    def _read_ids(self) -> list[str]:
        name = "val" if self.split == "val" else "train"
        ids = self._read_list(name) if has_lists(self.folder) else self._split_by_name()[name]
        if self.split != "fill_in":
            return ids
        with_truth = [image_id for image_id in ids if image_id in self._files[TRUTH]]
        if 0 < len(with_truth) < len(ids):
            logger.info("fill-in score: %d of %d training images have ground truth", len(with_truth), len(ids))
        return with_truth

    def _read_list(self, name: str) -> list[str]:
        try:
            ids = read_list(self.folder, name, self._files[IMAGES])
        except InputError as error:
            raise InputError(f"{error}: {self._advice()}") from None
        path = list_file(self.folder, name)
        if not ids:
            raise InputError(f"expected image ids, found none in {path}: write one id a line")
        check_once(ids, "image", path, "remove the repeated lines")
        return ids

    def _split_by_name(self) -> dict[str, list[str]]:
        images, labels = self._need(IMAGES), self._files[SCRIBBLES] or self._files[TRUTH] or self._need(SCRIBBLES)
        ids = images.keys() & labels.keys()
        if len(ids) < 2:
            raise InputError(
                f"expected at least two images with scribbles, found {len(ids)} under {self.folder}: "
                f"an image {IMAGES}/ID.jpg goes with its scribbles {SCRIBBLES}/ID.png"
            )
        lists = split_by_name(ids)
        if self.split == "train":
            if lost := sorted(labels.keys() - ids):
                left_out = f"{len(lost):,} label maps have no image in {self.folder / IMAGES} and are left out"
                logger.warning(f"{left_out}, first that of '{lost[0]}'{self._unread(IMAGES, lost[0])}")
            without = f" ({len(images) - len(ids):,} images have no scribbles)" if len(images) > len(ids) else ""
            logger.info(
                f"{self.folder} has no folder {LISTS}: {len(lists['train']):,} of its {len(ids):,} scribbled images "
                f"train, every {VAL_EVERY}th by name is held out for validation{without}"
            )
        return lists

    def _need(self, kind: str) -> dict[str, FilePath]:
        if not (self.folder / kind).is_dir():
            raise InputError(
                f"the {self.split} images of {type(self).__name__} need the folder {self.folder / kind}, which does "
                f"not exist: {self._advice(kind)}"
            )
        return self._files[kind]

    def _listed_files(self, kind: str, suffix: str) -> list[FilePath]:
        files = self._need(kind)
        missing = [image_id for image_id in self.ids if image_id not in files]
        if missing:
            raise InputError(
                f"the {self.split} list names '{missing[0]}', but {self.folder / kind / (missing[0] + suffix)} does "
                f"not exist{self._unread(kind, missing[0])} ({len(missing):,} of {len(self.ids):,} files are missing "
                f"there): {self._advice(kind)}"
            )
        return [files[image_id] for image_id in self.ids]

    def _unread(self, kind: str, image_id: str) -> str:
        """Return what is to be said of a file that is there but of a kind that is not read."""
        file = unread_files(self.folder, kind).get(image_id)
        return f" ({file.name} is there, but such files are not read: save it as JPEG or PNG)" if file else ""

    def _advice(self, missing: str = "") -> str:
        if missing == SCRIBBLES and self._files[TRUTH] and not self._files[SCRIBBLES]:
            by_truth = "train on the ground truth (--supervision full), draw scribbles with simulate_scribbles.py, or "
            return by_truth + self._advice()
        if type(self) is VOCSegmentation and self.class_names == self.CLASSES:
            return HOW_TO_GET_VOC
        return (
            f"a data set is a folder with {IMAGES}/ID.jpg, {SCRIBBLES}/ID.png, optionally {TRUTH}/ID.png, and "
            f"the lists {LISTS}/SegmentationAug/train.txt and val.txt (or no {LISTS} at all)"
        )


@functools.cache
def _warn_once(text: str) -> None:  # not for each split
    logger.warning("%s", text)

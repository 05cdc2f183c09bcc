"""Data sets by name, and the loaders that feed training and evaluation."""

import importlib
import logging
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dataloaders import datasets
from dataloaders.custom_transforms import resize_short_side, to_tensor
from dataloaders.datasets.pascal import SPLITS, VOCSegmentation
from dataloaders.labels import read_class_names
from errors import InputError
from mypath import Path

logger = logging.getLogger(__name__)


class Loaders(NamedTuple):
    """What make_data_loader returns; a loader's data set is ``loader.dataset``, a VOCSegmentation."""

    name: str
    """Name of the data set: the resolved ``--dataset``, or the folder's name for a bare ``--data-root``."""
    train: DataLoader | None
    """Training images, shuffled and augmented; call ``train.sampler.set_epoch(epoch)`` before each epoch."""
    val: DataLoader
    """Validation images in the order of their list."""
    fill_in: DataLoader | None
    """Training images against their full truth, in order; None where there is no truth."""
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.class_names)


class SeededSampler(Sampler[tuple[int, int]]):
    """Yield (index, sample seed) pairs; order and seeds depend on (seed, epoch) alone, not on the workers."""

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and seeds come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # SeedSequence mixes the two numbers, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed) >> 1)
        order = torch.randperm(self.length, generator=generator) if self.shuffle else torch.arange(self.length)
        seeds = torch.randint(2**62, (self.length,), generator=generator)
        return zip(order.tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        return self.length


def make_data_loader(args, pin_memory: bool = False, splits: tuple[str, ...] = SPLITS) -> Loaders:
    """Build the loaders of the data set that ``args`` asks for.

    Args:
        args: any object with the attributes
            dataset: name of a file in dataloaders/datasets, or None: ``data_root`` if given, else pascal where VOC is
            found, else synthetic;
            data_root: folder of the data set, or None for the one in mypath.py;
            classes: text file with class names, or None for those of the data set;
            base_size, scale_range, crop_size, supervision: see VOCSegmentation;
            batch_size, test_batch_size, seed (not negative);
            workers: processes that load, for each loader; more than usable_cpus() are not started.
        pin_memory: whether batches are placed into page-locked memory, for a GPU.
        splits: which loaders are wanted; there is always val.

    Raises:
        InputError: the data set is unknown or incomplete.
    """
    name = args.dataset or _default_name(args.data_root)
    data_set = VOCSegmentation if args.dataset is None and args.data_root else find_data_set(name)
    class_names = read_class_names(args.classes) if args.classes else None
    where = (args,) if args.data_root is None else (args, args.data_root)

    workers = min(args.workers, usable_cpus())

    def loader(dataset: VOCSegmentation, batch_size: int, shuffle: bool = False, drop_last: bool = False) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=SeededSampler(len(dataset), args.seed, shuffle),
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_the_process_group,
            # Its own, or it would draw from the global one, and dropout would depend on the number of workers.
            generator=torch.Generator(),
        )

    def split(name: str) -> VOCSegmentation:
        return data_set(*where, split=name, class_names=class_names)

    train = fill_in = None
    if "train" in splits:
        dataset = split("train")
        if len(dataset) < 2:
            raise InputError(
                f"expected at least two training images (batch normalisation has no statistics of one), found "
                f"{len(dataset)} under {dataset.folder}: add images, or cut a large one into pieces"
            )
        # Batch normalisation after global pooling fails on a batch of one image; every other remainder is kept.
        one_left = args.batch_size > 1 and len(dataset) % args.batch_size == 1
        if one_left:
            logger.info("the last training batch of each epoch would hold a single image and is left out")
        train = loader(dataset, args.batch_size, shuffle=True, drop_last=one_left)
    val = split("val")
    if val.label_kind == "scribbles":
        logger.info("%s has no ground truth: scores are measured on the scribbles", val.folder)
    elif "fill_in" in splits:
        dataset = split("fill_in")
        fill_in = loader(dataset, args.test_batch_size) if len(dataset) else None
    return Loaders(name, train, loader(val, args.test_batch_size), fill_in, val.class_names)


class WholeImages(Dataset):
    """The images of a data set for VOC's own protocol: nothing cut off, the truth at its original size.

    An item holds 'image', uint8 (3, h, w) with the short side scaled to `short_side` for the network; 'original', uint8
    (3, H, W); 'label', uint8 (H, W); and 'name', the image's id.
    """

    def __init__(self, images: VOCSegmentation, short_side: int) -> None:
        self.images, self.short_side = images, short_side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        image, label = self.images.read(index)
        return {
            "image": to_tensor(resize_short_side(image, self.short_side)),
            "original": to_tensor(image),
            "label": to_tensor(label),
            "name": self.images.ids[index],
        }


def whole_image_loader(
    images: VOCSegmentation, short_side: int, workers: int, pin_memory: bool = False, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Return a loader of WholeImages one by one, since their sizes differ: every `world_size`-th from `rank` on."""
    return DataLoader(
        WholeImages(images, short_side),
        sampler=range(rank, len(images), world_size),
        num_workers=min(workers, usable_cpus()),
        pin_memory=pin_memory,
        worker_init_fn=_leave_the_process_group,
        generator=torch.Generator(),
    )


def usable_cpus() -> int:
    """Return how many CPUs are there for the loaders of this process, at least 1.

    Those that the process may run on, shared with the processes that torchrun has started beside it on this machine.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _leave_the_process_group(worker: int) -> None:
    """Let a worker survive Ctrl-C, which reaches the whole group: the main process finishes its step and ends it."""
    os.setpgrp()


def data_set_names() -> list[str]:
    """Return the names that ``--dataset`` takes."""
    return sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))


def find_data_set(name: str) -> type[VOCSegmentation]:
    """Import dataloaders/datasets/<name>.py and return its VOCSegmentation (sub)class, or raise InputError."""
    if name not in data_set_names():
        raise InputError(
            f"expected a data set out of {', '.join(data_set_names())}, found '{name}': write "
            f"dataloaders/datasets/{name}.py, or use --data-root FOLDER --classes FILE"
        )
    module = importlib.import_module(f"{datasets.__name__}.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, VOCSegmentation) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise InputError(
            f"expected one class derived from pascal.VOCSegmentation, found {len(classes)} in "
            f"{module.__file__}: keep one data set a file"
        )
    return classes[0]


def _default_name(data_root: str | None) -> str:
    if data_root:
        return FilePath(data_root).resolve().name
    folder = FilePath(Path.db_root_dir("pascal"))
    if folder.is_dir():
        return "pascal"
    logger.info("no PASCAL VOC at %s: using the synthetic data set, which the project draws itself", folder)
    return "synthetic"

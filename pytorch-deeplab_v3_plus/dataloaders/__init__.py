"""Data sets by name, and the loaders that feed training and evaluation."""

import importlib
import itertools
import logging
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

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
    """Training images, shuffled and augmented; call ``train.batch_sampler.set_epoch(epoch)`` before each epoch."""
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


class BatchShare(Sampler[list[tuple[int, int]]]):
    """The share of one process in each batch: images `rank`, `rank + world_size`, ... of it.

    The batches are those of a single process; the shares differ by an image at most. A batch of which nothing is left
    for this process is skipped, so that no image is ever given twice.

    Args:
        sampler: the order of all images.
        batch_size: images in a batch, over all processes.
        drop_below: leave out a last batch of fewer images.
    """

    def __init__(
        self, sampler: SeededSampler, batch_size: int, rank: int = 0, world_size: int = 1, drop_below: int = 1
    ) -> None:
        remainder = len(sampler) % batch_size
        self.batches = BatchSampler(sampler, batch_size, drop_last=0 < remainder < drop_below)
        self.rank, self.world_size = rank, world_size
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that comes next, and the batch to begin with."""
        self.batches.sampler.set_epoch(epoch)
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in itertools.islice(self.batches, self.start, None):
            share = batch[self.rank :: self.world_size]
            if share:
                yield share

    def __len__(self) -> int:
        """Return the number of batches of the whole epoch."""
        return len(self.batches)


def make_data_loader(
    args,
    pin_memory: bool = False,
    splits: tuple[str, ...] = SPLITS,
    *,
    rank: int = 0,
    world_size: int = 1,
    least: int = 2,
) -> Loaders:
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
        rank, world_size: the process that the loaders are for, and how many share each batch.
        least: images that each process needs in a training batch; a last batch of fewer is left out.

    Raises:
        InputError: the data set is unknown or incomplete.
    """
    name = args.dataset or _default_name(args.data_root)
    data_set = VOCSegmentation if args.dataset is None and args.data_root else find_data_set(name)
    class_names = read_class_names(args.classes) if args.classes else None
    where = (args,) if args.data_root is None else (args, args.data_root)

    workers = min(args.workers, usable_cpus())

    def loader(dataset: VOCSegmentation, batch_size: int, shuffle: bool = False, drop_below: int = 1) -> DataLoader:
        sampler = SeededSampler(len(dataset), args.seed, shuffle)
        return DataLoader(
            dataset,
            batch_sampler=BatchShare(sampler, batch_size, rank, world_size, drop_below),
            num_workers=workers,
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
        least = max(2, least * world_size)
        if len(dataset) < least:
            raise InputError(
                f"expected at least {'two' if least == 2 else least} training images (batch normalisation has no "
                f"statistics of one), found {len(dataset)} under {dataset.folder}: add images, or cut a large one into "
                "pieces"
            )
        # Batch normalisation after global pooling fails on a batch of one image; every other remainder is kept.
        left = len(dataset) % args.batch_size
        if 0 < left < least:
            images = "a single image" if left == 1 else f"only {left} images"
            logger.info("the last training batch of each epoch would hold %s and is left out", images)
        train = loader(dataset, args.batch_size, shuffle=True, drop_below=least)
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

"""The loaders that feed training and evaluation."""

import logging
import os
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from common.errors import InputError
from common.parallel import WORKERS, follow_the_parent, usable_cpus
from dataloaders.catalogue import choose_data_set
from dataloaders.datasets.pascal import SPLITS, VOCSegmentation
from dataloaders.images import check_scaled
from dataloaders.sampling import BatchShare, SeededSampler
from dataloaders.transforms import resize_short_side, to_tensor

logger = logging.getLogger(__name__)


class Loaders(NamedTuple):
    """What make_data_loader returns; a loader's data set is ``loader.dataset``, a VOCSegmentation."""

    name: str  # that of --dataset, or of the folder for --data-root
    train: DataLoader | None  # shuffled and augmented; call train.batch_sampler.set_epoch(epoch) before each epoch
    val: DataLoader | None  # in the order of the list
    fill_in: DataLoader | None  # training images against their full truth, in order; None where there is none
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.class_names)


def make_data_loader(
    options,
    *,
    pin_memory: bool = False,
    splits: tuple[str, ...] = SPLITS,
    rank: int = 0,
    world_size: int = 1,
    min_images: int = 2,
) -> Loaders:
    """Build the loaders of the data set that ``options`` asks for.

    Args:
        options: DataOptions, or any object with the same attributes; batch sizes given.
        pin_memory: whether batches are placed into page-locked memory, for a GPU.
        splits: which loaders are wanted, of which one is train or val; fill_in is only there beside val.
        rank, world_size: the process that the loaders are for, and how many share each batch.
        min_images: images that each process needs in a training batch; a last batch of fewer is left out.

    Raises InputError where the data set is unknown or incomplete.
    """
    name, open_split = choose_data_set(options)

    def loader(
        dataset: VOCSegmentation, batch_size: int, shuffle: bool = False, min_images: int = 1, repeat: int = 1
    ) -> DataLoader:
        sampler = SeededSampler(len(dataset), options.seed, shuffle, repeat)
        batches = BatchShare(sampler, batch_size, rank, world_size, min_images)
        return new_loader(dataset, options.workers, pin_memory, persistent=True, batch_sampler=batches)

    train = val = fill_in = None
    if "train" in splits:
        dataset, needed = open_split("train"), min_images * world_size
        _check_batches(dataset, len(dataset) * options.repeat, options.batch_size, needed, world_size)
        train = loader(dataset, options.batch_size, shuffle=True, min_images=needed, repeat=options.repeat)
    if "val" in splits:
        dataset = open_split("val")
        val = loader(dataset, options.test_batch_size)
        if dataset.label_kind == "scribbles":
            logger.info("%s has no ground truth: scores are measured on the scribbles", dataset.folder)
        elif "fill_in" in splits:
            dataset = open_split("fill_in")
            fill_in = loader(dataset, options.test_batch_size) if len(dataset) else None
            if not fill_in:
                logger.info("%s: no training image has ground truth: there is no fill-in score", dataset.folder)
    return Loaders(name, train, val, fill_in, dataset.class_names)


def _check_batches(dataset: VOCSegmentation, images: int, batch_size: int, min_images: int, world_size: int) -> None:
    """Refuse a data set whose epoch of `images` cannot fill a batch, and say so where a last batch is left out.

    Batch normalisation after global pooling fails on a batch of one image; every other remainder is kept.
    """
    if images < min_images:
        why = "batch normalisation has no statistics of one" if min_images > world_size else "one for each process"
        raise InputError(
            f"expected at least {min_images} training images ({why}), found {len(dataset)} under {dataset.folder}: add "
            "images, or cut a large one into pieces"
        )
    remainder = images % batch_size
    if 0 < remainder < min_images:
        rest = "a single image" if remainder == 1 else f"only {remainder} images"
        logger.info("the last training batch of each epoch would hold %s and is left out", rest)


class WholeImages(Dataset):
    """The images of a data set for VOC's own protocol: uncropped, with the truth at its original size.

    An item holds 'image', uint8 (3, h, w) with the short side scaled to `short_side` for the network; 'original', uint8
    (3, H, W); 'label', uint8 (H, W); and 'name', the image's id.
    """

    def __init__(self, images: VOCSegmentation, short_side: int) -> None:
        self.images, self.short_side = images, short_side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        image, label = self.images.read(index)
        check_scaled(image.size, self.short_side, self.images.image_files[index])
        return {
            "image": to_tensor(resize_short_side(image, self.short_side)),
            "original": to_tensor(image),
            "label": to_tensor(label),
            "name": self.images.ids[index],
        }


def whole_image_loader(
    images: VOCSegmentation, short_side: int, workers: int, pin_memory: bool = False, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Return a loader of single WholeImages, since their sizes differ: every `world_size`-th, starting at `rank`."""
    sampler = range(rank, len(images), world_size)
    return new_loader(WholeImages(images, short_side), workers, pin_memory, sampler=sampler)


def new_loader(
    dataset: Dataset, workers: int, pin_memory: bool = False, persistent: bool = False, **more: Any
) -> DataLoader:
    """Return a loader with the workers of this project, as many as there are CPUs; `more` goes to DataLoader."""
    workers = min(workers, usable_cpus())
    return DataLoader(
        dataset,
        num_workers=workers,
        multiprocessing_context=WORKERS if workers else None,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=_leave_the_process_group,
        # Its own, or it would draw from the global one, and dropout would depend on the number of workers.
        generator=torch.Generator(),
        **more,
    )


def _leave_the_process_group(worker: int) -> None:
    """Let a worker survive Ctrl-C, which reaches the whole group: the main process finishes its step, then stops it."""
    os.setpgrp()
    follow_the_parent()

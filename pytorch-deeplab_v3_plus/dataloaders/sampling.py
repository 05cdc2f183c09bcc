"""The order of the images, and each process's share of a batch."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import BatchSampler, Sampler


class SeededSampler(Sampler[tuple[int, int]]):
    """Yield (index, sample seed) pairs; order and seeds depend on (seed, epoch) alone, not on the workers.

    Of `images` images each comes `repeat` times an epoch.
    """

    def __init__(self, images: int, seed: int, shuffle: bool = True, repeat: int = 1) -> None:
        self.images, self.length = images, images * repeat
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and seeds are yielded next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # SeedSequence mixes the two numbers, so that epoch 1 of seed 0 is not epoch 0 of seed 1.
        mixed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(mixed) >> 1)
        order = torch.randperm(self.length, generator=generator) if self.shuffle else torch.arange(self.length)
        seeds = torch.randint(2**62, (self.length,), generator=generator)
        return zip((order % self.images).tolist(), seeds.tolist(), strict=True)

    def __len__(self) -> int:
        return self.length


class BatchShare(Sampler[list[tuple[int, int]]]):
    """The share of one process in each batch: images `rank`, `rank + world_size`, ... of it.

    The batches, of `batch_size` images in the order of `sampler`, are those of a single process; the shares differ by
    one image at most. A batch too small to have a share for this process is skipped, so that no image is used twice; a
    last batch of fewer than `drop_below` images is left out.
    """

    def __init__(
        self, sampler: SeededSampler, batch_size: int, rank: int = 0, world_size: int = 1, drop_below: int = 1
    ) -> None:
        remainder = len(sampler) % batch_size
        self.batches = BatchSampler(sampler, batch_size, drop_last=0 < remainder < drop_below)
        self.rank, self.world_size, self.start = rank, world_size, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the next epoch, and the batch to start at."""
        self.batches.sampler.set_epoch(epoch)
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in itertools.islice(self.batches, self.start, None):
            share = batch[self.rank :: self.world_size]
            if share:
                yield share

    def __len__(self) -> int:
        """Return the number of batches of a full epoch."""
        return len(self.batches)

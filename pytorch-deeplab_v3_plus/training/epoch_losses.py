"""The losses of an epoch's steps, fetched from the device now and then."""

import math

import torch

from common import distributed
from training.step import NotFinite, Terms


class EpochLosses:
    """`values` holds the losses read so far: name -> one number a step, over all processes."""

    def __init__(self, values: dict[str, list[float]] | None = None) -> None:
        self.values = values or {}
        self._pending: list[tuple[int, list[str], Terms]] = []

    def add(self, step: int, image_ids: list[str], losses: Terms) -> None:
        """Note the losses of a step, which may still be being computed."""
        self._pending.append((step, image_ids, losses))

    def read(self) -> None:
        """Fetch what was noted. It is the one place where training itself waits for the device.

        (The DenseCRF loss waits in each step, to check its input and, on a GPU, for the size of its lattice.)

        Raises:
            NotFinite: a loss is not finite.
        """
        if not self._pending:
            return
        names = list(self._pending[0][2])
        read = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self._pending]).cpu()
        for (step, image_ids, _), row in zip(self._pending, read.tolist(), strict=True):
            for name, value in zip(names, row, strict=True):
                if not math.isfinite(value):
                    raise NotFinite(name, value, step, image_ids)
        self._pending.clear()
        for name, column in zip(names, distributed.sum_over_processes(read).T.tolist(), strict=True):
            self.values.setdefault(name, []).extend(column)

    def means(self, start: int = 0) -> dict[str, float]:
        """Return the mean of each loss that was read, from step `start` (counted from 0) on."""
        return {name: sum(values[start:]) / len(values[start:]) for name, values in self.values.items()}

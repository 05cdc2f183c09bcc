"""One optimizer step: the losses of a batch, their gradients, and the update."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import distributed
from common.stopwatch import Stopwatch
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.transforms import normalize
from losses.registry import apply_regulariser, takes

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Terms = dict[str, Tensor]
"""The losses by name, scalars."""


class Whole(NamedTuple):
    """What the micro-batches of a batch, over all processes, have in common."""

    images: int
    size: Tensor
    """What the cross-entropy is divided by (see PartialCrossEntropy.size)."""


class NotFinite(Exception):
    """A loss is infinite or not a number: its name and value, and where they are known, the step and its images."""

    def __init__(self, name: str, value: float, step: int = 0, image_ids: Sequence[str] = ()) -> None:
        super().__init__(name, value, step, image_ids)
        self.name, self.value, self.step, self.image_ids = name, value, step, image_ids


class TrainingStep:
    """An optimizer step on a batch, of which each process has its share.

    Args:
        network: what images pass through: the model itself, or the model compiled or in DistributedDataParallel.
        optimizer: of its parameters.
        criterion: a PartialCrossEntropy.
        regularisers: by name (see losses.registry).
        amp: off, bf16 or fp16: precision of the network; losses stay in float32.
        accumulate: split each batch into so many micro-batches.
        min_images: fewest images in a micro-batch.
        inspect: called once, with the losses and the logits of the first micro-batch, before its backward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: nn.Module,
        regularisers: Mapping[str, nn.Module] | None = None,
        *,
        amp: str = "off",
        accumulate: int = 1,
        min_images: int = 1,
        inspect: Callable[[Terms, Tensor], None] | None = None,
    ) -> None:
        self.network, self.optimizer, self.criterion = network, optimizer, criterion
        self.regularisers = dict(regularisers or {})
        self.amp, self.accumulate, self.min_images, self.inspect = amp, accumulate, min_images, inspect
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.clock = Stopwatch()
        self.images = 0  # since reset(), over all processes

    def reset(self) -> None:
        """Count time and images from zero."""
        self.clock.reset()
        self.images = 0

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, batch: dict[str, Any]) -> Terms:
        """Take the step; return what this process's share adds to each loss, without waiting for the device.

        Args:
            batch: of the loaders: 'image', uint8 (n, 3, H, W), and 'label', uint8 (n, H, W).

        Raises:
            NotFinite: the cross-entropy, where a regulariser refuses what the network gives.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.gradients(batch)
        with self.clock.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return losses

    def gradients(self, batch: dict[str, Any]) -> Terms:
        """Leave the gradient of the whole batch's loss in the parameters; return what this share adds to each loss.

        However the batch is split, over processes and into micro-batches, its loss is the same: the cross-entropy is
        divided by the labelled pixels and images of the whole batch, and a regulariser, a mean over images, counts
        with the micro-batch's share of them.
        """
        with self.clock.part("data"):
            image, labels = (batch[name].to(self.device, non_blocking=True) for name in ("image", "label"))
            labels = labels.long()
            region = labels != PADDING
            labels = labels.masked_fill(~region, UNLABELLED)
            inputs = normalize(image)
        processes = distributed.world_size()
        images = int(distributed.sum_over_processes(torch.tensor(len(image))))
        self.images += images
        whole = Whole(images, distributed.sum_over_processes(self.criterion.size(labels)))
        # The same number everywhere, as each forward pass of synchronised batch norms is one of all processes.
        parts = max(1, min(self.accumulate, images // processes // self.min_images))
        losses: Terms = {}
        for number, part in enumerate(
            zip(*(t.tensor_split(parts) for t in (image, inputs, labels, region)), strict=True)
        ):
            last = number == parts - 1
            with contextlib.nullcontext() if last else distributed.without_reduction(self.network):
                terms = self.terms(*part, whole)
                with self.clock.part("backward"):
                    # Times the processes, since their gradients are averaged.
                    self.scaler.scale(torch.stack(list(terms.values())).sum() * processes).backward()
            losses = {name: losses.get(name, 0) + term.detach() for name, term in terms.items()}
        return losses

    def terms(self, image: Tensor, inputs: Tensor, labels: Tensor, region: Tensor, whole: Whole) -> Terms:
        """Return what a micro-batch adds to each loss of the whole batch; `inputs` are the normalised images."""
        wants_features = any(takes(regulariser, "features") for regulariser in self.regularisers.values())
        half = torch.autocast(self.device.type, AMP_TYPES.get(self.amp), enabled=self.amp != "off")
        with self.clock.part("forward"), half:
            output = self.network(inputs, with_features=True) if wants_features else (self.network(inputs),)
        logits, *features = (values.float() for values in output)
        with self.clock.part("cross_entropy"):
            terms = {"cross_entropy": self.criterion(logits, labels, whole.size)}
        probabilities = logits.softmax(1) if self.regularisers else None
        more = {"labels": labels, "logits": logits, "features": features[0] if features else None}
        for name, regulariser in self.regularisers.items():
            with self.clock.part(name):
                try:
                    value = apply_regulariser(regulariser, image.float(), probabilities, region, **more)
                except ValueError:
                    self._refuse_infinite(terms)  # then the regulariser is not to blame
                    raise
                terms[name] = value * (len(image) / whole.images)
        if self.inspect is not None:
            inspect, self.inspect = self.inspect, None
            inspect(terms, logits)
        return terms

    @staticmethod
    def _refuse_infinite(terms: Terms) -> None:
        for name, term in terms.items():
            if not math.isfinite(term.item()):
                raise NotFinite(name, term.item()) from None

"""One optimizer step: the losses of a batch, their gradients, and the update; and the losses of an epoch's steps."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import distributed
from common.stopwatch import Stopwatch
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.transforms import normalize
from losses.registry import INPUTS, Rescale, apply_regulariser, in_stages, takes
from modeling.data_parallel import without_reduction
from training.average import MovingAverage
from training.in_parts import in_parts

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Terms = dict[str, Tensor]  # the losses by name, scalars


class Totals(NamedTuple):
    """What the micro-batches of a batch, over all processes, have in common."""

    images: int
    sizes: Tensor  # what the cross-entropy on each of the scores is divided by (see PartialCrossEntropy.size)


class NotFinite(Exception):
    """A loss is infinite or not a number: its name and value, and where they are known, the step and its images."""

    def __init__(self, name: str, value: float, step: int = 0, image_ids: Sequence[str] = ()) -> None:
        super().__init__(name, value, step, image_ids)
        self.name, self.value, self.step, self.image_ids = name, value, step, image_ids


@dataclass(eq=False, repr=False)
class TrainingStep:
    """An optimizer step on a batch, of which each process has its share."""

    network: nn.Module  # what images pass through: the model, or what compile or DistributedDataParallel makes of it
    optimizer: torch.optim.Optimizer
    criterion: nn.Module  # a PartialCrossEntropy
    regularisers: Mapping[str, nn.Module] = field(default_factory=dict)  # by name (see losses.registry)
    _: KW_ONLY
    amp: str = "off"  # off, bf16 or fp16: precision of the network; losses stay in float32
    accumulate: int = 1  # how many micro-batches a batch is split into ...
    min_images: int = 1  # ... each of at least so many images
    score_strides: Sequence[int] = (1,)  # of the network
    average: MovingAverage | None = None  # of the network's weights, which each step updates
    # Called once, with the losses, scaled by the scaler, and the main scores of the first micro-batch, before its
    # backward pass.
    inspect: Callable[[Terms, Tensor], None] | None = None

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
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
        """Take the step; return what this process's share adds to each loss. Only fp16 makes it wait for the device.

        Of `batch` it takes 'image', uint8 (n, 3, H, W), and 'label', uint8 (n, H, W). Raises NotFinite where a
        regulariser refuses what the network gives because the cross-entropy is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.gradients(batch)
        with self.clock.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update(self.network)
        return losses

    def gradients(self, batch: dict[str, Any]) -> Terms:
        """Leave the gradient of the whole batch's loss in the parameters; return what this share adds to each loss.

        However the batch is split, over processes and into micro-batches, its loss is the same: the cross-entropy is
        divided by the labelled pixels and images of the whole batch, and a regulariser, a mean over images, counts
        with the micro-batch's share of them. (`gated_crf` and `tree_energy` are means over pixels, and weigh
        micro-batches with different amounts of padding a little differently.)
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
        sizes = torch.stack([self.criterion.size(shrunk(labels, stride)) for stride in self.score_strides])
        totals = Totals(images, distributed.sum_over_processes(sizes))
        # The same number everywhere, as each forward pass of synchronised batch norms is one of all processes.
        parts = max(1, min(self.accumulate, images // processes // self.min_images))
        losses: Terms = {}
        split = zip(*(values.tensor_split(parts) for values in (image, inputs, labels, region)), strict=True)
        for number, part in enumerate(split, 1):
            with contextlib.nullcontext() if number == parts else without_reduction(self.network):
                terms = self.terms(*part, totals)
                with self.clock.part("backward"):
                    # Times the processes, since their gradients are averaged.
                    self.scaler.scale(torch.stack(list(terms.values())).sum() * processes).backward()
            losses = {name: losses.get(name, 0) + term.detach() for name, term in terms.items()}
        return losses

    def terms(self, image: Tensor, inputs: Tensor, labels: Tensor, region: Tensor, totals: Totals) -> Terms:
        """Return what a micro-batch adds to each loss of the whole batch; `inputs` are the normalised images."""
        half = torch.autocast(self.device.type, AMP_TYPES.get(self.amp), enabled=self.amp != "off")
        with self.clock.part("forward"), half:
            output = self.network(inputs, for_training=True)
        stages = {name: in_stages(regulariser) for name, regulariser in self.regularisers.items()}
        named = {name for _, evaluate in stages.values() for name in INPUTS if takes(evaluate, name)}
        # Gradients of all losses are added in float32: by in_parts, or where the logits themselves are asked for, here.
        logits = output.logits.float() if "logits" in named else output.logits
        scores = [logits if values is output.logits else values for values in output.scores]
        rescales = dict.fromkeys(rescale for rescale, _ in stages.values())
        cross_entropy, rescaled = 0, []
        with self.clock.part("cross_entropy"):
            for values, stride, size in zip(scores, self.score_strides, totals.sizes, strict=True):
                wanted = rescales if values is logits else ()
                value, *found = self.at_scores(values, shrunk(labels, stride), size, wanted)
                cross_entropy, rescaled = cross_entropy + value, rescaled + found
        if rescales and not rescaled:  # the logits are none of the scores
            probabilities = logits.float().softmax(1)
            rescaled = [rescale(probabilities) for rescale in rescales]
        terms = {"cross_entropy": cross_entropy}
        rescaled = dict(zip(rescales, rescaled, strict=True))
        features = output.features.float() if "features" in named else None
        sharing = [self.regularisers[name] for name, (_, evaluate) in stages.items() if takes(evaluate, "lattices")]
        kernels = Counter(one.kernel for one in sharing)
        lattices = {kernel: None for kernel, uses in kernels.items() if uses > 1}
        more = {"labels": labels, "logits": logits, "features": features, "lattices": lattices}
        image = image.float()
        for name, (rescale, evaluate) in stages.items():
            with self.clock.part(name):
                try:
                    value = apply_regulariser(evaluate, image, rescaled[rescale], region, **more)
                except ValueError:
                    for earlier, term in terms.items():  # where one is infinite, this regulariser is not to blame
                        if not term.isfinite():
                            raise NotFinite(earlier, term.item()) from None
                    raise
                terms[name] = value * (len(image) / totals.images)
        if self.inspect is not None:
            inspect, self.inspect = self.inspect, None
            inspect({name: self.scaler.scale(term) for name, term in terms.items()}, scores[0])
        return terms

    def at_scores(
        self, scores: Tensor, labels: Tensor, size: Tensor, rescales: Collection[Rescale]
    ) -> tuple[Tensor, ...]:
        """Return the cross-entropy on scores, and their softmax as each of `rescales` changes it.

        A position that scores have beyond the labels, where the image's size is not a multiple of the stride plus 1,
        has no cross-entropy.
        """

        def of_part(part: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
            total = self.criterion.total(part[:, :, : seen.shape[1], : seen.shape[2]], seen)
            probabilities = part.softmax(1) if rescales else None
            return total, *(rescale(probabilities) for rescale in rescales)

        total, *rescaled = in_parts(of_part, scores, labels)
        return self.criterion.of_total(total, size), *rescaled


def shrunk(labels: Tensor, stride: int) -> Tensor:
    """Return labels (N, H, W) at every `stride`-th pixel from the first on, as Caffe's `Interp` shrinks them."""
    return labels[:, ::stride, ::stride]


class EpochLosses:
    """The losses of an epoch's steps; `values` holds those read so far: name -> one number a step, of all processes."""

    def __init__(self, values: dict[str, list[float]] | None = None) -> None:
        self.values = values or {}
        self._pending: list[tuple[int, list[str], Terms]] = []

    def add(self, step: int, image_ids: list[str], losses: Terms) -> None:
        """Note the losses of a step, which the device may still be computing."""
        self._pending.append((step, image_ids, losses))

    def read(self) -> None:
        """Fetch what was noted; raise NotFinite where a loss is not finite.

        It is the one place where training itself waits for the device. (The DenseCRF loss waits in each step, to check
        its input and, on a GPU, for the size of its lattice.)
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

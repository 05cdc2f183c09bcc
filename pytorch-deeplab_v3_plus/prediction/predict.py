"""Run a network over images of any size: scaled, mirrored, in overlapping tiles if they are large."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.errors import InputError
from dataloaders.labels import PADDING
from dataloaders.sizes import DEFAULT_CROP
from dataloaders.transforms import normalize, resize_short_side, to_tensor
from filtering.bilateral import check_image_range
from modeling.network import Network

INTERPOLATIONS = ("bilinear", "bicubic")
TILE = 2049
"""Side in pixels above which whole images are cut into tiles."""


@torch.no_grad()
def predict(
    network: Network,
    images: Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tile: int = TILE,
    batch_size: int = 1,
    original: Tensor | None = None,
    whole: bool = True,
) -> Iterator[Tensor]:
    """Yield the logits (N, K, h', w') of a batch of images at each scale and, with `flip`, of their mirror images too.

    Args:
        network: in evaluation mode; its device is where everything happens.
        images: RGB (N, 3, h, w) in 0-255, of any dtype.
        scales: factors by which the images are scaled for the network; h' and w' are the scaled sides.
        flip: whether each scale is also predicted mirrored, with the logits mirrored back.
        tile: a side of whole images longer than this is cut into tiles that overlap by a quarter or more; 0 for never.
        batch_size: how many tiles the network sees at a time. Images that need no tiles are seen all at once.
        original: what `images` were scaled from, of which the other scales are made, so that larger ones gain detail.
        whole: False for crops as in training, which the network takes as they are (see Network.whole).

    Raises ValueError for images that are not so, and InputError where a logit is infinite or not a number.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape (N, 3, h, w), found {tuple(images.shape)}")
    if images.is_floating_point():
        check_image_range(*(value.item() for value in images.aminmax()))
    weight = next(network.parameters())
    images = images.to(weight.device, non_blocking=True)
    seen, tile = (network.whole, tile) if whole else (network, 0)

    def forward(pixels: Tensor) -> Tensor:
        return seen(normalize(pixels).to(weight.dtype))

    for scale in scales:
        scaled = images
        if scale != 1:
            shape = [max(1, round(side * scale)) for side in images.shape[2:]]
            source = images if original is None else original.to(images.device)
            scaled = F.interpolate(source.float(), shape, mode="bilinear", align_corners=False, antialias=True)
        yield _finite(_in_tiles(forward, scaled, tile, batch_size))
        if flip:
            yield _finite(_in_tiles(forward, scaled.flip(3), tile, batch_size).flip(3))


def _finite(logits: Tensor) -> Tensor:
    # Finite weights may be too large, and each pixel would be background. A sum takes no memory; that of half precision
    # would itself end at 65504.
    if not logits.sum(dtype=torch.float32).isfinite():
        what = "the network's scores are infinite or not a number"
        raise InputError(f"{what}, as after a training that diverged; take an earlier checkpoint")
    return logits


def _in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, tile: int, batch_size: int) -> Tensor:
    # Where tiles overlap their logits are averaged with weights that fall off linearly towards a tile's edges, because
    # that is where the network sees least of the surroundings.
    height, width = images.shape[2:]
    h, w = (min(height, tile), min(width, tile)) if tile else (height, width)
    if (h, w) == (height, width):
        return forward(images)
    ramp = (_ramp(h)[:, None] * _ramp(w)).to(images.device)
    weights = torch.zeros(height, width, device=images.device)
    sums = None
    rows, columns = tile_starts(height, h), tile_starts(width, w)
    corners = [(n, top, left) for n in range(len(images)) for top in rows for left in columns]
    for start in range(0, len(corners), batch_size):
        some = corners[start : start + batch_size]
        tiles = torch.stack([images[n, :, top : top + h, left : left + w] for n, top, left in some])
        for (n, top, left), logits in zip(some, forward(tiles), strict=True):
            if sums is None:
                sums = logits.new_zeros(len(images), len(logits), height, width)
            sums[n, :, top : top + h, left : left + w] += ramp * logits
            if n == 0:  # the tiles of all images lie alike
                weights[top : top + h, left : left + w] += ramp
    return sums / weights


def tile_starts(length: int, tile: int) -> list[int]:
    """Return where the tiles of a side begin: evenly from end to end, overlapping by a quarter of a tile or more."""
    if length <= tile:
        return [0]
    overlap = tile // 4
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _ramp(length: int) -> Tensor:
    """Return the weights along a tile's side: 1 in the middle, falling linearly over a quarter at each end."""
    to_edge = torch.arange(1, length + 1).minimum(torch.arange(length, 0, -1))
    return (to_edge / (length // 4 + 1)).clamp(max=1)


def _scaled_back(logits: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if logits.shape[2:] == size:
        return logits.float()
    return F.interpolate(logits.float(), size, mode=interpolation, align_corners=True)


@torch.no_grad()
def probabilities(views: Iterable[Tensor], size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Return the softmax probabilities (N, K, *size), float32, averaged over the logits that `predict` yields."""
    total, count = 0.0, 0
    for logits in views:
        total, count = total + _scaled_back(logits, size, interpolation).softmax(1), count + 1
    return total / count


@torch.no_grad()
def labels_and_confidence(
    logits: Tensor, size: tuple[int, int], interpolation: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Return each pixel's class, uint8, and its probability, float32, on the CPU for logits (K, h, w) of one image."""
    # Class by class, so that a large photograph needs three planes of `size` and not one for each class.
    planes = (_scaled_back(plane[None, None], size, interpolation)[0, 0] for plane in logits)
    best = next(planes).clone()
    log_sum = best.clone()
    labels = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for k, plane in enumerate(planes, start=1):
        labels[plane > best] = k
        best = best.maximum(plane)
        log_sum = log_sum.logaddexp(plane)
    return labels.cpu(), (best - log_sum).exp().cpu()


@torch.no_grad()
def keep_scribbles(probabilities: Tensor, scribbles: np.ndarray) -> Tensor:
    """Return probabilities (K, H, W) that agree with an image's scribbles, uint8 (H, W).

    Classes that are not drawn get 0, and the pixels of a stroke its class. Scribbles without a labelled pixel change
    nothing.
    """
    drawn = torch.from_numpy(scribbles).to(probabilities.device).long()
    labelled = drawn < PADDING
    if not labelled.any():
        return probabilities
    present = torch.bincount(drawn[labelled], minlength=len(probabilities)) > 0
    kept = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny) * present[:, None, None]
    kept /= kept.sum(0)
    kept[:, labelled] = F.one_hot(drawn[labelled], len(kept)).T.to(kept.dtype)
    return kept


@torch.no_grad()
def labels_on_scribbles(
    logits: Tensor, size: tuple[int, int], scribbles: np.ndarray, interpolation: str = "bilinear"
) -> Tensor:
    """Return the likeliest classes, uint8 (H, W) on the CPU, of what keep_scribbles leaves, for logits (K, h, w).

    `scribbles` are uint8 of `size` (H, W). Only the classes that are drawn are scaled, one at a time.
    """
    drawn = torch.from_numpy(scribbles)
    labelled = drawn < PADDING
    if not labelled.any():
        return labels_and_confidence(logits, size, interpolation)[0]
    present = drawn[labelled].unique()
    labels, _ = labels_and_confidence(logits[present.long().to(logits.device)], size, interpolation)
    return torch.where(labelled, drawn, present[labels.long()])


def segment(model: Network, image: Image.Image, size: int) -> np.ndarray:
    """Return the classes, uint8 (H, W), of an image of mode RGB; raise ValueError for another.

    The network sees it with its short side scaled to `size` (0: as it is).
    """
    mode = image.mode if isinstance(image, Image.Image) else type(image).__name__
    if mode != "RGB":
        raise ValueError(f"image: expected a PIL image of mode RGB, found {mode}")
    pixels = to_tensor(resize_short_side(image, size))
    with evaluation_mode(model):
        (logits,) = predict(model, pixels[None])
    return labels_and_confidence(logits[0], (image.height, image.width))[0].numpy()


def short_side(settings: Mapping[str, Any]) -> int:
    """Return the short side at which a checkpoint's network sees whole images, from its settings; 0: their own."""
    return settings.get("short_side", settings.get("crop_size", DEFAULT_CROP))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode for the duration of the block; then each of its modules has its own again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

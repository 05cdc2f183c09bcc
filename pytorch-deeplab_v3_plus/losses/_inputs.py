"""What the regularisers do with their inputs and settings before they compute."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.arguments import has_square
from common.errors import InputError
from dataloaders.labels import UNLABELLED
from DenseCRFLoss import check_form, check_ranges
from filtering.bilateral import check_tensors


def check_settings(
    name: str, *, positive: Sequence[tuple[str, float]] = (), shares: Sequence[tuple[str, float]] = ()
) -> None:
    """Raise InputError for a setting of regulariser `name` that is not positive (see has_square), or not in (0, 1]."""
    for setting, value in positive:
        if not (value > 0 and has_square(value)):
            what = "must be a positive number, within 1e-18 and 1e18"
            raise InputError(f"regulariser {name}: {setting} {what}, found {value}")
    for setting, value in shares:
        if not 0 < value <= 1:
            raise InputError(f"regulariser {name}: {setting} must lie in (0, 1], found {value}")


def check_inputs(regulariser: nn.Module, image: Tensor, probabilities: Tensor, region: Tensor, *labels: Tensor) -> None:
    """Raise ValueError for inputs of a regulariser that are not as in losses.registry, and warn of an image in 0..1.

    Labels are given by those that take them. Values are looked at in the first call alone, because the host would wait
    for a GPU in every one.
    """
    check_form(image, probabilities, region)
    if region.dtype != torch.bool:
        raise ValueError(f"region_of_interest must be bool, found {region.dtype}; pass region_of_interest == 1")
    for given in labels:
        check_tensors(labels=given)
        if given.shape != region.shape or given.dtype != torch.int64 or given.device != region.device:
            found = f"{given.dtype} {tuple(given.shape)} on {given.device}"
            raise ValueError(f"labels must be int64 {tuple(region.shape)} on {region.device}, found {found}")
    if getattr(regulariser, "has_checked_values", False):
        return
    check_ranges(image.detach().float(), probabilities.detach(), region)
    for given in labels:
        last = probabilities.shape[1] - 1
        low, high = torch.stack(given.masked_fill((given == UNLABELLED) | ~region, 0).aminmax()).tolist()
        if low < 0 or high > last:
            wrong = low if low < 0 else high
            raise ValueError(f"labels must be classes of 0 to {last}, {UNLABELLED} where there is none, found {wrong}")
    regulariser.has_checked_values = True


def at_least_float32(probabilities: Tensor) -> Tensor:
    """Return half precision as float32; sums over an image need it."""
    return probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))


def resized(
    size: Sequence[int], image: Tensor, probabilities: Tensor, *masks: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return image (N, 3, H, W) and probabilities (N, K, H, W) as means over the cells of a grid of `size` (h, w).

    Of `masks` (N, H, W), bool, a cell is True where all of it is. Nothing is computed at the size that they have.
    """
    if tuple(size) == tuple(image.shape[2:]):
        return image, probabilities, list(masks)
    masks = [F.interpolate(mask.unsqueeze(1).float(), size, mode="area").squeeze(1) == 1 for mask in masks]
    image = image if image.is_floating_point() else image.float()
    return F.interpolate(image, size, mode="area"), F.interpolate(probabilities, size, mode="area"), masks


def scaled_size(image: Tensor, scale: float) -> tuple[int, int]:
    """Return the size (h, w) of `image` (N, 3, H, W) times `scale`, at least one pixel."""
    height, width = image.shape[2:]
    return max(1, int(height * scale)), max(1, int(width * scale))


def on_device_of(like: Tensor, numbers: Sequence[float]) -> Tensor:
    """Return the numbers as a tensor (len(numbers),) of the dtype and device of `like`.

    Filled in one by one, because the host would wait for a GPU to copy a list.
    """
    return torch.cat([like.new_empty((0,)), *(like.new_full((1,), number) for number in numbers)])

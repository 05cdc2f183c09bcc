"""How unsure a network is of an image, and where a stroke would help it most."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURHOOD = 12  # of an image's short side: the width over which uncertainty is averaged before its peak is sought


def uncertainty_map(probabilities: Tensor) -> Tensor:
    """Return 1 - (p1 - p2) of each pixel, float (h, w) in 0-1, for probabilities (K, h, w).

    p1 and p2 are those of the likeliest and the second likeliest class: the margin of active learning (Scheffer,
    Decomain and Wrobel 2001). Its mean is the uncertainty of an image.
    """
    best = probabilities.topk(2, dim=0).values
    return 1 - (best[0] - best[1])


def most_uncertain_place(uncertainty: Tensor, drawn: Tensor | None = None) -> tuple[int, int]:
    """Return x and y of the pixel around which the mean of a map (h, w) is highest, off the pixels that are drawn.

    `drawn` is bool (h, w).
    """
    if drawn is None:
        drawn = torch.zeros_like(uncertainty, dtype=torch.bool)
    reach = max(1, min(uncertainty.shape) // (2 * NEIGHBOURHOOD))
    smooth = uncertainty.masked_fill(drawn, 0)[None, None]
    for _ in range(2):  # twice a box: nearly round; what lies outside counts 0, as a stroke at the border says less
        smooth = F.avg_pool2d(smooth, 2 * reach + 1, stride=1, padding=reach)
    place = int(smooth[0, 0].masked_fill(drawn, -1).argmax())
    return place % uncertainty.shape[1], place // uncertainty.shape[1]

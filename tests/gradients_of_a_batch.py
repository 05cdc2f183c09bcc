"""The losses and gradients of some batches, by one process or several: what test_distributed.py runs and compares.

In double precision: the same sums in another order then differ by next to nothing, whatever batch norm makes of it.
"""

import sys

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common import distributed
from modeling.deeplab import DeepLab
from training.build import build_step
from training.options import parse_options

CLASSES, SIDE = 4, 32
CASES = {
    "ce": [],
    "mean, in three parts": ["--ce-reduction", "mean", "--accumulate", "3", "--freeze-bn"],
    "balanced, in two parts": ["--use-balanced-weights", "--accumulate", "2", "--freeze-bn"],
    "focal": ["--loss-type", "focal"],
    "densecrf": ["--densecrfloss", "2e-4", "--rloss-scale", "0.5", "--sigma-xy", "20"],
    "size-free, in two parts": ["--densecrfloss", "1", "--size-free", "--accumulate", "2", "--freeze-bn"],
    "uneven": ["--densecrfloss", "1", "--size-free", "--batch-size", "5"],
}


def a_batch(images: int) -> dict:
    """Images with few and many labels, one without any; the first half is the darker one."""
    generator = torch.Generator().manual_seed(images)
    image = torch.rand(images, 3, SIDE, SIDE, generator=generator)
    image[: images // 2] *= 0.3
    label = torch.randint(CLASSES, (images, SIDE, SIDE), generator=generator)
    labelled = torch.rand(images, SIDE, SIDE, generator=generator)
    for number in range(images):
        label[number][labelled[number] > 0.2 * number**2 / images] = 255
    label[1, :, 20:] = 254
    return {"image": (255 * image).byte(), "label": label, "name": [f"image {number}" for number in range(images)]}


def gradients(words: list[str]) -> dict[str, torch.Tensor]:
    """Return the losses, the gradient of each parameter and the running statistics after one batch."""
    words = ["--backbone", "mobilenet", "--batch-size", "6", "--no-cuda", "--crop-size", str(SIDE), *words]
    options = parse_options(words)
    torch.manual_seed(0)
    model = DeepLab(CLASSES, "mobilenet", sync_bn=options.sync_bn, freeze_bn=options.freeze_bn).double()
    model.register_forward_pre_hook(lambda _, inputs: tuple(values.double() for values in inputs))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
        if isinstance(
            module, _BatchNorm
        ):  # with shifts of 0 the borders lie on the kink of the ReLU, and rounding decides
            nn.init.normal_(module.bias, std=0.1)
    step = build_step(options, model, torch.tensor([4, 3, 2, 1]), {})
    step.inspect = None
    whole = a_batch(options.data.batch_size)
    rank, processes = distributed.rank(), distributed.world_size()
    share = {name: values[rank::processes] for name, values in whole.items()}
    losses = step.gradients(share)
    found = {f"loss {name}": distributed.sum_over_processes(value) for name, value in losses.items()}
    found |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return found | {f"buffer {name}": value for name, value in model.named_buffers() if "num_batches" not in name}


def main(path: str, *names: str) -> None:
    """Save what the processes find for the cases of these names."""
    with distributed.process_group(torch.device("cpu")):
        found = {name: gradients(CASES[name]) for name in names}
    if distributed.is_main():
        torch.save(found, path)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Segment an image with a trained network.

    python inference.py --backbone mobilenet --checkpoint CHECKPOINT --image_path IMAGE --output_directory OUT \
        --crop_size 513 --n_class 21

writes OUT/<name>_prediction.png: class numbers at the image's own size, in VOC's colours. With --rloss-weight
it also reports the DenseCRF loss of the prediction and writes its gradient for each class,
OUT/<name>_grad_seg_class_<k>.png. Backbone, classes, stride and size come from the checkpoint where it holds them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dataloaders.custom_transforms import centre_square, denormalize, resize_short_side
from dataloaders.files import read_image
from dataloaders.labels import VOC_CLASSES, voc_palette
from DenseCRFLoss import DenseCRFLoss
from errors import InputError, exit_status
from modeling.backbone import BACKBONES
from training.checkpoint import load_network, replace_file
from training.evaluation import label_map, predict
from training.figures import save_gradient
from training.monitor import configure_logging, describe_device
from training.options import (
    HelpFormatter,
    add_densecrf_options,
    add_device_options,
    add_network_options,
    add_switch,
    choose_device,
    number,
)

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the inference script."""
    parser = argparse.ArgumentParser(
        description="Segment an image with a trained network.", formatter_class=HelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained network")
    parser.add_argument("--image_path", "--image-path", required=True, metavar="FILE", help="image to segment")
    parser.add_argument(
        "--output_directory",
        "--output-directory",
        required=True,
        metavar="FOLDER",
        help="where the pictures go; made if absent",
    )
    add_network_options(parser, BACKBONES)
    parser.add_argument(
        "--crop_size",
        "--crop-size",
        type=number(int, 1),
        metavar="PIXELS",
        help="the image's short side is scaled to this (default: the checkpoint's, or else 513)",
    )
    add_switch(
        parser, "--center-crop", help="segment the centre square of the scaled image, at that size, as the original did"
    )
    crf = parser.add_argument_group("DenseCRF loss of the prediction")
    crf.add_argument(
        "--rloss-weight",
        type=number(float, 0, above=True),
        metavar="WEIGHT",
        help="weight of the DenseCRF loss: report it and draw its gradient for each class (default: off)",
    )
    crf.add_argument(
        "--rloss-scale",
        type=number(float, 0, above=True, high=1),
        default=0.5,
        metavar="FACTOR",
        help="shrink the input of the loss by this factor",
    )
    add_densecrf_options(crf)
    add_device_options(parser)
    parser.add_argument("--workers", type=number(int, 0), default=4, metavar="N", help="accepted; one image needs none")
    return parser


def save_labels(path: Path, labels: Tensor) -> None:
    """Write a label map (H, W) uint8 as a palette PNG in VOC's colours."""
    picture = Image.fromarray(labels.numpy())
    picture.putpalette(voc_palette().tobytes())
    replace_file(path, lambda temporary: picture.save(temporary, format="PNG"))


def densecrf_gradient(args: argparse.Namespace, inputs: Tensor, logits: Tensor) -> tuple[float, Tensor]:
    """Return the DenseCRF loss of a prediction and its gradient (K, h, w) with respect to the probabilities."""
    loss_layer = DenseCRFLoss(
        args.rloss_weight, args.sigma_rgb, args.sigma_xy, args.rloss_scale, size_free=args.size_free
    )
    probabilities = logits.softmax(1).requires_grad_()
    loss = loss_layer(denormalize(inputs).clamp(0, 255), probabilities, torch.ones_like(inputs[:, 0]))
    loss.backward()
    return loss.item(), probabilities.grad[0].cpu()


def segment(args: argparse.Namespace, model: nn.Module, settings: dict[str, Any]) -> None:
    """Segment one image and write what was asked for."""
    path, folder = Path(args.image_path), Path(args.output_directory)
    image = read_image(path)
    size = args.crop_size or settings.get("crop_size", 513)
    if args.center_crop:
        image = centre_square(resize_short_side(image, size))
    inputs, logits = predict(model, image, size)
    labels = label_map(logits, image.height, image.width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --output_directory") from None
    prediction = folder / f"{path.stem}_prediction.png"
    save_labels(prediction, labels)
    names = settings.get("class_names") or (VOC_CLASSES if settings["num_classes"] == len(VOC_CLASSES) else None)
    found = ", ".join(
        f"{names[k] if names else f'class {k}'} {100 * count / labels.numel():.1f} %"
        for k, count in enumerate(torch.bincount(labels.flatten().long()).tolist())
        if count
    )
    logger.info("%s: %s", prediction, found)
    if args.rloss_weight:
        loss, gradient = densecrf_gradient(args, inputs, logits)
        logger.info("DenseCRF loss: %.6g", loss)
        for k, plane in enumerate(gradient.numpy()):
            title = f"gradient of the DenseCRF loss, {names[k] if names else f'class {k}'}"
            save_gradient(folder / f"{path.stem}_grad_seg_class_{k}.png", plane, title)
        logger.info("%s: gradients of classes 0-%d", folder / f"{path.stem}_grad_seg_class_<k>.png", len(gradient) - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Segment an image as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    device = choose_device(args)
    model, settings = load_network(args.checkpoint, args.backbone, args.n_class, args.out_stride)
    model.to(device).eval()
    logger.info(
        "network: %s, output stride %d, %d classes, on %s",
        settings["backbone"],
        settings["output_stride"],
        settings["num_classes"],
        describe_device(device),
    )
    segment(args, model, settings)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

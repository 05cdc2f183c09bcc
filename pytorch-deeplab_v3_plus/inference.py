"""Segment images with a trained network, or write the network as ONNX.

    python inference.py --backbone mobilenet --checkpoint CHECKPOINT --image_path IMAGE --output_directory OUT \
        --crop_size 513 --n_class 21

takes images, folders and patterns, and writes for each image, at its own size, OUT/<name>_prediction.png (class
numbers, in VOC's colours), <name>_colour.png and <name>_overlay.png (with a legend); on demand a confidence map,
the probabilities, and the prediction refined by a DenseCRF, <name>_crf.png, which the colours and the overlay then
show. With --rloss-weight it also reports the DenseCRF loss of the prediction and writes its gradient for each class,
OUT/<name>_grad_seg_class_<k>.png. Backbone, classes, stride and size come from the checkpoint where it holds them.

    python inference.py --checkpoint CHECKPOINT --output_directory OUT --export onnx
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common.arguments import HelpFormatter, add_switch, number
from common.devices import choose_device, describe_device
from common.errors import InputError, exit_status
from common.logs import configure_logging
from modeling.backbone import BACKBONES
from modeling.checkpoint import load_network
from prediction.export import export_onnx
from prediction.predict import INTERPOLATIONS, RawRGB
from prediction.run import Segmenter, make_folder
from training.old_options import (
    PRESETS,
    add_crf_options,
    add_densecrf_options,
    add_device_options,
    add_network_options,
    add_preset_option,
    parse_with_preset,
)

# Of a preset's settings, those of the DenseCRF loss that inference reports; its crop size serves where the checkpoint
# holds none.
LOSS_SETTINGS = ("rloss_scale", "sigma_xy", "sigma_rgb", "size_free")

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the inference script."""
    parser = argparse.ArgumentParser(
        description="Segment images with a trained network.", formatter_class=HelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained network")
    parser.add_argument(
        "--image_path",
        "--image-path",
        nargs="+",
        metavar="PATH",
        help="what to segment: images, folders (with those inside), patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--output_directory",
        "--output-directory",
        required=True,
        metavar="FOLDER",
        help="where the results go; made if absent",
    )
    add_preset_option(
        parser,
        "that of the training: kernel of the DenseCRF loss, and --crop_size where the checkpoint does not hold it",
    )
    add_network_options(parser, BACKBONES)
    parser.add_argument(
        "--crop_size",
        "--crop-size",
        type=number(int, 0),
        metavar="PIXELS",
        help="an image's short side is scaled to this for the network; 0: not scaled (default: the checkpoint's, or "
        "else 513)",
    )
    add_switch(
        parser, "--center-crop", help="segment the centre square of the scaled image, at that size, as the original did"
    )
    parser.add_argument(
        "--tile",
        type=number(int, 0),
        default=2049,
        metavar="PIXELS",
        help="cut scaled images with a longer side into overlapping tiles of this size; 0: never",
    )
    parser.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        default="bilinear",
        help="how the network's scores are scaled back to the image's size",
    )
    parser.add_argument(
        "--batch-size", type=number(int, 1), default=1, metavar="N", help="images or tiles of one size in a step"
    )
    parser.add_argument("--workers", type=number(int, 0), default=4, metavar="N", help="processes that read ahead")
    more = parser.add_argument_group("further results")
    add_switch(
        more, "--confidence", help="<name>_confidence.png: the probability of the class shown, as grey levels 0-255"
    )
    add_switch(
        more, "--probabilities", help="<name>_probabilities.npz: `probabilities` (K, H, W) float16 and `class_names`"
    )
    more.add_argument(
        "--export",
        choices=("onnx",),
        help="write the network to <checkpoint>.onnx (images of any size, RGB 0-255) and check it against torch",
    )
    add_crf_options(parser.add_argument_group("<name>_crf.png: the prediction refined by a DenseCRF (mean field)"))
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Segment or export as the command line says; return the exit status."""
    configure_logging()
    parser = build_parser()
    args = parse_with_preset(parser, argv, LOSS_SETTINGS)
    if not args.image_path and not args.export:
        parser.error("expected images (--image_path) or --export onnx")
    device = choose_device(args)
    model, settings = load_network(args.checkpoint, args.backbone, args.n_class, args.out_stride)
    if args.preset:
        settings.setdefault("crop_size", PRESETS[args.preset]["crop_size"])
    model = RawRGB(model).eval()
    segmenter = Segmenter(args, model, settings)
    if args.export:
        folder = Path(args.output_directory)
        make_folder(folder)
        path = folder / (Path(args.checkpoint).name.split(".")[0] + ".onnx")
        difference = export_onnx(path, model, segmenter.class_names, segmenter.view.size or 513)
        logger.info("%s: logits within %.1g of torch's, relative to the largest, on two image sizes", path, difference)
    if not args.image_path:
        return 0
    model.to(device)
    logger.info(
        "network: %s, output stride %d, %d classes, on %s",
        settings["backbone"],
        settings["output_stride"],
        settings["num_classes"],
        describe_device(device),
    )
    try:
        return segmenter.segment(args.image_path)
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(
            f"{str(error).split('. ')[0]}; lower --batch-size ({args.batch_size}), --tile ({args.tile}) or "
            "--crop_size, or use --no-cuda"
        ) from None


if __name__ == "__main__":
    sys.exit(exit_status(main))

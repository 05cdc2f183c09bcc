"""Score a trained network on the validation images of a data set, and with --fill-in on its training images.

    python evaluate.py --checkpoint run/synthetic/deeplab-mobilenet/model_best.pth.tar --dataset synthetic

By two protocols: crop, the original's (short side scaled to the crop size, centre square), and full, PASCAL VOC's own
(every pixel of the whole image at its original size). Multi-scale, mirroring and a DenseCRF on top:

    python evaluate.py --checkpoint CHECKPOINT --protocol full --scales 0.5 0.75 1 1.25 1.5 1.75 --flip --crf

It prints a table and writes, for each of its columns, all that was counted as JSON, and two figures: the confusion
matrix, and the worst and best images.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import HelpFormatter, add_switch, number
from common.devices import choose_device, describe_device
from common.errors import InputError, exit_status
from common.logs import configure_logging
from dataloaders.loaders import make_data_loader
from evaluation.protocols import VIEWS, Protocol, evaluate_split
from evaluation.report import make_folder, write_report
from evaluation.scores import score_table
from modeling.backbone import BACKBONES
from modeling.checkpoint import class_mismatch, load_network
from training.old_options import (
    add_crf_options,
    add_data_options,
    add_device_options,
    add_network_options,
    check_data_options,
    mean_field,
)

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the evaluation script."""
    parser = argparse.ArgumentParser(
        description="Score a trained network on a data set.", formatter_class=HelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained network")
    add_data_options(parser)
    add_network_options(parser, BACKBONES)
    parser.add_argument(
        "--protocol",
        nargs="+",
        choices=VIEWS,
        default=list(VIEWS),
        help="crop: the centre square of the image scaled to the crop size, as in the original; full: every pixel at "
        "the original size, as VOC's evaluation (default: both)",
    )
    parser.add_argument(
        "--crop-size",
        "--crop_size",
        type=number(int, 1),
        metavar="PIXELS",
        help="short side of what the network sees (default: the checkpoint's, or else 513)",
    )
    parser.add_argument(
        "--scales",
        type=number(float, 0, above=True),
        nargs="+",
        default=[1.0],
        metavar="FACTOR",
        help="average the probabilities over these scales of that; 0.5 0.75 1 1.25 1.5 1.75 are usual (default: 1)",
    )
    add_switch(parser, "--flip", help="average over the mirrored image too")
    add_crf_options(parser.add_argument_group("DenseCRF"))
    parser.add_argument("--test-batch-size", type=number(int, 1), default=4, metavar="N", help="images in a step")
    add_switch(parser, "--fill-in", help="also score the training images against their full truth")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where JSON and figures go (default: evaluation/ beside the checkpoint)",
    )
    add_device_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    check_data_options(args)
    device = choose_device(args)
    model, settings = load_network(args.checkpoint, args.backbone, args.n_class, args.out_stride)
    args.crop_size = args.crop_size or settings.get("crop_size", 513)
    args.supervision, args.seed = "scribble", 0  # the loaders ask, but only training depends on them
    splits = ("val", "fill_in") if args.fill_in else ("val",)
    pin_memory = device.type == "cuda"
    loaders = make_data_loader(args, pin_memory=pin_memory, splits=splits)
    if loaders.num_classes != settings["num_classes"]:
        raise InputError(
            f"{args.checkpoint}: has {settings['num_classes']} classes, but the data set {loaders.name} has "
            f"{loaders.num_classes}; name the data set that it was trained on"
        )
    if problem := class_mismatch(settings, loaders.class_names):
        raise InputError(f"{args.checkpoint}: {problem}; give the classes of its training, in the same order")
    folder = Path(args.output) if args.output else Path(args.checkpoint).resolve().parent / "evaluation"
    make_folder(folder)  # before the work
    model.to(device)
    logger.info("network: %s, on %s", args.checkpoint, describe_device(device))

    crf = mean_field(args)
    protocols = [Protocol(view, args.crop_size, tuple(args.scales), args.flip, crf) for view in args.protocol]
    columns, files = {}, []
    for split in splits:
        if getattr(loaders, split) is None:
            continue
        for protocol in protocols:
            tally = evaluate_split(model, loaders, split, protocol, args.workers, pin_memory)
            title = f"{split.replace('_', '-')} {protocol.name}"
            columns[title] = tally.scores()
            images, about = getattr(loaders, split).dataset, {"checkpoint": args.checkpoint, "data": loaders.name}
            files += write_report(folder, title, model, images, protocol, tally, **about)
    logger.info("\nScores in %%\n\n%s\n", score_table(columns, loaders.class_names))
    for protocol in protocols:
        logger.info("%s: %s", protocol.name, protocol)
    logger.info("written to %s: %s", folder, ", ".join(file.name for file in files))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

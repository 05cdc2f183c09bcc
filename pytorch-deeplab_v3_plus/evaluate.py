"""Score a trained network on the validation images of a data set, and with --fill-in on its training images.

    python evaluate.py --checkpoint run/synthetic/deeplab-mobilenet/model_best.pth.tar --dataset synthetic

The protocol is the original's: short side scaled to the crop size, centre square.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from dataloaders import make_data_loader
from errors import InputError, exit_status
from modeling.backbone import BACKBONES
from training.checkpoint import load_network
from training.evaluation import evaluate, score_table
from training.monitor import configure_logging
from training.options import (
    HelpFormatter,
    add_data_options,
    add_device_options,
    add_network_options,
    add_switch,
    check_data_options,
    choose_device,
    number,
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
        "--crop-size",
        "--crop_size",
        type=number(int, 1),
        metavar="PIXELS",
        help="side of the scored square (default: the checkpoint's, or else 513)",
    )
    parser.add_argument("--test-batch-size", type=number(int, 1), default=4, metavar="N", help="images in a step")
    add_switch(parser, "--fill-in", help="also score the training images against their full truth")
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
    loaders = make_data_loader(args, pin_memory=device.type == "cuda", splits=splits)
    if loaders.num_classes != settings["num_classes"]:
        raise InputError(
            f"{args.checkpoint}: has {settings['num_classes']} classes, but the data set {loaders.name} has "
            f"{loaders.num_classes}; name the data set that it was trained on"
        )
    model.to(device)
    columns = {"val": evaluate(model, loaders.val, loaders.num_classes, "val")}
    if loaders.fill_in is not None:
        columns["fill-in"] = evaluate(model, loaders.fill_in, loaders.num_classes, "fill-in")
    logger.info(
        "Scores in %% (crop protocol: short side %d, centre square)\n\n%s",
        args.crop_size,
        score_table(columns, loaders.class_names),
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

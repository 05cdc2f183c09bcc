"""Simulate scribbles from full ground truth, to study how little annotation is enough.

    python simulate_scribbles.py DATA OUT --length 0.5 --drop 0.2

DATA has SegmentationClassAug/; OUT becomes the same data set with simulated scribbles (its images are hard links). A
seed gives the same strokes for every --length and --drop: the sparser set is a subset of the fuller one.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser, add_options, number, options_from
from common.errors import InputError, exit_status
from common.logs import configure_logging
from dataloaders.labels import PADDING
from dataloaders.layout import find_class_names
from dataloaders.synthetic.scribbles import StrokeOptions
from preparation.simulation import simulate_folder

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the simulation."""
    description = "Simulate scribbles from the full ground truth of a data set."
    parser = ArgumentParser(description=description)
    parser.add_argument("data", metavar="DATA", type=Path, help="data set with SegmentationClassAug/")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder for the data set with simulated scribbles")
    classes = "class names, one a line, background first (default: DATA/classes.txt, otherwise those of PASCAL VOC)"
    parser.add_argument("--classes", metavar="FILE", type=Path, help=classes)
    add_options(parser, StrokeOptions)
    parser.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="chooses the strokes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    class_names = find_class_names(args.data, args.classes, or_vocs=True)
    options = options_from(StrokeOptions, args)
    if options.points and (options.share, options.length) != (StrokeOptions.share, StrokeOptions.length):
        raise InputError("--share and --length are those of strokes: leave them out, or --points")
    counts = simulate_folder(args.data, args.out, len(class_names), args.seed, options, args.classes)
    logger.info("%s: %.3f %% of the pixels labelled", args.out, 100 * counts[:PADDING].sum() / counts.sum())
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

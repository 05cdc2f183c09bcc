"""Make a data set from what annotation tools write.

Photographs with the JSON files of labelme beside them (points, lines and linestrips become strokes; polygons,
rectangles, circles and masks are filled):

    python import_scribbles.py labelme PHOTOS DATA

ScribbleSup's XML files for PASCAL VOC, and pictures whose colours stand for classes (RGB, palette, or strokes on a
transparent layer):

    python import_scribbles.py scribblesup XML_FOLDER DATA --images JPEGImages
    python import_scribbles.py masks MASKS DATA --images PHOTOS --colours colours.txt

DATA then has JPEGImages/, pascal_2012_scribble/, classes.txt, and lists of the images for training and for validation.
With --truth the labels become its full ground truth, SegmentationClassAug/, instead of its scribbles.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import HelpFormatter, add_switch, number
from common.errors import exit_status
from common.logs import configure_logging
from dataloaders.labels import PADDING
from dataloaders.layout import CLASS_FILE, read_class_names
from preparation.formats import FORMATS, ImportOptions, collect
from preparation.importing import import_labels

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the import script."""
    parser = argparse.ArgumentParser(
        description="Make a data set from what annotation tools write.", formatter_class=HelpFormatter
    )
    formats = "; ".join(f"{name}: {content}" for name, content in FORMATS.items())
    parser.add_argument("format", choices=tuple(FORMATS), help=f"what SOURCE holds. {formats}")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of annotation files")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of the data set, new or existing")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        help="photographs, named as their annotations (labelme default: those that the JSON files name or carry)",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one a line, background first (default: DATA/classes.txt where it exists; otherwise labelme "
        "takes the labels in use and scribblesup those of PASCAL VOC; masks always takes them from --colours)",
    )
    parser.add_argument(
        "--colours",
        metavar="FILE",
        type=Path,
        help="for masks: 'R G B name' a line, background first, or CVAT's labelmap.txt",
    )
    add_switch(parser, "--ignore-unknown", help="for masks: colours that are not in --colours are unlabelled")
    parser.add_argument(
        "--width",
        type=number(int, 1),
        default=3,
        metavar="PIXELS",
        help="width of strokes and dots, in pixels of the photograph",
    )
    add_switch(
        parser,
        "--truth",
        help="the labels are the full ground truth, to measure with or to simulate scribbles from; what lies outside "
        "the shapes is background",
    )
    parser.add_argument(
        "--val",
        type=number(float, 0, above=True, high=0.9),
        default=0.2,
        metavar="SHARE",
        help="share of images held out for validation, stratified by class; where there is ground truth, only images "
        "that have it",
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=1, metavar="N", help="chooses the images held out for validation"
    )
    add_switch(parser, "--new-lists", help="replace the lists that DATA has")
    add_switch(parser, "--overwrite", help="replace labels and images of SOURCE that DATA has already; the others stay")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Import as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    file = args.classes or args.data / CLASS_FILE
    options = ImportOptions(
        images=args.images,
        class_names=read_class_names(file) if args.classes or file.is_file() else None,
        colours=args.colours,
        ignore_unknown=args.ignore_unknown,
        width=args.width,
        truth=args.truth,
    )
    collection = collect(args.format, args.source, options)
    counts = import_labels(
        args.data,
        collection,
        truth=args.truth,
        val_share=args.val,
        seed=args.seed,
        new_lists=args.new_lists,
        overwrite=args.overwrite,
    )
    labelled = counts[:PADDING]
    classes = zip(collection.class_names, labelled / labelled.sum(), strict=False)
    logger.info(
        "%s: %d images, %.2f %% of the pixels labelled: %s",
        args.data,
        len(collection.items),
        100 * labelled.sum() / counts.sum(),
        ", ".join(f"{name} {share:.1%}" for name, share in classes),
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

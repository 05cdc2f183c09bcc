"""Make a data set from what annotation tools write.

Photographs with the JSON files of labelme beside them; points, lines and linestrips become strokes, polygons,
rectangles, circles and masks are filled:

    python import_scribbles.py labelme PHOTOS DATA

ScribbleSup's XML files for PASCAL VOC, and pictures whose colours stand for classes (RGB, palette, or strokes on a
transparent layer):

    python import_scribbles.py scribblesup XML_FOLDER DATA --images JPEGImages
    python import_scribbles.py masks MASKS DATA --images PHOTOS --colours colours.txt

With --truth the labels are the full ground truth of the data set instead of its scribbles. DATA then has JPEGImages/,
pascal_2012_scribble/ (or SegmentationClassAug/), classes.txt, and lists of the images that train and validate.
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
from dataloaders.labels import PADDING, read_class_names
from preparation.importing import import_labels
from preparation.labelme import collect_labelme
from preparation.masks import collect_masks
from preparation.scribblesup import collect_scribblesup

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the import script."""
    parser = argparse.ArgumentParser(
        description="Make a data set from labelme's JSON, ScribbleSup's XML or coloured masks.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("format", choices=("labelme", "scribblesup", "masks"), help="what SOURCE holds")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of JSON files, XML files or pictures")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of the data set, new or there already")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        type=Path,
        help="photographs, called as their annotations (labelme default: those that the JSON files name or carry)",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one a line, background first (labelme default: DATA/classes.txt where it is there, or else "
        "the labels in use; scribblesup default: those of PASCAL VOC; masks take them from --colours)",
    )
    parser.add_argument(
        "--colours",
        metavar="FILE",
        type=Path,
        help="of masks: 'R G B name' a line, background first, or CVAT's labelmap.txt",
    )
    add_switch(parser, "--ignore-unknown", help="of masks: colours that are not in --colours are unlabelled")
    parser.add_argument(
        "--width",
        type=number(int, 1),
        default=3,
        metavar="PIXELS",
        help="of strokes and dots, in pixels of the photograph",
    )
    add_switch(
        parser,
        "--truth",
        help="the labels are the full ground truth: to measure with, or to simulate scribbles from; what lies outside "
        "labelme's shapes is background",
    )
    parser.add_argument(
        "--val",
        type=number(float, 0, above=True, high=0.9),
        default=0.2,
        metavar="SHARE",
        help="of the images that validate, of each class alike; where there is ground truth, only images that have it",
    )
    parser.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="chooses which images validate")
    add_switch(parser, "--new-lists", help="make the lists anew where DATA has some")
    add_switch(parser, "--overwrite", help="replace labels and images of SOURCE that DATA has already; the others stay")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Import as the command line says; return the exit status."""
    configure_logging()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.format != "labelme" and args.images is None:
        parser.error(f"{args.format} needs --images FOLDER, the photographs")
    if args.format == "masks" and args.colours is None:
        parser.error("masks needs --colours FILE, the class of each colour")
    if args.format == "scribblesup" and args.truth:
        parser.error("scribblesup holds scribbles, never the full truth")
    if args.classes is None and args.format == "labelme" and (args.data / "classes.txt").is_file():
        args.classes = args.data / "classes.txt"
    class_names = read_class_names(args.classes) if args.classes else None
    if args.format == "masks":
        items, class_names = collect_masks(args.source, args.images, args.colours, args.ignore_unknown)
    elif args.format == "scribblesup":
        items, class_names = collect_scribblesup(args.source, args.images, class_names, args.width)
    else:
        items, class_names = collect_labelme(args.source, args.images, class_names, args.width, args.truth)
    counts = import_labels(
        args.data,
        items,
        class_names,
        truth=args.truth,
        val_share=args.val,
        seed=args.seed,
        new_lists=args.new_lists,
        overwrite=args.overwrite,
    )
    logger.info(
        "%s: %d images, %.2f %% of the pixels labelled: %s",
        args.data,
        len(items),
        100 * counts[:PADDING].sum() / counts.sum(),
        ", ".join(
            f"{name} {count / counts[:PADDING].sum():.1%}" for name, count in zip(class_names, counts, strict=False)
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

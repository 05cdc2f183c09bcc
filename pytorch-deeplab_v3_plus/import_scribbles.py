"""Make a data set from what annotation tools write.

    python import_scribbles.py SOURCE DATA

SOURCE is a folder, a file or the ZIP that the tool exports; what format it has is seen from its content. Points and
lines become strokes; polygons, rectangles, circles and masks are filled. Where the photographs are not in SOURCE,
--images names their folder:

    python import_scribbles.py annotations.xml DATA --images PHOTOS
    python import_scribbles.py MASKS DATA --images PHOTOS --colours colours.txt

DATA then has JPEGImages/, pascal_2012_scribble/, classes.txt, and lists of the images for training and for validation.
With --truth the labels become its full ground truth, SegmentationClassAug/, instead of its scribbles.
"""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser, add_options, options_from
from common.errors import exit_status
from common.logs import configure_logging
from dataloaders.labels import PADDING
from dataloaders.layout import CLASS_FILE
from preparation.formats import FORMATS, ImportOptions, collect
from preparation.importing import import_labels
from preparation.sources import unpacked

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the import script."""
    description = "Make a data set from what annotation tools write."
    parser = ArgumentParser(description=description)
    formats = "; ".join(f"{name}: {content}" for name, content in FORMATS.items())
    parser.add_argument(
        "format",
        nargs="?",
        choices=tuple(FORMATS),
        help=f"what SOURCE holds, where its content does not say it. {formats}",
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder, file or ZIP of annotations")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of the data set, new or existing")
    add_options(parser, ImportOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Import as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_intermixed_args(argv)
    own = args.data / CLASS_FILE
    options = options_from(ImportOptions, args, classes=args.classes or (own if os.path.lexists(own) else None))
    with unpacked(args.source, options.zip_names) as source:
        collection = collect(source, options, args.format)
        counts = import_labels(args.data, collection, options)
    labelled = counts[:PADDING]
    shares = zip(collection.class_names, labelled / labelled.sum(), strict=False)
    classes = ", ".join(f"{name} {share:.1%}" for name, share in shares)
    covered = 100 * labelled.sum() / counts.sum()
    number = len(collection.items)
    logger.info("%s: %d images, %.2f %% of the pixels labelled: %s", args.data, number, covered, classes)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""Write predictions as annotations, so that they can be corrected in an annotation tool.

    python export_annotations.py PREDICTIONS --format labelme --images PHOTOS --classes DATA/classes.txt

PREDICTIONS is a folder that inference.py filled. What the tool then saves comes back with import_scribbles.py --truth.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import exit_status
from common.logs import configure_logging
from dataloaders.layout import CLASS_FILE, find_class_names
from preparation.exporting import WRITERS, export_annotations

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the export script."""
    description = "Write predictions as annotations, so that they can be corrected in an annotation tool."
    parser = ArgumentParser(description=description)
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="folder of inference.py's results")
    parser.add_argument("--format", required=True, choices=tuple(WRITERS), help="what to write")
    parser.add_argument("--images", required=True, metavar="FOLDER", type=Path, help="the photographs")
    parser.add_argument("--crf", action="store_true", help="the predictions that --crf of inference.py refined")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        type=Path,
        help=f"class names, one a line, background first (default: {CLASS_FILE} beside the folder of photographs)",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, help="new folder for the annotations (default: PREDICTIONS/FORMAT)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    class_names = find_class_names(args.images.resolve().parent, args.classes)
    target = args.output or args.predictions / args.format
    number = export_annotations(args.predictions, args.images, target, args.format, class_names, args.crf)
    logger.info("%s: the annotations of %d photographs as %s", target, number, args.format)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""Look at every file of a data set, and say what training would trip over or silently get wrong.

    python check_dataset.py FOLDER

The report, also as report.json, and a sheet of pictures to look at go to run/check/<name of FOLDER>/. The exit status
is 1 when there are errors. With --fix OUT a copy is written in which is corrected what can be corrected safely, and the
copy is checked.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from common.arguments import HelpFormatter
from common.errors import InputError, exit_status
from common.files import replace_file
from common.logs import configure_logging
from dataloaders.labels import VOC_CLASSES, read_class_names
from dataloaders.layout import CLASS_FILE
from figures.colours import scribble_picture
from figures.sheets import save_contact_sheet
from preparation.checks import check_dataset, sheet_rows
from preparation.correction import write_corrected
from preparation.problems import ERROR

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the check."""
    parser = argparse.ArgumentParser(
        description="Check every file of a data set before training.", formatter_class=HelpFormatter
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="data set with JPEGImages/ and pascal_2012_scribble/"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one a line, background first (default: FOLDER/classes.txt, or else those of PASCAL VOC)",
    )
    parser.add_argument(
        "--fix",
        metavar="OUT",
        type=Path,
        help="also write a corrected copy into this new folder; images that stay as they are are hard links",
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where report and pictures go (default: run/check/<name of FOLDER>)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    classes = args.classes or args.folder / CLASS_FILE
    class_names = read_class_names(classes) if args.classes or classes.is_file() else VOC_CLASSES
    output = args.output or Path("run/check") / args.folder.resolve().name
    report = check_dataset(args.folder, class_names)
    if args.fix:
        for kind, count in write_corrected(report, args.fix).items():
            logger.info("corrected: %s (%dx)", kind, count)
        report = check_dataset(args.fix, class_names)
    text = report.as_text()
    logger.info("%s", text)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made ({error.strerror}); choose another --output") from None
    replace_file(output / "report.txt", lambda file: file.write_text(text + "\n", encoding="utf-8"))
    replace_file(output / "report.json", lambda file: file.write_text(json.dumps(report.as_json(), indent=1)))
    rows = sheet_rows(report)
    if rows:
        for row in rows.values():
            if row["scribbles"] is not None and row["scribbles"].shape == row["image"].size[::-1]:
                row["scribbles"] = scribble_picture(row["image"], row["scribbles"])
        title = textwrap.fill(f"{report.folder.name}, from the top: {', '.join(rows)}", 70)
        save_contact_sheet(output / "sheet.png", list(rows.values()), class_names, title)
    logger.info("report and pictures: %s", output)
    return 1 if report.count(ERROR) else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

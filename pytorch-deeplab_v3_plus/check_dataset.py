"""Look at every file of a data set, and say what training would trip over or silently get wrong.

    python check_dataset.py FOLDER

The report, also as report.json, and a sheet of pictures to look at go to run/check/<name of FOLDER>/. The exit status
is 1 when there are errors. --fix OUT writes a copy in which whatever can be corrected safely is corrected, and checks
that copy.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import exit_status
from common.files import make_folder, write_text
from common.logs import configure_logging
from dataloaders.layout import find_class_names
from figures.colours import classes_in, scribble_picture
from figures.sheets import save_contact_sheet
from preparation.checks import check_dataset, sheet_rows
from preparation.correction import write_corrected
from preparation.problems import ERROR

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the check."""
    description = "Check every file of a data set before training."
    parser = ArgumentParser(description=description)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="data set with JPEGImages/ and pascal_2012_scribble/")
    classes = "class names, one a line, background first (default: FOLDER/classes.txt, otherwise those of PASCAL VOC)"
    add("--classes", metavar="FILE", help=classes)
    fix = "also write a corrected copy into this new folder; unchanged images are hard links"
    add("--fix", metavar="OUT", type=Path, help=fix)
    output = "for report and pictures (default: run/check/<name of FOLDER>)"
    add("--output", metavar="DIR", type=Path, help=output)
    return parser


def folder_of_report(output: Path) -> Path | None:
    """Return which folder the report in `output` is of, None where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Path(json.loads((output / "report.json").read_text(encoding="utf-8"))["folder"])
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line says; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    class_names = find_class_names(args.folder, args.classes, or_vocs=True)
    output = args.output or Path("run/check") / args.folder.resolve().name
    report = check_dataset(args.folder, class_names)
    if args.fix:
        for kind, count in write_corrected(report, args.fix).items():
            logger.info("corrected: %s (%dx)", kind, count)
        report = check_dataset(args.fix, class_names)
    text = report.as_text()
    logger.info("%s", text)
    make_folder(output, "choose another --output")
    if (other := folder_of_report(output)) and other.resolve() != report.folder.resolve():
        logger.warning("%s: held the report of %s, which is replaced", output, other)
    write_text(output / "report.txt", text + "\n")
    write_text(output / "report.json", json.dumps(report.as_json(), indent=1))
    rows = sheet_rows(report)
    if rows:
        drawn = classes_in(*(row["scribbles"] for row in rows.values()))
        for row in rows.values():
            if row["scribbles"] is not None and row["scribbles"].shape == row["image"].size[::-1]:
                row["scribbles"] = scribble_picture(row["image"], row["scribbles"])
        title = f"{report.folder.resolve().name}, from the top: {', '.join(rows)}"
        save_contact_sheet(output / "sheet.png", list(rows.values()), class_names, title, classes=drawn)
    logger.info("report and pictures: %s", output)
    return 1 if report.count(ERROR) else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

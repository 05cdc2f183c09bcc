"""Draw strokes on photographs, train, look and correct, in the browser.

    python annotate.py PHOTOS --classes cat,dog

makes a data set beside the folder PHOTOS, or works on a data set that exists, prints the page's address and opens it.
Every other script takes the data set as it is. Without a folder it draws a dozen pictures to try the page on.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import ArgumentParser, number
from common.errors import InputError, exit_status
from common.logs import configure_logging
from dataloaders.layout import IMAGES, read_class_lines
from page.project import draw_example, open_project

EXAMPLE = Path("run/annotate")


def build_parser() -> ArgumentParser:
    """Return the parser of this script."""
    about = "Draw strokes on photographs, train, look and correct, in the browser."
    parser = ArgumentParser(description=about)
    what = f"photographs, or a data set (default: {EXAMPLE}, a dozen pictures that are drawn)"
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=Path, help=what)
    parser.add_argument("--classes", metavar="A,B|FILE", help="classes beside the background (default: one, to rename)")
    made = "data set of the photographs (default: FOLDER-rloss), or of the pictures that are drawn"
    parser.add_argument("--output", metavar="DATA", type=Path, help=made)
    parser.add_argument("--address", default="127.0.0.1", help="where to listen; any but 127.0.0.1 needs the token")
    parser.add_argument("--port", default=8765, type=number(int, 0, high=65535), help="0: a free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page as the command line says, until Ctrl-C; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    drawn = args.folder is None
    if drawn:
        args.folder, args.output = args.output or EXAMPLE, None
    if (drawn or args.folder == EXAMPLE) and not (args.folder.is_dir() and any(args.folder.iterdir())):
        draw_example(args.folder)
    elif drawn and not (args.folder / IMAGES).is_dir():
        raise InputError(f"--output: expected a new folder for the drawn pictures, found {args.folder} with files")
    given = args.classes or ""
    is_file = os.path.isfile(given) or os.sep in given or given.endswith(".txt")  # reading says if it is none
    names = read_class_lines(Path(given)) if is_file else [name for name in given.split(",") if name.strip()]
    folder = open_project(args.folder, args.output, names)
    try:
        from page.serving import serve
    except ModuleNotFoundError as error:
        what = f"the page needs {error.name}: pip install -r requirements-app.txt, or make annotate"
        raise InputError(what) from None
    serve(folder, args.address, args.port, not args.no_browser)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

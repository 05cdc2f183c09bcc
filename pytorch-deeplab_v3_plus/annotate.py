"""Draw strokes on photographs, train, look and correct, in the browser.

    python annotate.py PHOTOS --classes cat,dog

makes a data set beside the folder PHOTOS, or works on a data set that exists, prints the page's address and opens it.
Every other script takes the data set as it is. Without a folder it draws a dozen pictures to try the page on.
"""

import argparse
import logging
import secrets
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from common.arguments import HelpFormatter, number
from common.errors import InputError, exit_status
from common.logs import configure_logging
from page.project import draw_example, open_project

EXAMPLE = Path("run/annotate")

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    about = "Draw strokes on photographs, train, look and correct, in the browser."
    parser = argparse.ArgumentParser(description=about, formatter_class=HelpFormatter)
    what = f"photographs, or a data set (default: {EXAMPLE}, a dozen pictures that are drawn)"
    parser.add_argument("folder", nargs="?", default=EXAMPLE, metavar="FOLDER", type=Path, help=what)
    parser.add_argument("--classes", metavar="A,B,...", help="classes beside the background (default: one, to rename)")
    parser.add_argument(
        "--output", metavar="DATA", type=Path, help="data set of the photographs (default: FOLDER-rloss)"
    )
    parser.add_argument("--address", default="127.0.0.1", help="where to listen; any but 127.0.0.1 needs the token")
    parser.add_argument("--port", default=8765, type=number(int, 0, high=65535), help="0: a free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page as the command line says, until Ctrl-C; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise InputError(
            f"the page needs {error.name}: pip install -r requirements-app.txt, or make annotate"
        ) from None
    from page.security import EVERYWHERE, LOOPBACK, Gate
    from page.server import Page, only_one

    if args.folder == EXAMPLE and not EXAMPLE.exists():
        draw_example(EXAMPLE)
    folder = open_project(args.folder, args.output, [n for n in (args.classes or "").split(",") if n.strip()])
    family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((args.address, args.port))
        listener.listen()  # from here on a browser waits for the answer
    except OSError as error:
        raise InputError(
            f"cannot listen on {args.address} port {args.port} ({error.strerror}): another --port"
        ) from None
    port = listener.getsockname()[1]
    token = None if args.address in LOOPBACK else secrets.token_urlsafe(24)
    name = "127.0.0.1" if args.address in EVERYWHERE else args.address
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}/" + (f"?token={token}" if token else "")
    lock = only_one(folder, url)
    app = Gate(Page(folder).app(), args.address, port, token)
    logger.info("data set: %s", folder)
    logger.info("open %s (Ctrl-C ends the page; a training goes on)", url)
    if not args.no_browser:
        webbrowser.open(url)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([listener])
    lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))

"""Listening for the browser: the address, the token, and the one server that a data set has."""

import fcntl
import logging
import os
import secrets
import socket
import sys
import webbrowser
from pathlib import Path
from typing import IO

import uvicorn

from common.errors import InputError
from common.files import make_folder
from page.security import EVERYWHERE, LOOPBACK, Gate
from page.server import Page
from page.strokes import FOLDER

logger = logging.getLogger(__name__)

DISPLAYS = {"DISPLAY", "WAYLAND_DISPLAY"}  # without one, Python would open a browser within the terminal


def serve(folder: Path, address: str, port: int, open_browser: bool) -> None:
    """Serve the page for a data set until Ctrl-C; raise InputError where it cannot listen, or another server does."""
    lock = only_one(folder)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()  # from here on a browser waits for the answer
    except OSError as error:
        raise InputError(
            f"cannot listen on {address} port {port} ({error.strerror}): give another --port or --address (of make: "
            "PORT=, ADDRESS=)"
        ) from None
    port = listener.getsockname()[1]
    token = None if address in LOOPBACK else secrets.token_urlsafe(24)
    name = "127.0.0.1" if address in EVERYWHERE else address
    url = f"http://{f'[{name}]' if ':' in name else name}:{port}/" + (f"?token={token}" if token else "")
    with lock:
        lock.write(f"{url}\n")
        lock.flush()
        page = Page(folder)
        logger.info("data set: %s", folder)
        stays = "RLOSS_CONTAINER" not in os.environ  # where all programs end with the first
        training = "a training continues" if stays else "a training can be resumed"
        logger.info("open %s (Ctrl-C ends the page; %s)", url, training)
        if open_browser and (sys.platform == "darwin" or DISPLAYS & os.environ.keys()):
            webbrowser.open(url)
        app = Gate(page.app(), address, port, token)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        page.is_ending = lambda: server.should_exit
        server.run([listener])


def only_one(folder: Path) -> IO[str]:
    """Return the lock of the one server of a data set, a file for its address, which its owner alone may read.

    Raises InputError, with the other's address, where one runs.
    """
    path = folder / FOLDER / "server.lock"
    make_folder(path.parent)
    lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until the process ends)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder} is open already: {path.read_text(encoding='utf-8').strip()}") from None
    lock.truncate(0)
    os.chmod(path, 0o600)  # it will hold the token
    return lock

"""Files and folders that are written completely or not at all."""

import codecs
import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from common.errors import InputError
from common.faults import advice, lacks_memory


def why(path: str | Path, error: Exception) -> str:
    """Return in a few words why a file or a folder cannot be read; `error` is what reading it raised."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, where nothing is (fetch that file)"
    return (str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__])[0]


def read_text(path: Path) -> str:
    """Return a text in UTF-8, or UTF-16 as Windows writes it; raise ValueError where it is in neither, and OSError."""
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not in UTF-8, first at byte {error.start}; save it in UTF-8") from None


def replace_file(path: Path, write: Callable[[Path], object], owner: str | None = None) -> None:
    """Call `write(temporary_path)` and put the finished file in the place of `path`.

    Several processes may write into a folder; the temporary file is then called after its `owner` (see leftovers).
    """
    temporary = _temporary(path, owner)
    try:
        write(temporary)
        synchronise(temporary)
        os.replace(temporary, path)
        synchronise(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        if lacks_memory(error):
            raise
        reason = str(getattr(error, "strerror", None) or error).split("\n")[0]
        if "inline_container" in reason:  # and then why, or positions in the file
            reason = reason.partition("strerror: ")[2] or "the disk took only a part of it"
        raise InputError(f"{path}: cannot be written ({reason}); {advice(error)}") from None
    finally:
        with contextlib.suppress(OSError):  # on a read-only file system, even of a file that is not there
            temporary.unlink()


def _temporary(path: Path, owner: str | None = None) -> Path:
    # Cut, as the file system may take no longer name than that of `path`.
    return path.with_name(f".{owner or path.name[:50]}.{os.getpid()}.{threading.get_ident()}")


def leftovers(folder: Path, owner: str | None = None) -> list[Path]:
    """Return the files that were left in a folder when the process that wrote them was killed (all, or an owner's)."""
    name = re.escape(owner) if owner else ".+"
    return [path for path in folder.glob(".*") if re.fullmatch(rf"\.{name}\.\d+\.\d+", path.name)]


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all; file names in it that are not in UTF-8 are escaped."""
    how = {"encoding": "utf-8", "errors": "backslashreplace"}
    replace_file(path, lambda temporary: temporary.write_text(text, **how))


def make_folder(folder: Path, choose: str = "choose another folder") -> None:
    """Make a folder for results if it is absent; raise InputError, with the advice `choose`, where it takes none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); {choose}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: cannot be written; change its permissions, or {choose}")


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder as os.walk does, linked folders too, each once; raise the OSError of one that cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    seen: set[str] = set()
    for path, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (place := os.path.realpath(path)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(place)
        yield path, folders, names


def synchronise(path: Path) -> None:
    """Have a file, or a folder's list of files, written to the disk itself, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place, without a second copy of its content where the file system can."""
    if not source.exists():
        raise InputError(f"expected a file, found a link that leads nowhere, {source}: fetch what it points to")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        temporary = _temporary(target)  # a copy that is interrupted counts for nothing
        try:
            shutil.copyfile(source, temporary)
            status = source.stat()
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))  # by which it is known to be the same
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which becomes `folder` when all went well and vanishes otherwise.

    Raises InputError where `folder` holds something already, or cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"expected an empty or no folder, found other files in {folder}: choose another, or delete it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            made = Path(workshop) / "made"
            made.mkdir()
            yield made
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        if lacks_memory(error):
            raise
        raise InputError(f"{folder}: cannot be made ({error}); {advice(error)}") from None

"""What a source of annotations holds: its files, in sub-folders and in a ZIP too, and its photographs."""

import contextlib
import functools
import io
import json
import logging
import re
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it says a RuntimeError of such a ZIP
    LZMAError = RuntimeError

from common.errors import InputError
from common.files import read_text, walk, why
from dataloaders.images import IMAGE_SUFFIXES, READ_ERRORS, open_image
from dataloaders.layout import SCRIBBLES, TRUTH

logger = logging.getLogger(__name__)

HEIC_SUFFIXES = (".heic", ".heif")
PHOTOGRAPH_SUFFIXES = IMAGE_SUFFIXES + HEIC_SUFFIXES
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that was uploaded
_DROPPED = re.compile(r"[^-\w.]")  # what it leaves out of such a name, where spaces become underscores
DOCUMENT_SUFFIXES = (".json", ".geojson", ".xml", ".csv", ".txt", ".zip")
_ENCODINGS = ("cp437", "cp932", "gbk", "cp949")  # of file names under Windows: Western, Japanese, Chinese, Korean


@contextlib.contextmanager
def unpacked(source: Path, encoding: str | None = None) -> Iterator[Path]:
    """Yield a source itself, or, of a ZIP, a folder with its content that vanishes afterwards.

    Raises InputError where the ZIP is damaged, encrypted, or larger than the disk; see name_files for `encoding`.
    """
    if not source.is_file() or not (source.suffix.lower() == ".zip" or zipfile.is_zipfile(source)):
        if encoding:
            raise InputError(f"--zip-names is for the names in a ZIP, found {source}: leave it out")
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="rloss-") as workshop:
        folder = Path(workshop) / source.name
        folder.mkdir()
        try:
            with zipfile.ZipFile(source) as archive:
                files, places = archive.infolist(), set()
                name_files(files, encoding, source)
                needed, free = sum(file.file_size for file in files), shutil.disk_usage(workshop).free
                if needed > free:
                    raise OSError(f"it holds {needed:,} bytes, {free:,} are free in {tempfile.gettempdir()}")
                for file in files:
                    file.filename = file.filename.replace("\\", "/")  # packed under Windows
                    place = archive.extract(file, folder)  # never above the folder
                    if place in places and not file.is_dir():
                        raise OSError(f"it holds {file.filename} twice")
                    places.add(place)
        except (OSError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, ValueError) as error:
            raise InputError(f"expected the ZIP of an annotation tool, cannot unpack {source}: {error}") from None
        with _named(folder, source):
            yield folder


@contextlib.contextmanager
def _named(folder: Path, source: Path) -> Iterator[None]:
    """Have errors and the log name a source instead of the folder into which it is unpacked."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **more: Any) -> logging.LogRecord:
        made = make(*args, **more)
        made.msg, made.args = made.getMessage().replace(str(folder), str(source)), ()
        return made

    logging.setLogRecordFactory(record)
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(folder), str(source))) from None
    finally:
        logging.setLogRecordFactory(make)


def name_files(files: list[zipfile.ZipInfo], encoding: str | None, source: Path) -> None:
    """Give the files of a ZIP the names that were meant, where it does not say that they are UTF-8.

    They are UTF-8 all the same where macOS has packed it, and else what `encoding` says: the ZIP does not, and one name
    is readable in many encodings. Raises InputError where they are not of that encoding.
    """
    silent = []
    for file in files:
        with contextlib.suppress(UnicodeError):  # a name that another field of the ZIP has in Unicode
            if not file.flag_bits & 0x800:
                silent.append((file, file.filename.encode("cp437")))  # for which Python has taken it
    try:
        names = [name.decode(encoding or "utf-8") for _, name in silent]
    except UnicodeError as error:
        readings = []
        for other in _ENCODINGS:
            with contextlib.suppress(UnicodeError):
                readings.append(f"{error.object.decode(other)!r} ({other})")
        raise InputError(
            f"expected file names in {encoding or 'UTF-8'}, found another encoding in {source}, perhaps "
            f"{', '.join(readings)}: say which one with --zip-names ENCODING"
        ) from None
    for (file, _), name in zip(silent, names, strict=True):
        file.filename = name


def files_in(source: Path) -> list[Path]:
    """Return the files of a folder and its sub-folders, linked ones too, in order, or a file itself.

    Hidden files, those that macOS adds, and data sets that were made within the folder are no part of it. Raises
    InputError where there is nothing of that name, or a folder cannot be read.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"expected a file, a folder or a ZIP of annotations, found nothing at {source}")
    found: list[Path] = []
    for folder, folders, names in walk(source):
        path = Path(folder)
        if path != source and {SCRIBBLES, TRUTH} & set(folders):
            logger.info("left out: the data set in %s", path)
            folders.clear()
            continue
        for entry in (path / name for name in names if name[0] != "." and not (path / name).is_file()):
            if not entry.is_symlink():
                raise InputError(f"expected a folder or a file, found {entry}, a pipe or a device: remove it")
            if "." not in entry.name:  # that of a file is found when it is read
                raise InputError(f"expected a folder or a file, found {entry}, a link that leads nowhere: remove it")
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [path / name for name in sorted(names) if not name.startswith(".")]
    return found


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raise InputError where it is none."""
    try:
        status = path.stat()
        return _parsed_json(path, status.st_mtime_ns, status.st_size)
    except RecursionError:
        reason = "it is nested too deeply"
    except (OSError, ValueError) as error:
        reason = why(path, error)
    raise InputError(f"expected a JSON file of annotations, cannot read {path}: {reason}")


# Several formats look at a file before one of them reads it.
@functools.lru_cache(maxsize=1)
def _parsed_json(path: Path, time: int, size: int) -> Any:
    return json.loads(read_text(path), object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # of which Python's parser keeps the last
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' twice in one object")
    return found


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file; raise InputError where it is none.

    Python's parser fetches nothing from outside, and its expat (2.4 and newer) refuses entities that grow without end.
    """
    try:
        return ElementTree.fromstring(path.read_bytes())
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise InputError(f"expected an XML file of annotations, cannot read {path}: {why(path, error)}") from None


@contextlib.contextmanager
def reading(expected: str, path: Path, advice: str = "") -> Iterator[None]:
    """Turn what goes wrong on the way through a parsed file into an InputError, which says what was expected."""
    try:
        yield
    except RecursionError:
        raise InputError(f"expected {expected}, found what is nested too deeply in {path}{advice}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"expected {expected}, found {_found(error)} in {path}{advice}") from None


@contextlib.contextmanager
def within(image: object) -> Iterator[None]:
    """Say of what is wrong on the way through a file of many images which of them it is about."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{_found(error)}, image '{image}',") from None


def _found(error: Exception) -> str:
    """Return what is wrong in a file, of which Python's words alone say too little where a value is of another kind."""
    if isinstance(error, KeyError):
        return f"no {error}"
    return f"a value of another kind ({error})" if isinstance(error, TypeError | AttributeError) else str(error)


def side(value: object) -> int:
    """Return the length of an image's side, in pixels, which a file may hold as text; raise ValueError for no such."""
    try:
        pixels = float(value)
    except (TypeError, ValueError):
        pixels = 0.0
    if not (pixels >= 1 and pixels.is_integer()):
        raise ValueError(f"an image or a mask whose side is {value!r}")
    return int(pixels)


def json_or_none(path: Path) -> Any:
    """Return the content of a JSON file, None where it is none."""
    with contextlib.suppress(InputError):
        return read_json(path)


def xml_or_none(path: Path) -> ElementTree.Element | None:
    """Return the root of an XML file, None where it is none."""
    with contextlib.suppress(InputError):
        return read_xml(path)


def plain(name: str) -> str:
    """Return a file name as names are compared: without what one system writes otherwise than the next.

    That is Unicode's form of a character, case, and spaces at the ends.
    """
    return unicodedata.normalize("NFC", name).casefold().strip()


class Photographs:
    """The photographs of a source, found by the names that annotations give them."""

    def __init__(self, folder: Path, files: Iterable[Path]) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.others: dict[str, Path] = {}  # files that are neither photographs nor annotations
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            suffix = path.suffix.lower()
            if suffix in PHOTOGRAPH_SUFFIXES:
                self.files.append(path)
                self.by_stem[plain(path.stem)].append(path)
            elif suffix not in DOCUMENT_SUFFIXES:
                self.others.setdefault(plain(path.stem), path)

    @functools.cached_property
    def _by_upload(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            name = unicodedata.normalize("NFC", path.name).strip().replace(" ", "_")
            found[plain(_DROPPED.sub("", name))].append(path)
        return found

    def has(self, name: str) -> bool:
        """Whether there is a photograph of this name, with its suffix or without."""
        return bool(self.by_stem.get(_stem(name)))

    def differ(self, name: str, other: str) -> bool:
        """Whether two names are those of two photographs, which both are there."""
        return self.has(name) and self.has(other) and _stem(name) != _stem(other)

    def find(self, name: str, source: Path) -> Path:
        """Return the photograph that is called `name` in the file `source`: with folders or not, with a suffix or not.

        Of several, the one whose suffix and folders agree best. Raises InputError where there is none, or no best one.
        """
        wanted = Path(unicodedata.normalize("NFC", name.replace("\\", "/")))
        found = self.by_stem.get(_stem(wanted.name))
        if not found and _UPLOAD.match(wanted.name):
            wanted = wanted.with_name(_UPLOAD.sub("", wanted.name, count=1))
            found = self.by_stem.get(_stem(wanted.name)) or self._by_upload.get(plain(wanted.name))
        if not found:
            raise InputError(self._none(wanted.name, source))
        ranks = [(_agreement(path, wanted), path) for path in found]
        best = [path for rank, path in ranks if rank == max(rank for rank, _ in ranks)]
        if len(best) > 1:
            raise InputError(
                f"expected one photograph '{name}' of {source}, found {best[0]} and {best[1]}: rename or remove one, "
                "or name the folder of the right ones with --images"
            )
        if (folder := wanted.parent.name) != best[0].parent.name and folder in self._folders:
            raise InputError(
                f"expected the photograph '{name}' of {source}, found one of that name in another folder alone, "
                f"{best[0]}: add it to its own folder, or remove its labels"
            )
        return best[0]

    @functools.cached_property
    def _folders(self) -> set[str]:
        return {path.parent.name for path in self.files}

    def _none(self, name: str, source: Path) -> str:
        expected = f"expected the photograph of {source}, found"
        other = self.others.get(plain(name)) or self.others.get(plain(Path(name).stem))
        if other:
            return f"{expected} {other}, whose kind is not read: save it as {', '.join(IMAGE_SUFFIXES)}"
        advice = "put it there, or name the folder of the photographs with --images"
        return f"{expected} none called '{name}' in {self.folder}: {advice}"


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return plain(name.removesuffix(suffix) if suffix.lower() in PHOTOGRAPH_SUFFIXES else name)


def _agreement(path: Path, wanted: Path) -> tuple[bool, bool, int]:
    """Return how well a file agrees with a name: the name as it is, but for case, and the folders from the last on."""
    name = unicodedata.normalize("NFC", path.name)
    folders = 0
    for here, there in zip(reversed(path.parts[:-1]), reversed(wanted.parts[:-1]), strict=False):
        if plain(here) != plain(there):
            break
        folders += 1
    return name == wanted.name, plain(name) == plain(wanted.name), folders


def data_set_image(path: Path) -> tuple[str, Path | Callable[[], bytes]]:
    """Return a photograph as a data set can hold it: name and file, or name and what makes a JPEG of HEIC.

    Raises InputError for HEIC without the package that reads it.
    """
    if path.suffix.lower() not in HEIC_SUFFIXES:
        return path.name, path
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f"{path}: photographs in HEIC need the package pillow-heif (pip install pillow-heif), or save them as JPEG"
        ) from None
    pillow_heif.register_heif_opener()

    def jpeg() -> bytes:
        content = io.BytesIO()
        try:
            with open_image(path) as image:
                image.convert("RGB").save(content, "JPEG", quality=95, subsampling=0)
        except READ_ERRORS as error:
            raise InputError(f"expected a photograph in HEIC, cannot read {path}: {error}") from None
        return content.getvalue()

    return f"{path.stem}.jpg", jpeg

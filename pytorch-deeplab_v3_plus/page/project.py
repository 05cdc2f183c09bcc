"""The data set that the page works on: its photographs and its classes, as they lie on the disk at this moment."""

import contextlib
import filecmp
import functools
import io
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import link_or_copy, make_folder, replace_file, synchronise
from dataloaders.class_names import arranged, check_class_names, is_background, tidy
from dataloaders.images import (
    IMAGE_SUFFIXES,
    READ_ERRORS,
    check_name,
    id_of_file,
    image_size,
    listing,
    open_image,
    pages,
    read_image,
    stored_size,
    verify,
)
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    LISTS,
    SCRIBBLES,
    TRUTH,
    find_files,
    list_files,
    read_class_names,
    write_class_names,
)
from dataloaders.synthetic import draw_dataset
from figures.colours import light
from preparation.sources import HEIC_SUFFIXES, PHOTOGRAPH_SUFFIXES, data_set_image, files_in

logger = logging.getLogger(__name__)

# What every browser shows where it is 8-bit grey or RGB; MPO is the JPEG of phones.
SHOWN_AS_THEY_ARE = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png"}
LONGEST = 200  # name of a photograph in bytes: the files of its strokes and masks have longer ones for a moment
TICK = 2_000_000_000  # nanoseconds: of the clocks of file systems, FAT has the coarsest
THUMBNAIL = 512  # longest side, in pixels, of the pictures that are kept in memory


class NotNow(InputError):
    """What cannot be done as the disk is at this moment, so that the page keeps a stroke and sends it again."""

    status = 507  # of HTTP: insufficient storage


class Photograph(NamedTuple):
    """One image of the data set."""

    id: str
    path: Path
    width: int  # upright; 0 where it cannot be read
    height: int
    error: str | None  # why it cannot be read


def draw_example(folder: Path) -> None:
    """Draw a data set with truth and without scribbles, to try the page on; raise InputError as draw_dataset does."""
    draw_dataset(folder, train=11, val=1)
    for kind in (SCRIBBLES, LISTS):
        shutil.rmtree(folder / kind)


def open_project(source: Path, output: Path | None, class_names: Sequence[str]) -> Path:
    """Return the data set for a folder of photographs, or `source` itself where it is a data set already.

    Photographs get a second place in the data set (`output`, by default a folder beside theirs), as links, or copies
    where the file system has none. The next start adds new ones. Class names go into a data set that has none yet.
    Raises InputError where there are no photographs, two have one name, or the data set's classes or label maps cannot
    be read.
    """
    folder = source = source.resolve()
    if not source.is_dir() or not source.name:  # the root, which has no place beside it
        raise InputError(f"expected a folder of photographs or a data set, found no such folder, {source}")
    if not (source / IMAGES).is_dir():
        folder = (output or source.with_name(f"{source.name}-rloss")).resolve()
        add_photographs(
            folder, [path for path in files_in(source) if path.suffix.lower() in PHOTOGRAPH_SUFFIXES], source
        )
    elif output and output.resolve() != source:
        raise InputError(f"{source} is a data set already, which is worked on in its place: leave out --output")
    names, labels = first_classes(class_names), [find_files(folder, kind) for kind in (SCRIBBLES, TRUTH)]
    if not os.path.lexists(folder / CLASS_FILE):  # a link that leads nowhere is an error
        if not class_names and any(labels):
            raise InputError(f"expected the names of the classes in {folder / CLASS_FILE}, found none: give --classes")
        write_class_names(folder, names)
    elif names != (there := read_class_names(folder / CLASS_FILE)) and class_names:
        logger.warning("--classes: %s has classes already, which stay: %s", folder, ", ".join(there))
    return folder


def first_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names in the order of their values; without any, the background and one to rename."""
    names = names or ["object"]
    return arranged(names if any(map(is_background, names)) else ["background", *names], "--classes")


def add_photographs(folder: Path, files: Sequence[Path], source: Path) -> None:
    """Give the photographs that a data set lacks a place in it; raise InputError where two of them have one name."""
    if not files:
        raise InputError(f"expected photographs ({', '.join(PHOTOGRAPH_SUFFIXES)}), found none in {source}")
    known: dict[str, Path] = {}
    for path in files:
        if other := known.get(id_of_file(path.name)):
            raise InputError(f"expected one photograph of each name, found {other} and {path}: rename one")
        check_length(path.name)
        check_name(path.name, path.parent)
        known[id_of_file(path.name)] = path
    make_folder(folder / IMAGES, "choose another --output")
    there = list_files(folder, IMAGES)
    for image_id in sorted(known.keys() - there.keys()):
        with contextlib.suppress(InputError):  # of what cannot be read, which the page shows
            if (number := pages(known[image_id])) > 1:
                logger.warning("%s: has %d pages, of which only the first is taken", known[image_id], number)
        name, content = data_set_image(known[image_id])
        try:
            if isinstance(content, Path):
                link_or_copy(content, folder / IMAGES / name)
            else:
                data = content()
                replace_file(folder / IMAGES / name, lambda temporary, data=data: temporary.write_bytes(data))
        except OSError as error:
            raise InputError(f"cannot write {folder / IMAGES / name}: {error.strerror}; free space") from None
    if gone := sorted(there.keys() - known.keys()):
        logger.info("photographs of %s that are not in %s: %d (first %s)", folder, source, len(gone), gone[0])
    heic = [image_id for image_id, path in known.items() if path.suffix.lower() in HEIC_SUFFIXES]
    both = sorted((there.keys() & known.keys()).difference(heic))
    if changed := [image_id for image_id in both if not _same(known[image_id], there[image_id])]:
        logger.warning(
            "photographs that have changed in %s: %d (first %s); the data set keeps its own; to take a new one, move "
            "the old one out of %s",
            source,
            len(changed),
            known[changed[0]].name,
            folder / IMAGES,
        )


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other)
    except OSError:  # a link that leads nowhere, say
        return False


def check_length(name: str) -> None:
    """Raise InputError for a file name that leaves no room for those of the strokes and masks."""
    if len(os.fsencode(name)) > LONGEST:
        raise InputError(f"expected file names of at most {LONGEST} bytes in UTF-8, found '{name[:100]}...': rename it")


class Project:
    """A data set of the layout in dataloaders/layout.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, threading.Lock()
        self._listed: dict[str, tuple[int | None, dict[str, Path]]] = {}  # with the time of the folder

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in classes.txt."""
        return read_class_names(self.folder / CLASS_FILE)

    def name_class(self, number: int | None, name: str) -> None:
        """Rename a class, or add one with `number` None; raise InputError for a name that cannot be used."""
        with self._lock:
            names = list(self.class_names)
            at = len(names) if number is None else number
            names[at : at + 1] = [tidy(name)]
            check_class_names(names, "the classes")
            write_class_names(self.folder, names)

    def photographs(self) -> list[Photograph]:
        """Return the images in the order of their names."""
        return [photograph(image_id, path) for image_id, path in sorted(self.files().items())]

    def files(self, kind: str = IMAGES) -> dict[str, Path]:
        """Return the images, or the label maps of a kind that are PNGs, by id; raise NotNow where they have no ids."""
        folder = self.folder / kind
        try:
            at, (known_at, files) = folder.stat().st_mtime_ns, self._listed.get(kind, (None, {}))
            if at != known_at:
                files = listing(folder, IMAGE_SUFFIXES if kind == IMAGES else (".png",))
                # What happens within a tick of the disk's clock does not show in the time.
                self._listed[kind] = at if time.time_ns() - at > TICK else None, files
        except FileNotFoundError:
            return {}
        except InputError as error:
            raise NotNow(str(error)) from None
        return files

    def file(self, image_id: str) -> Path:
        """Return the file of an image; raise NotNow where it has vanished since it was listed."""
        found = self.files().get(image_id)
        if found is None:
            raise NotNow(f"expected an image '{image_id}' in {self.folder / IMAGES}, found none any more: put it back")
        return found

    def add(self, name: str, content: bytes) -> str:
        """Add a photograph that was uploaded; return its id.

        Raises InputError for a name that is taken or no photograph's, and content that cannot be read as one.
        """
        name = PurePath(name.replace("\\", "/")).name.lstrip(".")  # hidden files are no part of a data set
        check_length(name)
        if PurePath(name).suffix.lower() not in PHOTOGRAPH_SUFFIXES or not name.isprintable():
            raise InputError(f"expected a photograph ({', '.join(PHOTOGRAPH_SUFFIXES)}), found {name[:200]!r}")
        with tempfile.TemporaryDirectory(prefix=".upload-", dir=self.folder) as workshop:
            path = Path(workshop) / name
            path.write_bytes(content)
            try:
                final, made = data_set_image(path)
                if not isinstance(made, Path):
                    path = path.with_name(final)
                    path.write_bytes(made())
                read_image(path)
            except InputError as error:
                raise InputError(str(error).replace(f"{path.parent}{os.sep}", "")) from None
            (image_id,) = listing(Path(workshop), IMAGE_SUFFIXES) or [name]
            synchronise(path)
            with self._lock:  # of two uploads of one name
                if image_id in listing(self.folder / IMAGES, IMAGE_SUFFIXES):
                    raise InputError(
                        f"expected a new name, found '{image_id}' in {self.folder / IMAGES} already: rename it"
                    )
                path.rename(self.folder / IMAGES / path.name)
        return image_id


def stamp(path: Path) -> str:
    """Return what changes when a file does; "" where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def photograph(image_id: str, path: Path) -> Photograph:
    """Return what is known of an image, which is read only where its file has changed."""
    return _photograph(image_id, path, stamp(path))


@functools.lru_cache(maxsize=100_000)
def _photograph(image_id: str, path: Path, stamp: str) -> Photograph:
    try:
        size = image_size(path)
        verify(path)  # refuses what read_image does not read at its own size
        return Photograph(image_id, path, *size, None)
    except (InputError, *READ_ERRORS) as error:
        return Photograph(image_id, path, 0, 0, str(error))


def picture(path: Path, longest: int | None) -> tuple[bytes, str]:
    """Return a photograph upright, its longest side at most `longest`, and its media type.

    Raises InputError where it cannot be read.
    """
    return (_thumbnail if longest and longest <= THUMBNAIL else _picture)(path, longest, stamp(path))


def _picture(path: Path, longest: int | None, stamp: str) -> tuple[bytes, str]:
    if not longest:
        try:
            with open_image(path) as image:
                if image.mode in ("L", "RGB") and image.format in SHOWN_AS_THEY_ARE and not stored_size(path)[1]:
                    return path.read_bytes(), SHOWN_AS_THEY_ARE[image.format]
        except READ_ERRORS:
            pass  # read_image says it in one line
    image = read_image(path)
    if longest:
        image.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=2)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95 if not longest else 88)
    return content.getvalue(), "image/jpeg"


_thumbnail = functools.lru_cache(maxsize=2000)(_picture)


def small_mask(path: Path, longest: int) -> bytes:
    """Return a mask as a PNG in the page's colours, its longest side at most `longest`, the background transparent."""
    with open_image(path) as image:
        image.thumbnail((longest, longest), Image.Resampling.NEAREST)
        image.putpalette(light(np.array(image.getpalette())).tolist())
        content = io.BytesIO()
        image.save(content, "PNG", transparency=0)
    return content.getvalue()

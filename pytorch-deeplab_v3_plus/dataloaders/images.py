"""Read and write images and label maps; whatever is wrong with a file is one line that names it."""

import hashlib
import logging
import math
import os
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from common.errors import InputError
from common.faults import lacks_memory
from common.files import why
from dataloaders.labels import PADDING, UNLABELLED, voc_palette

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")

# What Pillow raises on damaged and on forbiddingly large files.
READ_ERRORS = (OSError, SyntaxError, TypeError, ValueError, EOFError, LookupError, Image.DecompressionBombError)
LARGEST = 2**27  # pixels of an image at its full size: half a gigabyte with its labels
LARGEST_SHRUNK = 8 * LARGEST  # of one that is read at a smaller size
_PILLOWS_LIMIT = threading.Lock()  # it is one for the whole process
EXIF_ORIENTATION = 0x0112  # the tag that says how to turn a photograph; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))  # which swap width and height


def id_of_file(name: str) -> str:
    """Return the id of the image or label map that a file name, or a path, belongs to: the name without its suffix.

    macOS writes names in decomposed Unicode, and lists cannot hold spaces at the ends: neither makes another id.
    """
    return unicodedata.normalize("NFC", PurePath(name).stem).strip()


def check_name(name: str, where: Path) -> None:
    """Raise InputError for a file name whose id no list could hold."""
    key = id_of_file(name)
    if key.splitlines() != [key] or any("\ud800" <= letter <= "\udfff" for letter in key):
        raise InputError(f"expected file names that fit on a line, in UTF-8, found {name!r} in {where}: rename it")


def listing(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by id; a folder that does not exist has none.

    Hidden files, as macOS leaves them beside each file of a foreign disk, are not looked at. One listing is far quicker
    than a query for each file. Raises InputError where it fails, two files have one id, or a list could not hold an id.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and not entry.is_dir())
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(folder):
            return {}
        raise InputError(f"expected a folder, cannot read {folder}: {why(folder, error)}") from None
    files: dict[str, Path] = {}
    for name in names:
        if PurePath(name).suffix.lower() not in suffixes:
            continue
        key = id_of_file(name)
        check_name(name, folder)
        if key in files:
            raise InputError(
                f"expected one file of each name, found {files[key].name} and {name} in {folder}: "
                "rename one, or move it elsewhere"
            )
        files[key] = folder / name
    return files


def open_image(path: str | Path, largest: int | None = None) -> Image.Image:
    """Open an image file of at most LARGEST or `largest` pixels.

    Raises InputError for more, and for a program that would have to be run, and what Pillow raises.
    """
    with _PILLOWS_LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None  # Pillow's words are for web servers
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format == "EPS":  # which Pillow has Ghostscript run
        image.close()
        raise InputError(f"expected pixels, found a PostScript program in {path}: save it as PNG")
    try:
        check_area(image.size, path, largest)
    except InputError:
        image.close()
        raise
    return image


def check_area(size: tuple[int, int], path: str | Path, largest: int | None = None) -> None:
    """Raise InputError for an image of a size (width, height) of more than LARGEST, or `largest`, pixels."""
    largest, (width, height) = largest or LARGEST, size
    if width * height > largest:
        raise InputError(
            f"expected an image of at most {largest:,} pixels, found {width}x{height} in {path}: cut it into pieces, "
            "or scale it down, and its labels with it"
        )


def verify(path: str | Path, largest: int | None = None) -> None:
    """Raise what open_image raises, also for wrong check sums in a PNG, which Pillow does not look at when it reads."""
    with open_image(path, largest) as image:
        image.verify()


def is_lossy(path: Path) -> bool:
    """Whether a picture is compressed so that its values change: as JPEG, also within a TIFF, or as WebP by default.

    What cannot be read is not.
    """
    try:
        with open_image(path) as image:
            kind, compression = image.format, image.info.get("compression")
        if kind != "WEBP":
            return kind in ("JPEG", "MPO") or (kind == "TIFF" and compression in ("jpeg", "tiff_jpeg", "webp"))
        content, at = path.read_bytes(), 12  # the first part of a WebP file: its name, its length, its content
        while (part := content[at : at + 4]) not in (b"VP8 ", b"VP8L", b""):
            # The frames of an animation are parts of a part, behind 16 bytes.
            length = int.from_bytes(content[at + 4 : at + 8], "little")
            at += 24 if part == b"ANMF" else 8 + length + length % 2
        return part == b"VP8 "
    except (InputError, *READ_ERRORS):
        return False


def read_image(path: str | Path, shrink: bool = False) -> Image.Image:
    """Read an image of any kind as 8-bit RGB.

    16-bit grey keeps its upper 8 bits, as Pillow does for 16-bit colour, or the upper 8 of 12 or 8 bits where no value
    needs more (many cameras). Transparent pixels become white. A photograph with an EXIF rotation is turned upright, as
    browsers and annotation tools show it. With `shrink`, one of more than LARGEST pixels is read at a half, a third and
    so on of its sides. Raises InputError when it is larger, cannot be read, or holds floating-point numbers or more
    than 16 bits, whose range nobody can guess.
    """
    largest = LARGEST_SHRUNK if shrink else None
    try:
        with open_image(path, largest) as image:
            if image.format == "PNG":
                verify(path, largest)
            divisor = math.ceil(math.sqrt(image.width * image.height / LARGEST))
            if divisor > 1:
                image.draft("RGB", tuple(-(-side // divisor) for side in image.size))  # JPEG's decoder shrinks itself
            image.load()
    except READ_ERRORS as error:
        raise _unreadable("an image", path, error) from None
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise InputError(f"expected an image of 8 or 16 bits, found floating-point numbers in {path}: save it as PNG")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise InputError(
                f"expected an image of 8 or 16 bits, found values from {values.min()} to {values.max()} in {path}: "
                "bring them to 0-255 and save it as PNG"
            )
        image = Image.fromarray((values >> (grey_bits(values) - 8)).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    divisor = math.ceil(math.sqrt(image.width * image.height / LARGEST))
    return image.reduce(divisor) if divisor > 1 else image


def grey_bits(values: np.ndarray) -> int:
    """Return how many bits of an image's grey values (H, W) read_image takes for used: 8, 12 or 16."""
    return next(bits for bits in (8, 12, 16) if values.max() < 2**bits or bits == 16)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) as read_image would, from the file's header alone."""
    size, turn = stored_size(path)
    return size[::-1] if turn in SIDEWAYS else size


def stored_size(path: str | Path) -> tuple[tuple[int, int], Image.Transpose | None]:
    """Return (width, height) before an EXIF rotation, and that rotation, None where there is none."""
    try:
        with open_image(path, LARGEST_SHRUNK) as image:
            turn = TURNS.get(image.getexif().get(EXIF_ORIENTATION))
            # Pillow may have swapped the sides of a turned TIFF already, and turns its pixels when it reads them.
            return (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size, turn
    except READ_ERRORS as error:
        raise _unreadable("an image", path, error) from None


def pages(path: str | Path) -> int:
    """Return how many pictures a file holds; 1 for those of phones (MPO): the same at other exposures."""
    try:
        with open_image(path, LARGEST_SHRUNK) as image:
            return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except READ_ERRORS as error:
        raise _unreadable("an image", path, error) from None


def file_digest(path: Path) -> bytes:
    """Return a digest of a file: of its size, and its first and last half MiB, however large it is.

    Of an image that may not be compressed, of which a change alters nothing else, it is of everything.
    """
    half = None if path.suffix.lower() in (".bmp", ".tif", ".tiff") else 2**19
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(file.read(half), digest_size=8, person=b"%d" % size)
        if half:
            file.seek(max(half, size - half))
            digest.update(file.read(half))
    return digest.digest()


def read_label(path: str | Path, num_classes: int) -> np.ndarray:
    """Read a label map: a PNG of mode P or L, of at most 8 bits, whose values are 0..num_classes-1, 254 or 255.

    Returns uint8 (H, W); raises InputError when it cannot be read, is of another mode, or has another value.
    """
    try:
        verify(path)
        with open_image(path) as image:
            spread = grey_spread(image)
            if image.format in ("JPEG", "MPO"):
                raise InputError(
                    f"expected a label map (PNG), found a JPEG, which changes class numbers, {path}: export it as PNG"
                )
            if image.mode not in ("P", "L"):
                raise InputError(
                    f"expected a label map of 8-bit class numbers (PNG mode P or L), found mode '{image.mode}' in "
                    f"{path}: save class numbers 0..{num_classes - 1} and {UNLABELLED} for unlabelled pixels, "
                    "not colours or 16 bits, e.g. Image.fromarray(class_numbers.astype('uint8')).save(...)"
                )
            label = np.array(image)
            label //= np.uint8(spread)
    except READ_ERRORS as error:
        raise _unreadable("a label map (PNG)", path, error) from None
    counts = value_counts(label)
    counts[:num_classes] = counts[PADDING] = counts[UNLABELLED] = 0
    if counts.any():
        value = int(counts.argmax())
        row, column = np.argwhere(label == value)[0]
        raise InputError(
            f"expected label values 0..{num_classes - 1} ({num_classes} classes), {PADDING} or {UNLABELLED}, found "
            f"{value} ({counts[value]} pixels, the first at x={column}, y={row}) in {path}: "
            "correct the file or the class list"
        )
    return label


def grey_spread(image: Image.Image) -> int:
    """Return by what Pillow multiplies the numbers of a grey PNG of 2 or 4 bits, which is not loaded yet, to fill 8.

    That of other pictures is 1.
    """
    how = image.tile[0][3] if image.tile else ""
    return {"L;2": 85, "L;4": 17}.get(how if isinstance(how, str) else how[0], 1)


def write_label(path: str | Path | BinaryIO, values: np.ndarray) -> None:
    """Write a label map, uint8 (H, W), as a palette PNG in VOC's colours."""
    picture = Image.fromarray(values)
    picture.putpalette(voc_palette().tobytes())
    picture.save(path, format="PNG")


def value_counts(label: np.ndarray) -> np.ndarray:
    """Return how many pixels of a uint8 label map have each value, int64 (256,)."""
    return np.asarray(Image.fromarray(label).histogram())  # np.bincount takes 8 bytes a pixel


def check_sizes(image_file: Path, size: tuple[int, int], label_file: Path, label: np.ndarray) -> None:
    """Raise InputError unless a label map has the (width, height) of its image."""
    height, width = label.shape
    if size != (width, height):
        raise InputError(
            f"expected a label map of {size[0]}x{size[1]} pixels as its image {image_file} (turned upright if it says "
            f"so), found {width}x{height} in {label_file}: draw or export the labels at the size of the image"
        )


def check_scaled(size: tuple[int, int], short_side: int, source: object) -> None:
    """Raise InputError where an image of `size` has more than LARGEST pixels when it is scaled to a short side.

    So has a sliver of an image, which would be gigabytes.
    """
    if short_side * short_side * max(size) / min(size) > LARGEST:
        raise InputError(
            f"expected an image of at most {LARGEST:,} pixels when its short side is scaled to {short_side}, found "
            f"{size[0]}x{size[1]} in {source}; lower --crop-size"
        )


def readable_label(
    image_file: Path, size: tuple[int, int], label_file: Path | None, num_classes: int
) -> np.ndarray | None:
    """Return the label map of an image of `size`, (width, height): None where there is none, or, with a warning in the
    log, none that could be read and fits. It is for pictures and scores that can be made without it.
    """
    try:
        label = label_file and read_label(label_file, num_classes)
        if label is not None:
            check_sizes(image_file, size, label_file, label)
        return label
    except InputError as error:
        logger.warning("%s", error)
        return None


def _unreadable(expected: str, path: str | Path, error: Exception) -> InputError | MemoryError:
    if lacks_memory(error):  # Pillow's OSError where a decoder has none
        return MemoryError(str(error))
    advice = {FileNotFoundError: "", PermissionError: "; change its permissions"}.get(type(error), "; replace the file")
    return InputError(f"expected {expected}, cannot read {path}: {why(path, error)}{advice}")

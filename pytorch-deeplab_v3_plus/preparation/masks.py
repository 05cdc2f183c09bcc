"""The format masks: pictures whose numbers or colours stand for classes.

Masks lie apart from their photographs and have the same names, or the same names and one suffix; or both lie in one
folder, as x.jpg and x_mask.png, or in folders side by side, as images/x.jpg and masks/x.png. CVAT's 'Segmentation mask'
and Roboflow's 'Semantic Segmentation Masks' come with their table of classes. Masks of one class each are called after
their photograph and the class, x_bolt.png, or lie in folders called after the classes, bolt/x.png.
"""

import filecmp
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from common.errors import InputError
from dataloaders.class_names import arranged, is_background, is_unlabelled, same_name, tidy
from dataloaders.images import EXIF_ORIENTATION, IMAGE_SUFFIXES, READ_ERRORS, id_of_file, is_lossy, open_image, verify
from dataloaders.labels import UNLABELLED
from dataloaders.layout import read_lines
from preparation.formats import Collection, ImportOptions, Labelled
from preparation.shapes import check_size, value_outside
from preparation.sources import Photographs, data_set_image, plain

logger = logging.getLogger(__name__)

SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
OPTIONS = ("colours", "ignore_unknown", "map", "unlabelled")

Colour = tuple[int, int, int]

_RGB_LINE = re.compile(r"(.*:)?\d+[\s,]+\d+[\s,]+\d+\b")  # colours, not Roboflow's levels of grey
_TABLES = ("labelmap.txt", "_classes.csv")  # of CVAT and of Roboflow
# Folders of masks, beside those of photographs: those of CVAT and PASCAL VOC, and what people call them.
_MASK_FOLDER = re.compile(r"segmentationclass(aug|png)?|masks?|labels?|annotations?|gt|ground[ _-]?truth")
_CVAT_OBJECTS = "segmentationobject"
# What masks beside their photographs are called: x_mask.png, x-labels.tif (QuPath), x_Simple Segmentation.png (ilastik)
_MASK_SUFFIX = re.compile(r"[ ._-]+(masks?|labels?|labelled|seg|segmentation|simple segmentation|gt|annotations?)$")
# Pixels are compared as one number: the grey value, or the colour, which is above all grey values, or transparent.
_COLOUR, _TRANSPARENT = 1 << 40, -(1 << 40)
_SAMPLE_FORMAT = 339  # the tag of a TIFF that says whether its numbers are signed


def recognises(path: Path) -> bool:
    """Whether a file is a picture; which pictures are masks shows only when all are known."""
    return True


def collect(files: list[Path], photographs: Photographs, options: ImportOptions) -> Collection:
    """Find the masks among pictures, their photographs, and the class of each value or colour.

    Raises InputError for a bad table, and where a mask has no photograph or values that are not in the table.
    """
    masks, photographs = masks_and_photographs(files, photographs, options)
    table = options.colours or find_table(files)
    classes = {} if table else class_of_each(masks, photographs, options)
    if classes:
        collection = collect_classes(classes, photographs, options)
    else:
        collection = collect_values(masks, photographs, table, options)
    if not options.images and len(collection.items) < len(photographs.files):
        logger.info("left out: %d photographs without a mask", len(photographs.files) - len(collection.items))
        known = {item.id for item in collection.items}
        without = [path for path in photographs.files if id_of_file(path.name) not in known]
        if perhaps := [path for path in without if len(_beginnings(path, photographs)) > 1]:
            what = "%d of these are called as another photograph and an ending (first %s); masks end in _mask or _label"
            logger.warning(what, len(perhaps), perhaps[0])
    return collection


def _beginnings(path: Path, photographs: Photographs) -> list[str]:
    """Return the names of photographs that the name of a picture is or begins with, the longest first."""
    stem = plain(path.stem)
    ends = (at for at in range(len(stem), 0, -1) if not stem[at : at + 1].isalnum())
    return [stem[:at] for at in ends if stem[:at] in photographs.by_stem]


def collect_values(
    masks: list[Path], photographs: Photographs, table: Path | None, options: ImportOptions
) -> Collection:
    """Join masks, of which each has all classes of its photograph, with that and with the classes of their values."""
    pairs = pair_up(masks, photographs)
    lines = read_lines(table, "a table of classes") if table else []  # once: it may be a pipe
    numbers = not any(map(_RGB_LINE.match, lines))
    class_names, values = read_values(table, lines, options)

    def draw(path: Path, size: tuple[int, int]) -> np.ndarray:
        return read_mask(path, size, values, numbers, options.ignore_unknown)

    items = [Labelled(*data_set_image(image), mask, functools.partial(draw, mask)) for mask, image in pairs]
    return Collection(items, class_names)


def masks_and_photographs(
    files: list[Path], photographs: Photographs, options: ImportOptions
) -> tuple[list[Path], Photographs]:
    """Return the masks among pictures, and the photographs; raise InputError where these cannot be told apart."""
    if not photographs.files:
        raise InputError(f"expected photographs in {photographs.folder}, found none: name their folder with --images")
    masks, no_photographs = tell_apart(files, photographs, options)
    rest = [path for path in photographs.files if os.path.realpath(path) not in no_photographs]
    photographs = Photographs(photographs.folder, rest)
    if not (masks and photographs.files):
        apart = "" if options.images else ", and name that of the photographs with --images"
        raise InputError(
            "expected annotations, or photographs and masks, called x.jpg and x_mask.png, found "
            f"{files[0].name} to {files[-1].name} in {photographs.folder}: add what is missing, or put the masks into "
            f"a folder of their own{apart}"
        )
    known = {*masks, *photographs.files}
    left = [path for path in files if path not in known and os.path.realpath(path) not in no_photographs]
    if left := [path for path in left if not _is_copy(path, photographs)]:
        logger.warning("left out: %d pictures outside the folders of masks (first %s)", len(left), left[0])
    return masks, photographs


def _is_copy(path: Path, photographs: Photographs) -> bool:
    """Whether a picture is a photograph that lies elsewhere too."""
    return any(filecmp.cmp(path, other, shallow=False) for other in photographs.by_stem.get(plain(path.stem), ()))


def pair_up(masks: list[Path], photographs: Photographs) -> list[tuple[Path, Path]]:
    """Return each mask with its photograph; raise InputError where a mask has none."""
    stems = [plain(path.stem) for path in masks]
    # The suffix, which all masks share, is that with which most have a photograph.
    known = photographs.by_stem.keys()
    endings = [stems[0].removeprefix(name) for name in _beginnings(masks[0], photographs)]
    with_photograph = {end: sum(s.endswith(end) and s.removesuffix(end) in known for s in stems) for end in endings}
    ending = max(with_photograph, key=with_photograph.__getitem__, default="")
    names = [path.stem[: len(path.stem) - len(ending)] for path in masks]
    return [
        (path, photographs.find(path.with_name(name if stem.endswith(ending) else path.stem).as_posix(), path))
        for path, name, stem in zip(masks, names, stems, strict=True)
    ]


class Labels:
    """The names that a label may have with --classes: those of the classes, the background's, and "unlabelled"."""

    def __init__(self, options: ImportOptions) -> None:
        self.known = set(map(same_name, options.class_lines))
        self.background = any(map(is_background, self.known))

    def __contains__(self, label: str) -> bool:
        meant = is_unlabelled(label) or (self.background and is_background(label))
        return same_name(label) in self.known or (meant and bool(self.known))


class OfOneClass(NamedTuple):
    """What the name of a mask of one class says."""

    photograph: str
    label: str


def class_of_each(masks: list[Path], photographs: Photographs, options: ImportOptions) -> dict[Path, OfOneClass]:
    """Return what the names of masks say, where they are masks of one class each and of two classes at least.

    Raises InputError where the names end in several ways that are no classes, or can be read in two ways, or where some
    of the masks have no photograph.
    """
    found: dict[Path, OfOneClass] = {}
    known, lost, unclear = Labels(options), [], []
    for path in masks:
        stem, names = plain(path.stem), _beginnings(path, photographs)
        readings = [OfOneClass(name, stem.removeprefix(name).strip(" ._-") or path.parent.name) for name in names]
        if not readings:
            lost.append(path)
            continue
        sensible = [reading for reading in readings if reading.label in known]
        if len(sensible) > 1 and sensible[0].photograph != stem:
            unclear.append((path, *sensible))
        found[path] = (sensible or readings)[0]
    labels = {same_name(one.label) for one in found.values()}
    if len(labels) > 1 and all(label in known for label in labels):
        if unclear:
            path, one, other = unclear[0][:3]
            raise InputError(
                f"expected one photograph and one class in the name of a mask, found '{one.photograph}' with "
                f"'{one.label}' and '{other.photograph}' with '{other.label}' in {path}: rename the photograph, or put "
                "masks into folders called after the classes"
            )
        if lost:
            raise InputError(
                f"expected a photograph of each mask, found none in {photographs.folder} of {lost[0]}"
                f"{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}: add it, or remove the mask"
            )
        return found
    if lost:
        return {}
    endings = {one.label: path for path, one in found.items() if one.photograph != plain(path.stem)}
    if len(endings) > 1 and len(endings) == len(labels):
        first, second = list(endings.values())[:2]
        raise InputError(
            f"expected masks called as their photographs, or all with one ending, found {first} and {second}: where "
            "each holds one class, let it end in the name of the class, and name the classes with --classes FILE"
        )
    return {}


def collect_classes(found: dict[Path, OfOneClass], photographs: Photographs, options: ImportOptions) -> Collection:
    """Join the masks of one class each of every photograph; outside them it is unlabelled, or background in the truth.

    Raises InputError for options that are for other masks.
    """
    if given := [name for name in OPTIONS if getattr(options, name)]:
        raise InputError(
            f"masks of one class each, as {next(iter(found))}, do not take --{given[0].replace('_', '-')}: what is "
            "drawn has any colour, and the rest is black or transparent"
        )
    class_names = options.class_names
    values = {same_name(name): value for value, name in enumerate(class_names)}
    masks: dict[Path, list[tuple[Path, int]]] = {}
    for path, (name, label) in found.items():
        value = 0 if is_background(label) else values.get(same_name(label), UNLABELLED)
        image = photographs.find(path.with_name(name).as_posix(), path)
        masks.setdefault(image, []).append((path, value))
    outside = value_outside(class_names, options.truth)

    def draw(parts: list[tuple[Path, int]], size: tuple[int, int]) -> np.ndarray:
        label = np.full(size[::-1], outside, dtype=np.uint8)
        owner = np.full(size[::-1], -1)
        for number, (path, value) in enumerate(parts):
            drawn = drawn_pixels(path, size)
            if len(parts) == 1 and value and not options.truth:
                check_strokes(path, drawn)
            twice = owner[drawn & (owner >= 0)]
            if twice.size:
                raise InputError(
                    f"expected each pixel in one class, found {twice.size} that are drawn in {path} and in "
                    f"{parts[twice[0]][0]}: erase them in one, and leave black or transparent what is not drawn"
                )
            owner[drawn], label[drawn] = number, value
        return label

    logger.info("masks of one class each: %d for %d photographs", len(found), len(masks))
    items = [
        Labelled(*data_set_image(image), parts[0][0], functools.partial(draw, parts)) for image, parts in masks.items()
    ]
    return Collection(items, class_names)


def drawn_pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return which pixels, bool (H, W), of a picture of one colour on black, or on transparent, are drawn.

    Raises WrongSize unless its (width, height) is `size`, InputError where it has other colours.
    """
    pixels = pixel_values(path, size, numbers=False)
    values = np.unique(pixels)
    drawn = pixels != (_TRANSPARENT if _TRANSPARENT in values else 0)
    if (number := len(np.unique(pixels[drawn]))) > 1:
        raise InputError(
            f"expected one class, drawn in one colour on black or on transparent, found {number} colours in {path}: "
            "draw with a hard brush, and save without lossy compression"
        )
    return drawn


def check_strokes(path: Path, drawn: np.ndarray) -> None:
    """Raise InputError where a picture of strokes is mostly drawn: they are black on white, or no strokes."""
    if (share := drawn.mean()) > 0.5:
        raise InputError(
            f"expected strokes on black or on transparent, found {share:.0%} of the pixels drawn in {path}: invert the "
            "picture where strokes are black on white; masks of whole objects are --truth"
        )


def tell_apart(files: list[Path], photographs: Photographs, options: ImportOptions) -> tuple[list[Path], set[str]]:
    """Return the masks among pictures, and which pictures, by their real paths, are no photographs."""
    labels = Labels(options)
    top = os.path.commonpath([path.parent for path in files])
    folders = {path: {plain(part) for part in path.relative_to(top).parts[:-1]} for path in files}
    masks = [path for path in files if any(map(_MASK_FOLDER.fullmatch, folders[path]))]
    if masks:
        if any(path.parent.name in labels for path in masks):  # of a class called mask: the others have folders too
            masks = [path for path in files if path.parent.name in labels]
        objects = [path for path in files if _CVAT_OBJECTS in folders[path]]
        return masks, set(map(os.path.realpath, masks + objects))
    if os.path.realpath(files[0]) not in set(map(os.path.realpath, photographs.files)):
        return files, set()
    endings = {path: _MASK_SUFFIX.search(plain(path.stem)) for path in files}
    masks = [path for path, ending in endings.items() if ending and ending[1] not in labels]
    return masks, set(map(os.path.realpath, masks))


def find_table(files: list[Path]) -> Path | None:
    """Return the table of classes that a tool put beside its masks or above them, None where there is none.

    Raises InputError where there are several that differ.
    """
    top = Path(os.path.commonpath([path.parent for path in files])).parent
    folders = {folder for path in files for folder in path.parents if folder.is_relative_to(top)}
    tables = sorted(folder / name for folder in folders for name in _TABLES if os.path.lexists(folder / name))
    for table in tables[1:]:
        if read_lines(table, "a table of classes") != read_lines(tables[0], "a table of classes"):
            raise InputError(f"expected one table of classes, found {tables[0]} and {table}: name one with --colours")
    return tables[0] if tables else None


def read_values(table: Path | None, lines: list[str], options: ImportOptions) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the class names, and the label value of each pixel value as read_mask compares them.

    `lines` are those of the table.

    Raises InputError where nothing says what the classes are, or an option contradicts the rest.
    """
    if table:
        class_names, colours = read_colours(table, lines)
        if options.classes:
            class_names, colours = renumbered(class_names, colours, options, table)
        values = {int(_code(np.array(colour))): value for colour, value in colours.items()}
    elif options.classes:
        names = options.class_lines
        first = -1 if names[:1] == ["__ignore__"] else 0  # so labelme numbers its labels.txt
        class_names, values = class_values(dict(enumerate(names, first)), options.classes)
    else:
        raise InputError(
            "masks needs --colours FILE, the class of each colour, or, where numbers stand for classes, --classes FILE"
        )
    chosen: dict[int, int] = {}
    for pairs in [*(options.map or ()), *({value: UNLABELLED} for value in options.unlabelled or ())]:
        for found, value in pairs.items():
            if chosen.setdefault(found, value) != value or (value >= len(class_names) and value != UNLABELLED):
                raise InputError(
                    f"--map, --unlabelled: expected one meaning of each value, a class from 0 to "
                    f"{len(class_names) - 1} ({', '.join(class_names)}), found {found}={value}"
                )
    return class_names, values | chosen


def renumbered(
    names: tuple[str, ...], values: dict[Any, int], options: ImportOptions, table: Path
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the classes of --classes, and the values of a table whose classes are `names`, numbered by them."""
    wanted = options.class_names
    known = {same_name(name): value for value, name in enumerate(wanted)}
    both = is_background(names[0]) and is_background(wanted[0])
    places = [0 if both and not at else known.get(same_name(name)) for at, name in enumerate(names)]
    if None in places:
        lost = names[places.index(None)]
        raise InputError(f"expected the classes of {options.classes} in {table}, found '{lost}': add it to the former")
    return wanted, {found: value if value == UNLABELLED else places[value] for found, value in values.items()}


def read_colours(path: Path, lines: list[str]) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """Parse a colour table: one class a line, as ``R G B name``, ``#rrggbb name`` or, from CVAT, ``name:R,G,B::``.

    Roboflow's ``value, name``, below a headline, stands for a level of grey.

    Returns the class names, the background first, and the label value of each colour; names such as unlabelled, ignore
    and void stand for pixels without a class. Raises InputError for anything else.
    """
    rgb = r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)"
    named: dict[Colour, str] = {}
    for line in lines:
        # CVAT's form first, in which a label may look like one of the others, or like a comment without a space.
        match = re.fullmatch(rf"(?!#\s)(?P<name>.+):{rgb}:.*", line)
        if not match:
            if re.match(r"#[0-9a-fA-F]{6}[\s,]", line):
                line = f"{' '.join(map(str, bytes.fromhex(line[1:7])))} {line[8:]}"
            elif line.startswith(("#", "Pixel Value")):
                continue
            match = re.fullmatch(rf"{rgb}[\s,]+(?P<name>\S.*)", line)
            match = match or re.fullmatch(r"(?P<r>(?P<g>(?P<b>\d+)))\s*,\s*(?P<name>\S.*)", line)
        colour = tuple(map(int, match.group("r", "g", "b"))) if match else (256,)
        if max(colour) > 255:
            raise InputError(
                f"expected 'R G B name' with numbers of 0-255, found '{line}' in {path}: correct it, or name another "
                "table with --colours"
            )
        if colour in named:
            raise InputError(f"expected each colour once, found '{line}' again in {path}")
        named[colour] = match["name"]
    return class_values(named, path)


def class_values(named: dict[Any, str], path: Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return class names, the background first, and the label value of each number or colour that has a name."""
    names = arranged(list(named.values()), path)
    values = {name: value for value, name in enumerate(names)}
    return names, {found: UNLABELLED if is_unlabelled(name) else values[tidy(name)] for found, name in named.items()}


def read_mask(
    path: Path, size: tuple[int, int], values: dict[int, int], numbers: bool, ignore_unknown: bool
) -> np.ndarray:
    """Read a picture whose pixels have these label values, as uint8 (H, W); transparent pixels are unlabelled.

    Other pixels are an InputError, or unlabelled with `ignore_unknown`. Raises WrongSize unless its (width, height) is
    `size`. See pixel_values for `numbers`.
    """
    pixels = pixel_values(path, size, numbers)
    label = np.full(pixels.shape, UNLABELLED, dtype=np.uint8)
    unknown: list[tuple[int, int]] = []
    for code, count in zip(*np.unique(pixels, return_counts=True), strict=True):
        if int(code) in values:
            label[pixels == code] = values[int(code)]
        elif code != _TRANSPARENT:
            unknown.append((int(count), int(code)))
    if unknown and not ignore_unknown:
        count, code = max(unknown)
        grey = code < _COLOUR
        found = code if grey else (code >> 16 & 255, code >> 8 & 255, code & 255)
        advice = f"say what it means with --map={code}=CLASS or --unlabelled {code}" if grey else "add it to the table"
        others = f"{len(unknown)} other{'s' * (len(unknown) != 1)}"
        raise InputError(
            f"expected values of the table of classes, found {others} in {path}, mostly {found} ({count} pixels): "
            f"{advice}, or leave such pixels unlabelled with --ignore-unknown (soft edges, JPEG noise)"
        )
    return label


def pixel_values(path: Path, size: tuple[int, int], numbers: bool) -> np.ndarray:
    """Return the pixels of a picture as they are compared, int64 (H, W): grey values, coded colours, or transparent.

    With `numbers` the numbers in a palette and in grey of less than 8 bits count, otherwise their colours, which may be
    transparent. Raises InputError where the picture is not read as it was written: more than one page, colours of 16
    bits, fractions, numbers in a GIF with colours.
    """
    try:
        mask = _read_mask(path, size)
    except Image.UnidentifiedImageError as error:
        pixels = _pixels_of_64_bits(path, error)
        check_size(path, pixels.shape[::-1], size)
        return pixels
    except READ_ERRORS as error:
        raise InputError(f"expected a picture of classes, cannot read {path}: {error}") from None
    _check_as_written(path, mask, numbers)
    return _decode(path, mask, numbers)


class _Mask(NamedTuple):
    """A picture of classes in memory, and what Pillow does not tell of it later."""

    image: Image.Image
    pages: int
    raw: str  # the bits of a pixel, in Pillow's notation
    signed: bool  # whether its numbers of 8 bits, which Pillow reads as unsigned ones, have a sign; a TIFF's may
    turned: bool  # whether it has an EXIF rotation, by which Pillow turns TIFF alone


def _read_mask(path: Path, size: tuple[int, int]) -> _Mask:
    verify(path)
    with open_image(path) as image:
        check_size(path, image.size, size)  # before a header of a few bytes asks for gigabytes
        raw = image.tile[0][3] if image.tile else ""
        mask = _Mask(
            image,
            pages=getattr(image, "n_frames", 1),
            raw=raw if isinstance(raw, str) else str(raw[0]),
            signed=image.mode == "L" and 2 in np.atleast_1d(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, 1)),
            turned=image.getexif().get(EXIF_ORIENTATION, 1) > 1,
        )
        image.load()
    return mask


def _check_as_written(path: Path, mask: _Mask, numbers: bool) -> None:
    """Raise InputError where the values of a mask are not those that were written."""
    image, raw = mask.image, mask.raw
    if numbers and is_lossy(path):
        raise InputError(
            f"expected class numbers, found a {image.format} whose compression changes them, {path}: export it as PNG, "
            "or say what its colours mean with --colours FILE and leave those between unlabelled with --ignore-unknown"
        )
    if mask.turned:
        raise InputError(f"expected a mask without an EXIF rotation, found one in {path}: save it without that tag")
    if mask.pages > 1:
        raise InputError(f"expected one picture, found {mask.pages} pages in {path}: save the right one alone")
    if ("16" in raw and image.mode in ("RGB", "RGBA", "LA")) or raw.endswith(("L;I", "2I", "4I", "1;I")):
        raise InputError(
            f"expected class numbers, or colours of 8 bits, found the format {raw} in {path}: save it as PNG of 8 bits"
        )


def _decode(path: Path, mask: _Mask, numbers: bool) -> np.ndarray:
    """Return what `pixel_values` does."""
    image, mode = mask.image, mask.image.mode
    if mode == "F" or mode.startswith("I"):
        pixels = np.asarray(image)
        whole = np.isfinite(pixels).all() and (pixels == np.round(pixels)).all() and np.abs(pixels).max() < 2**31
        if not whole:
            raise InputError(f"expected class numbers, found fractions in {path}: save whole numbers")
        return pixels.astype(np.int64)
    if mode == "P" and numbers and image.format == "GIF":  # whose writers number the colours anew
        rgb = np.asarray(image.convert("RGB"))
        if (rgb != rgb[..., :1]).any():
            raise InputError(
                f"expected class numbers, found a GIF with colours, {path}: say what they mean with --colours FILE"
            )
        return rgb[..., 0].astype(np.int64)
    if mode in ("1", "L") or (mode == "P" and numbers):
        bits = 1 if mode == "1" else int(mask.raw[2:]) if re.fullmatch(r"L;[24]", mask.raw) else 8
        grey = np.asarray(image.convert("L") if mode == "1" else image)
        grey = grey.view(np.int8 if mask.signed else np.uint8).astype(np.int64)
        pixels = grey // (255 // (2**bits - 1)) if numbers else grey
        if image.has_transparency_data and not numbers:
            pixels[np.asarray(image.convert("RGBA"))[..., 3] < 128] = _TRANSPARENT
        return pixels
    rgba = np.asarray(image.convert("RGBA"))
    return np.where(rgba[..., 3] < 128, _TRANSPARENT, _code(rgba))


def _code(colours: np.ndarray) -> np.ndarray:
    red, green, blue = (colours[..., channel] for channel in range(3))
    code = red.astype(np.int64)
    for channel in (green, blue):
        code <<= 8
        code |= channel
    code |= _COLOUR
    return np.where((red == green) & (green == blue), red, code)


def _pixels_of_64_bits(path: Path, error: Exception) -> np.ndarray:
    """Read a TIFF that Pillow cannot, such as napari's labels of 64 bits, with the package tifffile."""
    reason = str(error)
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            import tifffile

            pixels = tifffile.imread(path)
            if pixels.ndim == 2 and pixels.dtype.kind in "iu":
                return np.minimum(pixels, 2**31).astype(np.int64)
            reason = f"it holds {pixels.dtype} of the shape {pixels.shape}"
        except ImportError:
            reason += "; labels of 64 bits, as napari writes them, need the package tifffile (pip install tifffile)"
        except Exception as other:  # tifffile lets through whatever a damaged file leads to
            reason = str(other)
    raise InputError(f"expected a picture of classes, cannot read {path}: {reason}")

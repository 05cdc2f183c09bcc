"""The format masks: pictures whose colours stand for classes."""

import functools
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from dataloaders.class_names import arranged, is_unlabelled, tidy
from dataloaders.images import IMAGE_SUFFIXES, listing
from dataloaders.labels import UNLABELLED
from dataloaders.layout import read_lines
from preparation.formats import Collection, ImportOptions, Labelled, need
from preparation.shapes import annotation_files, check_size, image_of

Colour = tuple[int, int, int]


def collect(source: Path, options: ImportOptions) -> Collection:
    """Find the masks in a folder and their photographs in `options.images`; `options.colours` says the classes.

    Raises InputError for a bad colour table, and where a mask has no photograph or colours that are not in the table.
    """
    need("masks", options, images="the photographs", colours="the class of each colour")
    class_names, values = read_colours(options.colours)

    def draw(path: Path, size: tuple[int, int]) -> np.ndarray:
        label = read_coloured(path, values, options.ignore_unknown)
        check_size(path, label.shape[::-1], size)
        return label

    photographs, items = listing(options.images, IMAGE_SUFFIXES), []
    for path in annotation_files(source, *IMAGE_SUFFIXES):
        image = image_of(path, photographs, options.images)
        if os.path.realpath(image) == os.path.realpath(path):
            raise InputError(
                f"expected a mask and its photograph, found one file for both, {path}: put them into different folders"
            )
        items.append(Labelled(image.name, image, path, functools.partial(draw, path)))
    return Collection(items, class_names)


def read_colours(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """Read a colour table: one class a line, as ``R G B name`` or, from CVAT, ``name:R,G,B::``.

    Returns the class names, the background first, and the label value of each colour; names such as unlabelled, ignore
    and void stand for pixels without a class. Raises InputError for anything else.
    """
    rgb = r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)"
    named: dict[Colour, str] = {}
    for line in read_lines(path, "a colour table"):
        if line.startswith("#"):
            continue
        match = re.fullmatch(rf"{rgb}[\s,]+(?P<name>\S.*)", line) or re.fullmatch(rf"(?P<name>[^:]+):{rgb}:.*", line)
        colour = tuple(map(int, match.group("r", "g", "b"))) if match else (256,)
        if max(colour) > 255:
            raise InputError(f"expected 'R G B name' with numbers of 0-255, found '{line}' in {path}")
        if colour in named:
            raise InputError(f"expected each colour once, found '{line}' again in {path}")
        named[colour] = match["name"]
    names = arranged(list(named.values()), path)
    values = {name: value for value, name in enumerate(names)}
    return names, {colour: UNLABELLED if is_unlabelled(name) else values[tidy(name)] for colour, name in named.items()}


def read_coloured(path: Path, values: dict[Colour, int], ignore_unknown: bool) -> np.ndarray:
    """Read a picture whose colours have these label values, as uint8 (H, W); transparent pixels are unlabelled.

    Of a palette the colours count, not the numbers. Colours that are not among them are an InputError, or unlabelled
    with `ignore_unknown`.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"expected a picture of classes, cannot read {path}: {error}") from None
    label = np.full(pixels.shape[:2], UNLABELLED, dtype=np.uint8)
    codes = np.where(pixels[..., 3] < 128, -1, pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2])
    unknown: list[tuple[int, Colour]] = []
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        colour = int(code) >> 16, int(code) >> 8 & 255, int(code) & 255
        if colour in values:
            label[codes == code] = values[colour]
        elif code >= 0:
            unknown.append((int(count), colour))
    if unknown and not ignore_unknown:
        count, colour = max(unknown)
        raise InputError(
            f"expected colours of the table, found {len(unknown)} others in {path}, mostly {colour} ({count} pixels): "
            "add them to the table, or leave such pixels unlabelled with --ignore-unknown (soft edges, JPEG noise)"
        )
    return label

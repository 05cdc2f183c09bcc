"""Which images to segment, what their results are called, and reading them ahead."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import walk
from dataloaders.images import (
    IMAGE_SUFFIXES,
    check_scaled,
    check_sizes,
    id_of_file,
    image_size,
    pages,
    read_image,
    read_label,
)
from dataloaders.transforms import centre_square, resize_short_side, to_tensor

logger = logging.getLogger(__name__)

MANY = 2**23  # pixels, for which a network on a CPU takes a minute


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the files that `words` name (files, folders and patterns), each once, without opening them.

    Two links to a file are two. Folders are searched recursively, without hidden files and folders; files there of
    other kinds than IMAGE_SUFFIXES are counted in the log. Raises InputError for a folder or a pattern without images.
    """
    files: dict[Path, Path] = {}
    for word in words:
        if not word:
            raise InputError(
                "--image_path: expected files and folders, found an empty word (a variable that is not set?)"
            )
        path = Path(word)
        if path.is_dir():
            found: list[Path] = []
            others: Counter[str] = Counter()
            for folder, folders, names in walk(path):
                folders[:] = (name for name in folders if name[0] != ".")
                for file in (Path(folder, name) for name in names if name[0] != "."):
                    if file.suffix.lower() in IMAGE_SUFFIXES:
                        found.append(file)
                    else:
                        others[file.suffix.lower() or "without a suffix"] += 1
            found.sort()
            if others:
                kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
                logger.warning("%s: passed over files of kinds that are not read: %s", path, kinds)
            if not found:
                raise InputError(f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none in the folder {path}")
        elif glob.has_magic(word) and not path.exists():
            if not (matches := sorted(glob.glob(word, recursive=True))):
                raise InputError(f"expected images, found no file that matches {word}")
            found = find_images(matches)
        else:
            found = [path]
        for file in found:
            files.setdefault(file.parent.resolve() / file.name, file)
    return list(files.values())


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a distinct name for each file's results, also on file systems that ignore case.

    The name is the file's stem; files that share one get <folder>_<stem>_<suffix>, with a number where that is taken.
    """
    stems = Counter(file.stem.casefold() for file in files)
    taken = {stem for stem, count in stems.items() if count == 1}
    names = []
    for file in files:
        name = file.stem
        if stems[name.casefold()] > 1:
            parts = Path(os.path.abspath(file)).parent.name, file.stem, file.suffix.lstrip(".")
            base = name = "_".join(filter(None, parts))
            number = 1
            while name.casefold() in taken:
                number += 1
                name = f"{base}_{number}"
            taken.add(name.casefold())
        names.append(name)
    return names


def network_view(
    image: Image.Image, size: int, centre: bool = False, source: object = "memory"
) -> tuple[Image.Image, Tensor]:
    """Return what is to be segmented of an RGB image, and what the network sees of it, uint8 (3, h, w).

    The network sees the image with its short side scaled to `size` (0: not scaled). With `centre` it sees the centre
    square of that, which is then also what is to be segmented. Raises InputError, which names `source`, if that has
    too many pixels (see check_scaled).
    """
    check_scaled(image.size, size, source)
    scaled = resize_short_side(image, size)
    if centre:
        image = scaled = centre_square(scaled)
    return image, to_tensor(scaled)


class ImageFiles(Dataset):
    """What `network_view` makes of each image file with its scribbles, or the InputError of a file that cannot be used.

    `scribbles` are label maps of `num_classes` classes by image id; an image that has none gets None.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: int,
        centre: bool = False,
        scribbles: Mapping[str, Path] | None = None,
        num_classes: int = 0,
    ) -> None:
        self.files, self.size, self.centre = files, size, centre
        self.scribbles, self.num_classes = scribbles or {}, num_classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor, np.ndarray | None] | InputError:
        file, scribble = self.files[index], None
        try:
            image, size = read_image(file, shrink=True), image_size(file)
            if image.size != size:
                shrunk = "%s: its %dx%d pixels are read as %dx%d, which is also the size of the results"
                logger.warning(shrunk, file, *size, *image.size)
            if (number := pages(file)) > 1:
                logger.warning("%s: has %d pages or frames, of which only the first is segmented", file, number)
            if path := self.scribbles.get(id_of_file(file.name)):
                scribble = read_label(path, self.num_classes)
                check_sizes(file, image.size, path, scribble)
            image, pixels = network_view(image, self.size, self.centre, file)
            if pixels[0].numel() > max(MANY, 4 * image.width * image.height):
                enlarged = "%s: its %dx%d pixels become %dx%d for the network, which takes long; lower --crop_size"
                logger.warning(enlarged, file, *image.size, *pixels.shape[:0:-1])
            return image, pixels, scribble
        except InputError as error:
            return error

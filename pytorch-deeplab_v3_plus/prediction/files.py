"""Which images to segment, what their results are called, and reading them ahead."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from dataloaders.images import IMAGE_SUFFIXES, read_image
from dataloaders.transforms import centre_square, resize_short_side, to_tensor


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the files that `words` name (files, folders and patterns), each file once.

    Folders are searched recursively, without hidden files and folders. Files are not opened here.

    Raises:
        InputError: a folder or a pattern without images.
    """
    files: dict[Path, Path] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            images = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
            found = sorted(file for file in images if "/." not in f"/{file.relative_to(path).as_posix()}")
            if not found:
                raise InputError(f"expected images ({', '.join(IMAGE_SUFFIXES)}), found none in the folder {path}")
        elif glob.has_magic(word) and not path.exists():
            found = [Path(name) for name in sorted(glob.glob(word, recursive=True)) if Path(name).is_file()]
            if not found:
                raise InputError(f"expected images, found no file that matches {word}")
        else:
            found = [path]
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def output_names(files: Sequence[Path]) -> list[str]:
    """Return a distinct name for each file's results, also on file systems that ignore case.

    The name is the file's stem. Files that share a stem get <folder>_<stem>_<suffix>, with a number where that is
    taken.
    """
    stems = Counter(file.stem.casefold() for file in files)
    taken = {stem for stem, count in stems.items() if count == 1}
    names = []
    for file in files:
        name = file.stem
        if stems[name.casefold()] > 1:
            parts = (file.resolve().parent.name, file.stem, file.suffix.lstrip("."))
            base = name = "_".join(part for part in parts if part)
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
    square of that, which is then also what is to be segmented.

    Raises:
        InputError: the network would see more pixels than Pillow's limit for reading images, as when a sliver of an
            image is scaled to gigabytes; `source` is named.
    """
    if size * size * max(image.size) / min(image.size) > Image.MAX_IMAGE_PIXELS:
        raise InputError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels when its short side is scaled to "
            f"{size}, found {image.width}x{image.height} in {source}; lower --crop_size"
        )
    scaled = resize_short_side(image, size) if size else image
    if centre:
        image = scaled = centre_square(scaled)
    return image, to_tensor(scaled)


class ImageFiles(Dataset):
    """What `network_view` makes of each image file, or the InputError of a file that cannot be used."""

    def __init__(self, files: Sequence[Path], size: int, centre: bool = False) -> None:
        self.files, self.size, self.centre = files, size, centre

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor] | InputError:
        file = self.files[index]
        try:
            return network_view(read_image(file), self.size, self.centre, file)
        except InputError as error:
            return error


def uncollated(items: list[Any]) -> list[Any]:
    """Collate a batch by leaving it a list, because images differ in size."""
    return items

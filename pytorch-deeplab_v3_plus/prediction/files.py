"""Which images, how their results are called, and reading them ahead."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from dataloaders.images import IMAGE_SUFFIXES, read_image


def find_images(words: Sequence[str]) -> list[Path]:
    """Return the files that the words name: files, folders and patterns; each file once.

    Folders count with all below them, but for hidden ones.
    Raises InputError for a folder or a pattern without images. A file is not looked at here.
    """
    files: dict[Path, Path] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in IMAGE_SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
            )
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
    """Return a name for each file's results, no two alike, on file systems that ignore case too.

    It is the file's stem. Files that share a stem get <folder>_<stem>_<suffix>, and a number where that is taken.
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


class ImageFiles(Dataset):
    """The images as (picture, network's input), or the InputError of a file that cannot be used.

    Args:
        files: the files.
        view: makes the pair of an RGB image and its file: the picture that the result shall fit, and the input
            (3, h, w).
    """

    def __init__(self, files: Sequence[Path], view: Callable[[Image.Image, Path], tuple[Image.Image, Tensor]]) -> None:
        self.files, self.view = files, view

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Tensor] | InputError:
        try:
            return self.view(read_image(self.files[index]), self.files[index])
        except InputError as error:
            return error


def keep(items: list[Any]) -> list[Any]:
    """Collate a batch by leaving it a list, since images differ in size."""
    return items

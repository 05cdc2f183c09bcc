"""Data sets by name."""

import importlib
import logging
import pkgutil
from pathlib import Path as FilePath

from common.errors import InputError
from dataloaders import datasets
from dataloaders.datasets.pascal import VOCSegmentation
from mypath import Path

logger = logging.getLogger(__name__)


def data_set_names() -> list[str]:
    """Return the names that ``--dataset`` takes."""
    return sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))


def find_data_set(name: str) -> type[VOCSegmentation]:
    """Import dataloaders/datasets/<name>.py and return its VOCSegmentation (sub)class, or raise InputError."""
    if name not in data_set_names():
        raise InputError(
            f"expected a data set out of {', '.join(data_set_names())}, found '{name}': write "
            f"dataloaders/datasets/{name}.py, or use --data-root FOLDER --classes FILE"
        )
    module = importlib.import_module(f"{datasets.__name__}.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, VOCSegmentation) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise InputError(
            f"expected one class derived from pascal.VOCSegmentation, found {len(classes)} in "
            f"{module.__file__}: keep one data set a file"
        )
    return classes[0]


def default_name(data_root: str | None) -> str:
    if data_root:
        return FilePath(data_root).resolve().name
    folder = FilePath(Path.db_root_dir("pascal"))
    if folder.is_dir():
        return "pascal"
    logger.info("no PASCAL VOC at %s: using the synthetic data set, which the project draws itself", folder)
    return "synthetic"

"""Data sets by name or by folder."""

import importlib
import logging
import pkgutil
from collections.abc import Callable
from pathlib import Path as FilePath

from common.errors import InputError
from dataloaders import datasets
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.layout import find_class_names, read_class_names
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
            f"dataloaders/datasets/{name}.py, or use --data-root FOLDER"
        )
    module = importlib.import_module(f"{datasets.__name__}.{name}")
    own = (value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__)
    classes = [value for value in own if isinstance(value, type) and issubclass(value, VOCSegmentation)]
    if len(classes) != 1:
        raise InputError(
            f"expected one class derived from pascal.VOCSegmentation, found {len(classes)} in {module.__file__}: keep "
            "one data set a file"
        )
    return classes[0]


def choose_data_set(options) -> tuple[str, Callable[[str], VOCSegmentation]]:
    """Return the name of the data set that the options ask for, and a function that opens one of its splits."""
    where = () if options.data_root is None else (options.data_root,)
    if options.dataset is None and options.data_root:
        name, data_set = FilePath(options.data_root).resolve().name, VOCSegmentation
        class_names = find_class_names(options.data_root, options.classes)
    else:
        name = options.dataset or default_name()
        data_set = find_data_set(name)
        class_names = read_class_names(options.classes) if options.classes else None
    return name, lambda split: data_set(options, *where, split=split, class_names=class_names)


def default_name() -> str:
    """Return pascal where its folder exists, otherwise synthetic."""
    folder = FilePath(Path.db_root_dir("pascal"))
    if folder.is_dir():
        return "pascal"
    logger.info("no PASCAL VOC at %s: using the synthetic data set, which the project draws itself", folder)
    return "synthetic"

"""Where each data set lives on this machine.

Environment variables override the folders named here:

* ``RLOSS_<DATASET>_ROOT`` (``RLOSS_PASCAL_ROOT``, ...) names the folder of one data set;
* ``DATA_ROOT`` replaces ``/data/datasets`` in every path that this file names.
"""

import os
import pathlib
import re

from common.errors import InputError

DEFAULT_DATA_ROOT = "/data/datasets"
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def root_variable(dataset: str) -> str:
    """Return the name of the environment variable that says where ``dataset`` lives."""
    return f"RLOSS_{re.sub(r'[^A-Z0-9]', '_', dataset.upper())}_ROOT"


class Path:
    """The folders of the data sets."""

    @staticmethod
    def db_root_dir(dataset: str) -> str:
        """Return the folder of a data set; raise InputError for a name that is neither listed nor overridden."""
        if override := os.environ.get(root_variable(dataset)):
            return override
        folder, data_root = Path.listed(dataset), os.environ.get("DATA_ROOT")
        if data_root and folder.startswith(f"{DEFAULT_DATA_ROOT}/"):
            folder = os.path.join(data_root, folder.removeprefix(f"{DEFAULT_DATA_ROOT}/"))
        return folder

    @staticmethod
    def listed(dataset: str) -> str:
        """Return the folder that this file names for a data set."""
        if dataset == "pascal":
            return "/data/datasets/VOCdevkit/VOC2012/"
        elif dataset == "synthetic":
            return str(REPOSITORY / "data" / "synthetic")
        # A new data set is one more `elif` here.
        else:
            raise InputError(
                f"no folder is known for the data set '{dataset}': add `elif dataset == '{dataset}': return "
                f"'{DEFAULT_DATA_ROOT}/{dataset}/'` to {__file__}, or set {root_variable(dataset)} to its folder"
            )

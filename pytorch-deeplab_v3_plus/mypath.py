"""Where each data set lives on this machine.

Environment variables override the folders named here:

* ``DATA_ROOT`` replaces ``/data/datasets`` in every path;
* ``RLOSS_<DATASET>_ROOT`` (``RLOSS_PASCAL_ROOT``, ...) names the folder of one data set.
"""

import functools
import os
import pathlib
import re

from common.errors import InputError

DEFAULT_DATA_ROOT = "/data/datasets"
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def root_variable(dataset: str) -> str:
    """Return the name of the environment variable that says where ``dataset`` lives."""
    return f"RLOSS_{re.sub(r'[^A-Z0-9]', '_', dataset.upper())}_ROOT"


def _environment_first(db_root_dir):
    """Let the environment override the folder that ``db_root_dir`` returns.

    It is a decorator so that the function below stays the plain chain into which new data sets are pasted.
    """

    @functools.wraps(db_root_dir)
    def overridden(dataset: str) -> str:
        folder = os.environ.get(root_variable(dataset)) or db_root_dir(dataset)
        data_root = os.environ.get("DATA_ROOT")
        if data_root and folder.startswith(DEFAULT_DATA_ROOT + "/"):
            folder = os.path.join(data_root, folder[len(DEFAULT_DATA_ROOT) + 1 :])
        return folder

    return overridden


class Path:
    """The folders of the data sets."""

    @staticmethod
    @_environment_first
    def db_root_dir(dataset: str) -> str:
        """Return the folder of the data set named ``dataset``; raise InputError for a name that is not listed."""
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

"""From a folder to a batch."""

from dataloaders.loaders import Loaders, make_data_loader
from dataloaders.options import DataOptions

__all__ = ["DataOptions", "Loaders", "make_data_loader"]

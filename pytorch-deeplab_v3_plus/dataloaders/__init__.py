"""From a folder to a batch."""

from dataloaders.loaders import Loaders, make_data_loader

__all__ = ["Loaders", "make_data_loader"]

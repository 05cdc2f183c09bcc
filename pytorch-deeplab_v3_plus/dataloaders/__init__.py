"""From a folder to a batch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataloaders.loaders import Loaders, make_data_loader
    from dataloaders.options import DataOptions

__all__ = ["DataOptions", "Loaders", "make_data_loader"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for: data sets are prepared by modules of this room without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{'options' if name == 'DataOptions' else 'loaders'}"), name)

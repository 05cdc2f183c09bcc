"""Draw, train, look and correct in a browser; optional, nothing imports it but annotate.py."""

import common  # noqa: F401 (before PyTorch: how OpenMP's threads wait)

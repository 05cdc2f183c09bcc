"""Draw, train, look and correct in a browser; optional, nothing imports it but annotate.py."""

"""The sizes at which networks see images."""

DEFAULT_CROP = 513
SMALL_CROP = 129  # of the preset that train_two_stages.py takes for large images


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return (width, height) scaled to ``short_side``; the long side is rounded down, as in the original."""
    width, height = size
    if width < height:
        return short_side, int(1.0 * height * short_side / width)
    return int(1.0 * width * short_side / height), short_side

"""The bilateral filter on tensors, on CPU and GPU, and the mean-field inference that uses it."""

from filtering.bilateral import Lattice, bilateral_filter

__all__ = ["Lattice", "bilateral_filter"]

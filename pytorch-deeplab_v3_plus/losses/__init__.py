"""The cross-entropies, and the regularised losses by name."""

from losses.registry import RegulariserOptions, build_regulariser, parse_regulariser, register

__all__ = ["RegulariserOptions", "build_regulariser", "parse_regulariser", "register"]

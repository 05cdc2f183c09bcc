"""The cross-entropies, and the regularised losses by name."""

from losses.registry import REGULARISERS, build_regulariser, register

__all__ = ["REGULARISERS", "build_regulariser", "register"]

"""Bilateral filtering of tensors: the operator A of the DenseCRF loss."""

from filtering.bilateral import bilateral_filter

__all__ = ["bilateral_filter"]

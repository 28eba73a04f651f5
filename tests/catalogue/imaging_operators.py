"""Operators on images in space: convolution, blur, resampling, finite differences."""

from catalogue.rows import OperatorRow

OPERATORS: tuple[OperatorRow, ...] = ()

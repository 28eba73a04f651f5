"""Operators by a transform: Fourier, MRI, cosine, wavelets, tomography."""

from catalogue.rows import OperatorRow

OPERATORS: tuple[OperatorRow, ...] = ()

"""Gradient methods, methods for positive problems, and wrappers."""

from catalogue.rows import AlgorithmRow

ALGORITHMS: tuple[AlgorithmRow, ...] = ()

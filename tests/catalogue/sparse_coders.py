"""The LISTA family."""

from catalogue.rows import AlgorithmRow

ALGORITHMS: tuple[AlgorithmRow, ...] = ()

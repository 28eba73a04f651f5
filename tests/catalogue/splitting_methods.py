"""Splitting and primal-dual methods, classical and with learned denoisers."""

from catalogue.rows import AlgorithmRow

ALGORITHMS: tuple[AlgorithmRow, ...] = ()

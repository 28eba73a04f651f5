"""Solvers against those of other libraries: Lasso, total variation, ADMM and the primal-dual hybrid gradient method."""

from experiments.benchmarks import lasso, variation
from experiments.benchmarks.rows import Row

NOTE = (
    "Lasso: 256 problems of 256 measurements and 307 unknowns, each to a duality gap of at most 1e-4 of its objective; "
    "tolerances of the others are the loosest of two per decade that reach it, found before the timing, and step sizes "
    "are known beforehand where a method needs one. Images: 256 x 256, total variation to 1e-4 of the objective, "
    "or as many iterations of the same method on both sides. Ratios are the other's seconds over the library's, "
    "per problem; the library solves a batch in one program."
)


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    return [*lasso.measure(quick), *variation.measure(quick)]

"""Batches of Lasso problems, and what it means to have solved them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.harness import Side

GAP = 1e-4
"""Of each problem's objective."""


class Problems(NamedTuple):
    """A batch of Lasso problems.

    Attributes:
        matrices: `(num or 1, m, n)`, of unit columns; one for all, or one each.
        measurements: `(num, m)`.
        l1_weight: of all.
        norms: `(num or 1,)`, of the matrices.
    """

    matrices: np.ndarray
    measurements: np.ndarray
    l1_weight: float
    norms: np.ndarray

    def matrix(self, index: int) -> np.ndarray:
        """The matrix of one problem."""
        return self.matrices[index if len(self.matrices) > 1 else 0]

    def gap(self, codes: Any) -> float:
        """The largest duality gap relative to the objective, of the first problems: as many as there are codes."""
        codes = np.asarray(codes, float)
        matrices = np.asarray(self.matrices[: len(codes)], float)
        measurements = np.asarray(self.measurements[: len(codes)], float)
        if len(self.matrices) == 1:
            residuals = measurements - codes @ matrices[0].T
            correlations = np.abs(residuals @ matrices[0]).max(axis=1)
        else:
            residuals = measurements - np.einsum("imn,in->im", matrices, codes)
            correlations = np.abs(np.einsum("imn,im->in", matrices, residuals)).max(axis=1)
        value = (residuals**2).sum(axis=1) / 2 + self.l1_weight * np.abs(codes).sum(axis=1)
        dual = np.minimum(1, self.l1_weight / correlations)[:, None] * residuals
        return float(np.max((value - (dual * (measurements - dual / 2)).sum(axis=1)) / value))


def make_problems(num: int, size: tuple[int, int], is_shared: bool) -> Problems:
    """Sparse codes seen through Gaussian matrices with noise; the weight is a tenth of what makes all codes vanish."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((1 if is_shared else num, *size))
    matrices /= np.linalg.norm(matrices, axis=1, keepdims=True)
    codes = rng.standard_normal((num, size[1])) * (rng.random((num, size[1])) < 0.1)
    measurements = np.stack([matrices[0 if is_shared else i] @ codes[i] for i in range(num)])
    measurements += 0.01 * rng.standard_normal(measurements.shape)
    correlations = [np.abs(matrices[0 if is_shared else i].T @ measurements[i]).max() for i in range(num)]
    norms = np.linalg.norm(matrices, ord=2, axis=(1, 2))
    return Problems(
        matrices.astype(np.float32), measurements.astype(np.float32), 0.1 * float(np.median(correlations)), norms
    )


def gap_side(problems: Problems, run: Callable[[], Any], num: int) -> Side:
    """A side that solves the first `num` problems, and stands against FISTA by its own duality gap."""
    # float64 codes of others are judged as they are, and single precision may lose a digit of the gap
    return Side(run, "FISTA", 1.1 * GAP, num, lambda codes, _: problems.gap(codes))


def loosest(problems: Problems, make: Callable[[Any], Callable[[], Any]], choices: Sequence[Any]) -> Callable[[], Any]:
    """What `make` makes of the first of the choices, from cheap to dear, that reaches the duality gap.

    By steps that double, and then halves between the last that fails and the first that does not.
    """
    runs = {}

    def reaches(index: int) -> bool:
        runs[index] = make(choices[index])
        return problems.gap(runs[index]()) <= GAP

    failing, index, stride = -1, 0, 1
    while not reaches(index):
        failing, index, stride = index, min(index + stride, len(choices) - 1), 2 * stride
        if failing == index:
            raise ValueError(f"no setting up to {choices[-1]} reaches the duality gap")
    while index - failing > 1:
        middle = (failing + index) // 2
        failing, index = (failing, middle) if reaches(middle) else (middle, index)
    return runs[index]


def batch_of(problems: Problems) -> tuple[int | None, tuple[jax.Array, jax.Array, jax.Array]]:
    """The axis of matrices and steps, and the matrices, measurements and steps of a solver under vmap."""
    axis = None if len(problems.matrices) == 1 else 0
    matrices, steps = jnp.asarray(problems.matrices), jnp.asarray(1 / problems.norms**2, jnp.float32)
    first = lambda array: array[0] if axis is None else array
    return axis, (first(matrices), jnp.asarray(problems.measurements), first(steps))

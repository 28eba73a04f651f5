"""Gradient methods, methods for positive problems, and wrappers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import REAL, draw

from catalogue.algorithms import L1_WEIGHT, NUM_ATOMS, NUM_MEASUREMENTS
from catalogue.rows import AlgorithmRow
from unroll_jax import algorithms, objectives, operators, prox


def _least_squares(rng: np.random.Generator, dtype: str) -> objectives.LeastSquares:
    matrix = draw(rng, (NUM_MEASUREMENTS, NUM_ATOMS), dtype)
    return objectives.LeastSquares(operators.Dense(matrix), draw(rng, (NUM_MEASUREMENTS,), dtype))


def _lasso(rng: np.random.Generator, dtype: str) -> objectives.Lasso:
    smooth = _least_squares(rng, dtype)
    return objectives.Lasso(smooth.operator, smooth.measurement, jnp.asarray(L1_WEIGHT, jnp.finfo(dtype).dtype))


def _counts(rng: np.random.Generator, dtype: str) -> objectives.LeastSquares:
    return jax.tree.map(jnp.abs, _least_squares(rng, dtype))


def _lipschitz(problem: Any) -> jax.Array:
    return operators.operator_norm(problem.operator) ** 2


def _proximal_params(problem: Any) -> Any:
    return algorithms.proximal_gradient_params(problem.operator, L1_WEIGHT)


ISTA = algorithms.proximal_gradient()
# once in complex numbers: these take long to compile, or are like others
FEWER = (*REAL, "complex64")

ALGORITHMS: tuple[AlgorithmRow, ...] = (
    AlgorithmRow(
        "gradient_descent",
        algorithms.gradient_descent(),
        _least_squares,
        lambda problem: algorithms.gradient_descent_params(_lipschitz(problem)),
    ),
    AlgorithmRow(
        "heavy_ball",
        algorithms.heavy_ball(),
        _least_squares,
        lambda problem: algorithms.heavy_ball_params(_lipschitz(problem), 0.1),
        FEWER,
    ),
    AlgorithmRow(
        "nesterov",
        algorithms.nesterov(),
        _least_squares,
        lambda problem: algorithms.nesterov_params(_lipschitz(problem), 0.1),
        FEWER,
    ),
    AlgorithmRow(
        "accelerated_gradient",
        algorithms.accelerated_gradient(),
        _least_squares,
        lambda problem: algorithms.accelerated_gradient_params(_lipschitz(problem), 0.1),
    ),
    AlgorithmRow(
        "safeguarded_agd",
        algorithms.safeguarded_agd(prox=prox.soft_threshold),
        _least_squares,
        lambda problem: algorithms.safeguarded_agd_params(_lipschitz(problem), 0.1, L1_WEIGHT),
        FEWER,
    ),
    AlgorithmRow(
        "adagd",
        algorithms.adagd(),
        _least_squares,
        lambda problem: algorithms.adagd_params(0.1 / _lipschitz(problem)),
    ),
    AlgorithmRow(
        "nmapg",
        algorithms.nmapg(prox=prox.soft_threshold),
        _lasso,
        lambda problem: algorithms.nmapg_params(3 / _lipschitz(problem), L1_WEIGHT),
        FEWER,
    ),
    AlgorithmRow(
        "mirror_descent on a simplex",
        algorithms.mirror_descent(simplex=True),
        _least_squares,
        lambda problem: algorithms.gradient_descent_params(_lipschitz(problem)),
        REAL,
    ),
    AlgorithmRow(
        "mlem",
        algorithms.mlem(),
        _counts,
        lambda problem: algorithms.mlem_params(problem.operator, problem.measurement),
        REAL,
    ),
    AlgorithmRow(
        "sirt",
        algorithms.sirt(project=prox.non_negative),
        _counts,
        lambda problem: algorithms.sirt_params(problem.operator, problem.measurement, 1.5),
        REAL,
    ),
    AlgorithmRow(
        "relaxed proximal_gradient",
        algorithms.relaxed(ISTA),
        _least_squares,
        lambda problem: algorithms.relaxed_params(_proximal_params(problem), 1.5),
        FEWER,
    ),
    AlgorithmRow("averaged proximal_gradient", algorithms.averaged(ISTA), _least_squares, _proximal_params, FEWER),
    AlgorithmRow(
        "monotone fista",
        algorithms.monotone(algorithms.fista(), fields=("x", "extrapolated")),
        _lasso,
        _proximal_params,
        FEWER,
    ),
    AlgorithmRow("anderson proximal_gradient", algorithms.anderson(ISTA, 2), _least_squares, _proximal_params, FEWER),
)

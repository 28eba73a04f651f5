"""Proximal gradient methods, LISTA, and layer noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import REAL, draw

from catalogue.rows import AlgorithmRow
from unroll_jax import algorithms, objectives, operators, prox

NUM_MEASUREMENTS, NUM_ATOMS, L1_WEIGHT = 6, 10, 0.3


def _least_squares(rng: np.random.Generator, dtype: str) -> objectives.LeastSquares:
    matrix = draw(rng, (NUM_MEASUREMENTS, NUM_ATOMS), dtype)
    return objectives.LeastSquares(operators.Dense(matrix), draw(rng, (NUM_MEASUREMENTS,), dtype))


def _noisy_least_squares(rng: np.random.Generator, dtype: str) -> algorithms.NoisyProblem:
    key = jax.random.key(int(rng.integers(2**31)))
    return algorithms.NoisyProblem(_least_squares(rng, dtype), key)


def _proximal_params(problem: Any) -> Any:
    return algorithms.proximal_gradient_params(problem.operator, L1_WEIGHT)


def _lista_params(problem: Any) -> Any:
    return algorithms.lista_params(problem.operator, L1_WEIGHT)


def _random_lista_params(problem: Any) -> Any:
    del problem
    return algorithms.random_lista_params(jax.random.key(0), NUM_MEASUREMENTS, NUM_ATOMS)


def _gradient_norm(x: Any, problem: Any) -> jax.Array:
    return 0.1 * jnp.linalg.norm(problem.gradient(x))


ALGORITHMS = (
    AlgorithmRow("proximal_gradient", algorithms.proximal_gradient(), _least_squares, _proximal_params),
    AlgorithmRow(
        "proximal_gradient on a box",
        algorithms.proximal_gradient(prox=prox.box),
        _least_squares,
        _proximal_params,
        REAL,
    ),
    AlgorithmRow("fista", algorithms.fista(), _least_squares, _proximal_params),
    AlgorithmRow("fista without restart", algorithms.fista(restart=False), _least_squares, _proximal_params),
    AlgorithmRow("lista", algorithms.lista(), _least_squares, _lista_params),
    AlgorithmRow("lista at random", algorithms.lista(), _least_squares, _random_lista_params, REAL),
    AlgorithmRow(
        "perturbed proximal_gradient",
        algorithms.perturbed(algorithms.proximal_gradient(), _gradient_norm),
        _noisy_least_squares,
        lambda noisy: _proximal_params(noisy.problem),
        (*REAL, "complex64"),
    ),
)

"""One row per operator, proximal operator and algorithm: a new member joins the generic tests by its row.

A row's name starts with the public name that it stands for; a public name without a row fails a test.
Factories draw from a NumPy generator: no compilation, and the same numbers in every precision.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from helpers import DTYPES, REAL, draw

from unroll_jax import algorithms, objectives, operators, prox
from unroll_jax._types import Algorithm, LinearOperator, Params, Problem

Size = tuple[int, ...]


class OperatorRow(NamedTuple):
    """An operator's name, three sizes, `make(rng, size, dtype)`, and what it takes, `takes(size, dtype)`."""

    name: str
    sizes: tuple[Size, Size, Size]
    make: Callable[[np.random.Generator, Size, str], LinearOperator]
    takes: Callable[[Size, str], Any]


class ProxRow(NamedTuple):
    """A proximal operator's name, itself, and its penalty: in NumPy, one value per entry, infinite off a set."""

    name: str
    prox: Callable[..., jax.Array]
    penalty: Callable[[np.ndarray], np.ndarray]
    dtypes: tuple[str, ...] = DTYPES


class AlgorithmRow(NamedTuple):
    """An algorithm's name, itself, `make_problem(rng, dtype)`, and one layer's parameters for a problem."""

    name: str
    algorithm: Algorithm
    make_problem: Callable[[np.random.Generator, str], Problem]
    make_params: Callable[[Problem], Params]
    dtypes: tuple[str, ...] = DTYPES


def name_of(row: Any) -> str:
    return row.name


# --- operators ---

MATRIX_SIZES = ((3, 5), (5, 3), (1, 4))
ARRAY_SIZES = ((4,), (3, 5), (2, 3, 2))


def _dense(rng: np.random.Generator, size: Size, dtype: str) -> operators.Dense:
    return operators.Dense(draw(rng, size, dtype))


def _diagonal(rng: np.random.Generator, size: Size, dtype: str) -> operators.Diagonal:
    return operators.Diagonal(draw(rng, size, dtype))


def _mask(rng: np.random.Generator, size: Size, dtype: str) -> operators.Diagonal:
    # a mask is real, whatever it is applied to
    return operators.Diagonal(jnp.asarray(rng.random(size) < 0.5, np.finfo(dtype).dtype))


def _masked_dense(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.compose(_diagonal(rng, size[:1], dtype), _dense(rng, size, dtype))


def _gram_like(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    left = operators.adjoint(_dense(rng, size, dtype))
    return operators.compose(left, _diagonal(rng, size[:1], dtype), _dense(rng, size, dtype))


def _takes_last(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size[1:], jnp.dtype(dtype))


def _takes_first(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size[:1], jnp.dtype(dtype))


def _takes_all(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size, jnp.dtype(dtype))


OPERATORS = (
    OperatorRow("Dense", MATRIX_SIZES, _dense, _takes_last),
    OperatorRow("Diagonal", ARRAY_SIZES, _diagonal, _takes_all),
    OperatorRow("Diagonal as a mask", ARRAY_SIZES, _mask, _takes_all),
    OperatorRow("Composed of two", MATRIX_SIZES, _masked_dense, _takes_last),
    OperatorRow("Composed of three", MATRIX_SIZES, _gram_like, _takes_last),
    OperatorRow("Adjoint of Dense", MATRIX_SIZES, lambda *a: operators.adjoint(_dense(*a)), _takes_first),
    OperatorRow("Adjoint of Composed", MATRIX_SIZES, lambda *a: operators.adjoint(_masked_dense(*a)), _takes_first),
)


# --- proximal operators ---


def _indicator(lower: float, upper: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: np.where((z >= lower) & (z <= upper), 0.0, np.inf)


PROXES = (
    ProxRow("soft_threshold", prox.soft_threshold, np.abs),
    ProxRow("non_negative", prox.non_negative, _indicator(0, np.inf), REAL),
    ProxRow("box", prox.box, _indicator(0, 1), REAL),
    ProxRow("box off center", functools.partial(prox.box, lower=-0.5, upper=2.0), _indicator(-0.5, 2), REAL),
)


# --- algorithms ---

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

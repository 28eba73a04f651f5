"""What a row of the catalogue is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from helpers import DTYPES

from unroll_jax._types import Algorithm, LinearOperator, Params, Problem

Size = tuple[int, ...]


class OperatorRow(NamedTuple):
    """An operator's name, three sizes, `make(rng, size, dtype)`, and what it takes, `takes(size, dtype)`."""

    name: str
    sizes: tuple[Size, Size, Size]
    make: Callable[[np.random.Generator, Size, str], LinearOperator]
    takes: Callable[[Size, str], Any]


class ProxRow(NamedTuple):
    """A proximal operator with what it belongs to.

    Attributes:
        name: starts with the public name.
        prox: itself, parameters bound.
        value: its value function, with the same parameters bound.
        penalty: g in NumPy, infinite off a set: one value per entry, or `()` where there is a `minimizer`.
        dtypes: of what it takes.
        shape: of what it takes in the tests.
        minimizer: `(x, strength) -> z` in NumPy and double precision, for real `x`, by other means than the library;
            None where g is a sum over entries, whose minimizer a grid finds.
        is_convex: whether g is.
        is_set: whether g is the indicator of a set, so that the strength does not matter.
        tolerance: how exact it is in double precision, relative to `x`.
    """

    name: str
    prox: Callable[..., jax.Array]
    value: Callable[..., jax.Array]
    penalty: Callable[[np.ndarray], np.ndarray]
    dtypes: tuple[str, ...] = DTYPES
    shape: Size = (6,)
    minimizer: Callable[[np.ndarray, float], np.ndarray] | None = None
    is_convex: bool = True
    is_set: bool = False
    tolerance: float = 1e-9


class AlgorithmRow(NamedTuple):
    """An algorithm's name, itself, `make_problem(rng, dtype)`, and one layer's parameters for a problem."""

    name: str
    algorithm: Algorithm
    make_problem: Callable[[np.random.Generator, str], Problem]
    make_params: Callable[[Problem], Params]
    dtypes: tuple[str, ...] = DTYPES


def name_of(row: Any) -> str:
    return row.name

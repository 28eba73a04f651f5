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

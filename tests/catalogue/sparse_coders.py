"""The LISTA family."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from helpers import REAL, draw

from catalogue.algorithms import L1_WEIGHT, NUM_ATOMS, NUM_MEASUREMENTS
from catalogue.rows import AlgorithmRow
from unroll_jax import algorithms, objectives, operators

SUPPORT = algorithms.SupportSelection(growth=0.1, limit=0.2)


def _lasso(rng: np.random.Generator, dtype: str) -> objectives.Lasso:
    matrix = draw(rng, (NUM_MEASUREMENTS, NUM_ATOMS), dtype)
    measurement = draw(rng, (NUM_MEASUREMENTS,), dtype)
    return objectives.Lasso(operators.Dense(matrix), measurement, jnp.asarray(L1_WEIGHT, jnp.finfo(dtype).dtype))


def _params(make: Callable[..., Any], *args: Any) -> Callable[[Any], Any]:
    return lambda problem: make(problem.operator, *args)


def _open_gates(problem: Any) -> algorithms.GLISTAParams:
    params = algorithms.glista_params(problem.operator, L1_WEIGHT)
    return params._replace(gain=params.gain + 0.3, overshoot=params.overshoot + 0.1)


ALGORITHMS: tuple[AlgorithmRow, ...] = (
    AlgorithmRow("lista_cp", algorithms.lista_cp(), _lasso, _params(algorithms.lista_cp_params, L1_WEIGHT)),
    AlgorithmRow(
        "lista_cp with support selection",
        algorithms.lista_cp(support=SUPPORT),
        _lasso,
        _params(algorithms.lista_cp_params, L1_WEIGHT),
        REAL,
    ),
    AlgorithmRow("tilista", algorithms.tilista(), _lasso, _params(algorithms.tilista_params, L1_WEIGHT)),
    AlgorithmRow("alista", algorithms.alista(), _lasso, _params(algorithms.alista_params, 0.1)),
    AlgorithmRow("slista", algorithms.slista(), _lasso, _params(algorithms.slista_params)),
    AlgorithmRow("glista", algorithms.glista(support=SUPPORT), _lasso, _open_gates),
    AlgorithmRow("lamp", algorithms.lamp(), _lasso, _params(algorithms.lamp_params, 0.2)),
    AlgorithmRow("tista", algorithms.tista(), _lasso, _params(algorithms.tista_params, 0.2, 1.0, 0.01), REAL),
)

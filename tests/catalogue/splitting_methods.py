"""Splitting and primal-dual methods, classical and with learned denoisers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from catalogue.algorithms import L1_WEIGHT, NUM_ATOMS, _least_squares
from catalogue.rows import AlgorithmRow
from unroll_jax import algorithms, operators, prox


def _differences(problem: Any) -> operators.Dense:
    matrix = problem.operator.matrix
    return operators.Dense(jnp.asarray(np.diff(np.eye(NUM_ATOMS), axis=0), matrix.dtype))


def _shrink(threshold: Any, x: Any) -> Any:
    return prox.soft_threshold(x, threshold)


def _threshold(problem: Any) -> jax.Array:
    return jnp.asarray(L1_WEIGHT, jnp.finfo(problem.measurement.dtype).dtype)


def _lipschitz(problem: Any) -> jax.Array:
    return operators.operator_norm(problem.operator) ** 2


def _primal_update(params: Any, memory: Any, image: Any) -> Any:
    return memory @ params["mix"] + (image[:, None] * params["gain"]).astype(memory.dtype)


def _dual_update(params: Any, memory: Any, projection: Any, measurement: Any) -> Any:
    return memory @ params["mix"] + ((projection - measurement)[:, None] * params["gain"]).astype(memory.dtype)


def _learned_params(problem: Any) -> Any:
    rng = np.random.default_rng(0)
    dtype = problem.measurement.dtype

    def update(num_channels: int, sign: float) -> dict[str, jax.Array]:
        mix = 0.1 * rng.standard_normal((num_channels, num_channels)) - np.eye(num_channels)
        return {"mix": jnp.asarray(mix, dtype), "gain": jnp.asarray(sign * 0.05, dtype)}

    return algorithms.LearnedPrimalDualParams(update(3, -1), update(2, 1))


ALGORITHMS = (
    AlgorithmRow(
        "half_quadratic_splitting",
        algorithms.half_quadratic_splitting(),
        _least_squares,
        lambda problem: algorithms.half_quadratic_params(L1_WEIGHT, penalty=2.0, growth=0.1),
    ),
    AlgorithmRow(
        "admm",
        algorithms.admm(),
        _least_squares,
        lambda problem: algorithms.admm_params(L1_WEIGHT, penalty=2.0, relaxation=1.5),
    ),
    AlgorithmRow(
        "linearized_admm",
        algorithms.linearized_admm(_differences),
        _least_squares,
        lambda problem: algorithms.linearized_admm_params(_differences(problem), L1_WEIGHT),
    ),
    AlgorithmRow(
        "douglas_rachford",
        algorithms.douglas_rachford(),
        _least_squares,
        lambda problem: algorithms.douglas_rachford_params(L1_WEIGHT, step_size=0.5, relaxation=1.5),
    ),
    AlgorithmRow(
        "chambolle_pock",
        algorithms.chambolle_pock(),
        _least_squares,
        lambda problem: algorithms.chambolle_pock_params(
            problem.operator, primal_strength=L1_WEIGHT, strong_convexity=0.1
        ),
    ),
    AlgorithmRow(
        "condat_vu",
        algorithms.condat_vu(_differences),
        _least_squares,
        lambda problem: algorithms.condat_vu_params(
            _differences(problem), _lipschitz(problem), dual_strength=L1_WEIGHT
        ),
    ),
    AlgorithmRow(
        "learned_primal_dual",
        algorithms.learned_primal_dual(_primal_update, _dual_update, num_primal=3, num_dual=2),
        _least_squares,
        _learned_params,
    ),
    AlgorithmRow(
        "modl",
        algorithms.modl(_shrink),
        _least_squares,
        lambda problem: algorithms.modl_params(_threshold(problem), penalty=2.0),
    ),
    AlgorithmRow(
        "plug_and_play",
        algorithms.plug_and_play(_shrink),
        _least_squares,
        lambda problem: algorithms.plug_and_play_params(problem.operator, _threshold(problem), relaxation=0.8),
    ),
    AlgorithmRow(
        "plug_and_play_admm",
        algorithms.plug_and_play_admm(_shrink),
        _least_squares,
        lambda problem: algorithms.plug_and_play_admm_params(_threshold(problem), penalty=2.0, relaxation=1.2),
    ),
)

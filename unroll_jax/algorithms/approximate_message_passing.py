"""Learned approximate message passing: layers whose errors stay Gaussian."""

from typing import NamedTuple

import jax.numpy as jnp

from unroll_jax._tree import tree_norm
from unroll_jax._types import Algorithm, Array, Problem
from unroll_jax.algorithms._encoders import Start, check_dense, check_layer, log_of_positive, real_dtype_of, residual
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import Dense
from unroll_jax.prox import soft_threshold


class LAMPParams(NamedTuple):
    """Parameters of one layer of `lamp`.

    Attributes:
        encoder: `(n, m)`, applied to the corrected residual; for approximate message passing A*.
        log_threshold: `()`, the logarithm of the threshold in units of the estimated standard deviation of the error.
        scale: `()`, of the thresholded code; 1 for approximate message passing.
    """

    encoder: Array
    log_threshold: Array
    scale: Array


class LAMPState(NamedTuple):
    """State of `lamp`.

    Attributes:
        x: `(n,)`, the code.
        residual: `(m,)`, b - A x with the Onsager correction, which keeps the errors of the next layer's
            x + encoder @ residual close to Gaussian.
    """

    x: Array
    residual: Array


def lamp(start: Start = zero_start) -> Algorithm:
    """Learned approximate message passing (LAMP-l1, Borgerding, Schniter and Rangan 2017).

        x+ = scale * soft_threshold(x + encoder v, threshold * ||v|| / sqrt(m))
        v+ = b - A x+ + (scale / m) * d * v,  d the divergence of the thresholding, the number of entries not zero.

    The last term is the Onsager correction; ||v|| / sqrt(m) estimates the standard deviation of the error in
    x + encoder v, so thresholds follow the noise of each problem. With encoder A* and scale 1 it is the approximate
    message passing of Donoho, Maleki and Montanari (2009). For complex codes the divergence is that of Maleki et al.
    (2013), the sum of 1 - t / (2 |r|) over entries r of modulus above t.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.

    Returns:
        An algorithm with `LAMPParams` and `LAMPState`, on problems with `.operator` A and `.measurement` b.

    Raises:
        ValueError: from a layer, for params that do not fit the problem.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([7.0, 1.0]))  # ||v|| / sqrt(m) = 5
    >>> uj.unroll(lamp(), 1, lamp_params(operator, threshold=0.4))(problem).x.round()
    Array([5., 0.], dtype=float32)
    """

    def init(problem: Problem) -> LAMPState:
        x = start(problem)
        return LAMPState(x, residual(x, problem))

    def step(params: LAMPParams, state: LAMPState, problem: Problem) -> LAMPState:
        check_layer(params, LAMPParams._fields, "lamp_params", state.x, problem.measurement)
        num_measurements = state.residual.size
        noisy = state.x + state.residual @ params.encoder.T
        deviation = (tree_norm(state.residual) / num_measurements**0.5).astype(params.log_threshold.dtype)
        threshold = jnp.exp(params.log_threshold) * deviation
        x = params.scale * soft_threshold(noisy, threshold)
        onsager = params.scale * _divergence(noisy, threshold) / num_measurements
        return LAMPState(x, residual(x, problem) + onsager * state.residual)

    return Algorithm(init, step)


def lamp_params(operator: Dense, threshold: Array | float = 1.14) -> LAMPParams:
    """The parameters of one layer at which `lamp` is approximate message passing.

    The encoder is A* with its rows divided by the squared norms of the columns of A; where these are 1, A* itself.

    Args:
        operator: `Dense`, the dictionary, `(m, n)`, without a column of zeros.
        threshold: `()`, positive, in standard deviations of the error. The default is minimax for codes of which a
            tenth is not zero, with half as many measurements as atoms.

    Raises:
        ValueError: for a threshold that is not positive, or an operator without a matrix.

    >>> lamp_params(Dense(2 * jnp.eye(2))).encoder
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    check_dense(operator)
    adjoint, dtype = operator.matrix.T.conj(), real_dtype_of(operator)
    return LAMPParams(
        encoder=adjoint / jnp.sum(jnp.abs(adjoint) ** 2, axis=1, keepdims=True),
        log_threshold=log_of_positive("threshold", threshold, dtype),
        scale=jnp.ones((), dtype),
    )


def _divergence(x: Array, threshold: Array) -> Array:
    """The sum of the derivatives of soft_threshold(x, threshold), for complex entries the mean of both parts': `()`."""
    modulus = jnp.abs(x)
    is_kept = modulus > threshold
    if not jnp.iscomplexobj(x):
        return jnp.sum(is_kept, dtype=modulus.dtype)
    return jnp.sum(jnp.where(is_kept, 1 - threshold / (2 * jnp.where(is_kept, modulus, 1)), 0))

"""Gated LISTA: gates that make up for what thresholds take away."""

from typing import NamedTuple

import jax.numpy as jnp

from unroll_jax._types import Algorithm, Array, Problem
from unroll_jax.algorithms._encoders import Start, check_layer, first_layer, ista_step_and_threshold, residual
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.algorithms.support_selection import SupportSelection, check_support, thresholded
from unroll_jax.operators import Dense


class GLISTAParams(NamedTuple):
    """Parameters of one layer of `glista`.

    Attributes:
        encoder: `(n, m)`, applied to the residual; classically step_size * A*.
        log_threshold: `()` or `(n,)`, the logarithm of the threshold; classically log(step_size * l1_weight).
        gain: `()`, how much of the last layer's threshold the gain gate gives back: 0 leaves it out, 1 gives back all
            of it to large entries.
        overshoot: `()`, by how much of its threshold the layer goes beyond itself, where it shrank; 0 leaves it out.
        log_width: `()`, the logarithm of the size of entries below which the gates close; the unit of the code.
    """

    encoder: Array
    log_threshold: Array
    gain: Array
    overshoot: Array
    log_width: Array


class GLISTAState(NamedTuple):
    """State of `glista`.

    Attributes:
        x: `(n,)`, the code.
        shrinkage: `(n,)`, by how much the last layer's threshold moved each entry that it did not set to zero: the
            threshold, or zero where support selection let the entry pass; zero before the first layer.
        num_layers: `()`, the layers so far.
    """

    x: Array
    shrinkage: Array
    num_layers: Array


def glista(start: Start = zero_start, *, support: SupportSelection | None = None) -> Algorithm:
    """Gated LISTA (GLISTA, Wu et al. 2020): `lista_cp` whose codes first get back what thresholds took.

    With h = x * (1 + gain * s / (|x| + width)), where s is what the layer before shrank an entry by,

        z = soft_threshold(h + encoder (b - A h), threshold)
        x+ = x + (z - x) * (1 + overshoot * s+ / (|z - x| + width)).

    Soft thresholding makes every code too small by its threshold; the gain gate (the paper's "inverse proportional"
    one) puts it back before the residual is formed, and the overshoot gate lengthens steps. Here they act on the
    entries that were shrunk, and share a width; at gain = overshoot = 0 it is `lista_cp`.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.
        support: which entries pass unshrunk; None shrinks all.

    Returns:
        An algorithm with `GLISTAParams` and `GLISTAState`, on problems with `.operator` A and `.measurement` b.

    Raises:
        ValueError: for another `support`; from a layer, for params that do not fit the problem.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = glista_params(operator, l1_weight=1.0)
    >>> uj.unroll(glista(), 2, params)(problem).x.round(3)
    Array([2., 0.], dtype=float32)
    """
    check_support(support)

    def init(problem: Problem) -> GLISTAState:
        x = start(problem)
        return GLISTAState(x, jnp.zeros_like(jnp.abs(x)), first_layer())

    def step(params: GLISTAParams, state: GLISTAState, problem: Problem) -> GLISTAState:
        check_layer(params, GLISTAParams._fields, "glista_params", state.x, problem.measurement)
        layer = state.num_layers + 1
        threshold, width = jnp.exp(params.log_threshold), jnp.exp(params.log_width)
        gained = state.x * (1 + params.gain * state.shrinkage / (jnp.abs(state.x) + width))
        moved = gained + residual(gained, problem) @ params.encoder.T
        shrunk = thresholded(moved, threshold, support, layer)
        shrinkage = jnp.where(shrunk == moved, 0, jnp.broadcast_to(threshold, shrunk.shape))
        change = shrunk - state.x
        beyond = params.overshoot * shrinkage / (jnp.abs(change) + width)
        return GLISTAState(state.x + change * (1 + beyond), shrinkage, layer)

    return Algorithm(init, step)


def glista_params(operator: Dense, l1_weight: Array | float) -> GLISTAParams:
    """The parameters of one layer at which `glista` is ISTA: closed gates as wide as the threshold.

    Args:
        operator: `Dense`, the dictionary, `(m, n)`.
        l1_weight: the Lasso problem's weight, positive.

    Raises:
        ValueError: for a weight that is not positive, or an operator without a matrix.

    >>> glista_params(Dense(2 * jnp.eye(2)), l1_weight=1.0).encoder.round(3)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    step_size, threshold = ista_step_and_threshold(operator, l1_weight)
    closed = jnp.zeros((), threshold.dtype)
    return GLISTAParams(
        encoder=step_size * operator.matrix.T.conj(),
        log_threshold=jnp.log(threshold),
        gain=closed,
        overshoot=closed,
        log_width=jnp.log(threshold),
    )

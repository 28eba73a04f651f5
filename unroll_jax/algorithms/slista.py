"""ISTA with learned step sizes."""

from typing import NamedTuple

import jax.numpy as jnp

from unroll_jax._checks import check_attributes
from unroll_jax._tree import tree_add_scaled
from unroll_jax._types import Algorithm, Array, LinearOperator, Problem
from unroll_jax.algorithms._encoders import Start
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import operator_norm
from unroll_jax.prox import soft_threshold


class SLISTAParams(NamedTuple):
    """Parameters of one layer of `slista`.

    Attributes:
        log_step_size: `()`, the logarithm of the step size; classically log(1 / ||operator||^2).
    """

    log_step_size: Array


class SLISTAState(NamedTuple):
    """State of `slista`: the code `x`."""

    x: Array


def slista(start: Start = zero_start) -> Algorithm:
    """ISTA with one learned number per layer, its step size (SLISTA, Ablin et al. 2019).

    x+ = soft_threshold(x - step_size * A*(A x - b), step_size * l1_weight),  with the weight of the problem. Where few
    entries of x are not zero, the gradient's Lipschitz constant on them is smaller than ||A||^2, and longer steps
    descend faster. Any linear operator will do. The minimizer of the Lasso problem stays a fixed point whatever is
    learned, so the network can be trained on the objective, without known codes.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.

    Returns:
        An algorithm with `SLISTAParams` and `SLISTAState`, on `Lasso` problems.

    Raises:
        ValueError: from a layer, for params or a problem of another kind.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.Lasso(operator, jnp.array([3.0, 0.5]), l1_weight=1.0)
    >>> uj.unroll(slista(), 3, slista_params(operator))(problem).x.round(3)
    Array([2., 0.], dtype=float32)
    """

    def init(problem: Problem) -> SLISTAState:
        check_attributes("problem", problem, ("gradient", "l1_weight"), "Lasso(operator, measurement, l1_weight)")
        return SLISTAState(start(problem))

    def step(params: SLISTAParams, state: SLISTAState, problem: Problem) -> SLISTAState:
        check_attributes("params", params, SLISTAParams._fields, "what slista_params makes")
        step_size = jnp.exp(params.log_step_size)
        forward = tree_add_scaled(state.x, -step_size, problem.gradient(state.x))
        return SLISTAState(soft_threshold(forward, step_size * problem.l1_weight))

    return Algorithm(init, step)


def slista_params(operator: LinearOperator, like: Array | None = None) -> SLISTAParams:
    """The classical parameters of one layer, at which `slista` is ISTA: step size 1 / ||operator||^2.

    Args:
        operator: the problem's operator.
        like: what the operator takes; see `operator_norm`, which needs it for operators without a closed form.

    >>> import unroll_jax as uj
    >>> jnp.exp(slista_params(uj.operators.Dense(2 * jnp.eye(2))).log_step_size).round(3)
    Array(0.25, dtype=float32)
    """
    return SLISTAParams(-2 * jnp.log(operator_norm(operator, like)))

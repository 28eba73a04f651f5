"""The alternating direction method of multipliers, and its linearized form for g(K x)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_inside, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Problem, PyTree
from unroll_jax.algorithms._parts import (
    check_operator_function,
    check_strength,
    checked_operator,
    floats,
    problem_prox,
    scalars_like,
    times,
)
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import operator_norm
from unroll_jax.prox import soft_threshold


class ADMMParams(NamedTuple):
    """Parameters of `admm`.

    Attributes:
        penalty: `()`, positive, rho of the augmented Lagrangian; the unit of f's curvature. Any value converges.
        strength: `()`, the weight of g, non-negative; or a pytree that `prox` understands.
        relaxation: `()`, in (0, 2); 1 is the plain method, 1.5 to 1.8 is often faster.
    """

    penalty: Array
    strength: PyTree
    relaxation: Array


class ADMMState(NamedTuple):
    """State of `admm` and `linearized_admm`.

    Attributes:
        x: the estimate, the last output of `prox_data`.
        auxiliary: z, the last output of `prox`, which is sparse or in the set as that makes it; the shape of K x.
        dual: u, the multipliers divided by the penalty; the shape of K x.
    """

    x: Estimate
    auxiliary: Any
    dual: Any


class LinearizedADMMParams(NamedTuple):
    """Parameters of `linearized_admm`.

    Attributes:
        step_size: `()`, positive, at most 1 / (penalty * ||K||^2).
        penalty: `()`, positive, rho of the augmented Lagrangian.
        strength: `()`, the weight of g, non-negative; or a pytree that `prox` understands.
    """

    step_size: Array
    penalty: Array
    strength: PyTree


def admm_params(strength: PyTree, *, penalty: Array | float = 1.0, relaxation: Array | float = 1.0) -> ADMMParams:
    """Parameters of one layer of `admm`.

    Args:
        strength: the weight of g, non-negative; or a pytree that `prox` understands.
        penalty: positive; between the smallest and the largest curvature of f is a good place to start.
        relaxation: in (0, 2).

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("strength", strength)
    check_positive("penalty", penalty)
    check_inside("relaxation", relaxation, 0, 2)
    return ADMMParams(*floats(penalty, strength, relaxation))


def admm(
    prox: Callable[[Estimate, Any], Estimate] = soft_threshold,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """The alternating direction method of multipliers for f(x) + strength * g(z), x = z, in scaled form.

    With the penalty p (Boyd et al. 2011, sections 3.1 and 3.4.3):
        x+ = prox_data(z - u, 1 / p)
        v  = relaxation * x+ + (1 - relaxation) * z
        z+ = prox(v + u, strength / p)
        u+ = u + v - z+

    Args:
        prox: `(x, strength) -> x`, the proximal operator of g; soft thresholding by default.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `ADMMParams` and `ADMMState`. For g(K x) see `linearized_admm`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> uj.solve(admm(), admm_params(1.0), problem, tolerance=1e-6, max_steps=100).state.auxiliary.round(3)
    Array([2., 0.], dtype=float32)
    """

    def init(problem: Problem) -> ADMMState:
        x = start(problem)
        return ADMMState(x, x, jax.tree.map(jnp.zeros_like, x))

    def step(params: ADMMParams, state: ADMMState, problem: Problem) -> ADMMState:
        check_attributes("params", params, ADMMParams._fields, "ADMMParams, as admm_params makes them")
        penalty, strength, relaxation = scalars_like(state.x, *params)
        x = prox_data(tree_sub(state.auxiliary, state.dual), 1 / penalty, problem)
        relaxed = tree_add_scaled(state.auxiliary, relaxation, tree_sub(x, state.auxiliary))
        shifted = jax.tree.map(jnp.add, relaxed, state.dual)
        auxiliary = prox(shifted, times(1 / penalty, strength))
        return ADMMState(x, auxiliary, tree_sub(shifted, auxiliary))

    return Algorithm(init, step)


def linearized_admm_params(
    operator: LinearOperator, strength: PyTree, like: Any = None, *, penalty: Array | float = 1.0
) -> LinearizedADMMParams:
    """Parameters of one layer of `linearized_admm`: the largest step size, 1 / (penalty * ||K||^2), less 2 %.

    Args:
        operator: K.
        strength: the weight of g, non-negative; or a pytree that `prox` understands.
        like: what K takes; see `operator_norm`, which needs it for operators without a closed form.
        penalty: positive.

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("strength", strength)
    check_positive("penalty", penalty)
    norm = 1.01 * operator_norm(operator, like)  # power iteration comes from below
    return LinearizedADMMParams(*scalars_like(norm, 1 / (penalty * norm**2), penalty, strength))


def linearized_admm(
    operator: Callable[[Problem], LinearOperator],
    prox: Callable[[Any, Any], Any] = soft_threshold,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Linearized ADMM for f(x) + strength * g(z), K x = z, which solves no system with K* K.

    With the penalty p and the step size t (Parikh and Boyd 2014, section 4.4.2):
        x+ = prox_data(x - t p K*(K x - z + u), t)
        z+ = prox(K x+ + u, strength / p)
        u+ = u + K x+ - z+

    x may rest while z and u still move: give `solve` a `residual` that sees all of them.

    Args:
        operator: `problem -> K`, such as `lambda problem: differences` for total variation.
        prox: `(z, strength) -> z`, the proximal operator of g; soft thresholding by default.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `LinearizedADMMParams` and `ADMMState`.

    Raises:
        ValueError: for an `operator` that is no function of the problem.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 2.0]))
    >>> difference = uj.operators.Dense(jnp.array([[-1.0, 1.0]]))
    >>> algorithm = linearized_admm(lambda problem: difference)
    >>> params = linearized_admm_params(difference, strength=1.0)
    >>> uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=500).state.x.round(3)
    Array([2.5, 2.5], dtype=float32)
    """
    check_operator_function(operator)

    def init(problem: Problem) -> ADMMState:
        x = start(problem)
        analysis = checked_operator(operator, problem)(x)
        return ADMMState(x, analysis, jax.tree.map(jnp.zeros_like, analysis))

    def step(params: LinearizedADMMParams, state: ADMMState, problem: Problem) -> ADMMState:
        fields = LinearizedADMMParams._fields
        check_attributes("params", params, fields, "LinearizedADMMParams, as linearized_admm_params makes them")
        analysis = checked_operator(operator, problem)
        step_size, penalty, strength = scalars_like(state.x, *params)
        # K x + u - z
        constraint = tree_sub(jax.tree.map(jnp.add, analysis(state.x), state.dual), state.auxiliary)
        forward = tree_add_scaled(state.x, -step_size * penalty, analysis.adjoint(constraint))
        x = prox_data(forward, step_size, problem)
        shifted = jax.tree.map(jnp.add, analysis(x), state.dual)
        auxiliary = prox(shifted, times(1 / penalty, strength))
        return ADMMState(x, auxiliary, tree_sub(shifted, auxiliary))

    return Algorithm(init, step)

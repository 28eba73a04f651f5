"""The Condat-Vu method: minimize a smooth f(x) + g(x) + h(K x)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Problem, PyTree
from unroll_jax.algorithms._defaults import problem_gradient, slope_at
from unroll_jax.algorithms._parts import (
    ProxOfProblem,
    check_operator_function,
    check_strength,
    checked_operator,
    dual_step,
    scalars_like,
    thresholded,
    times,
    unchanged,
    zeros_of,
)
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import operator_norm


class CondatVuParams(NamedTuple):
    """Parameters of `condat_vu`.

    Attributes:
        primal_step: `()`, positive; 1 / primal_step - dual_step * ||K||^2 at least L / 2, for a gradient of f with
            Lipschitz constant L.
        dual_step: `()`, positive.
        primal_strength: `()`, the weight of g, non-negative; or a pytree that `prox_primal` understands.
        dual_strength: `()`, the weight of h, non-negative; or a pytree that `prox_dual` understands.
        relaxation: `()`, positive, below 2 - L / 2 / (1 / primal_step - dual_step * ||K||^2), which is at least 1.
    """

    primal_step: Array
    dual_step: Array
    primal_strength: PyTree
    dual_strength: PyTree
    relaxation: Array


class CondatVuState(NamedTuple):
    """State of `condat_vu`.

    Attributes:
        x: the estimate.
        dual: y, the multipliers; the shape of K x.
    """

    x: Estimate
    dual: Any


def condat_vu_params(
    operator: LinearOperator,
    lipschitz: Array | float,
    like: Any = None,
    *,
    primal_strength: PyTree = 1.0,
    dual_strength: PyTree = 1.0,
    ratio: Array | float = 1.0,
) -> CondatVuParams:
    """Parameters of one layer of `condat_vu`, whose steps keep its condition.

    dual_step = L / (2 ratio ||K||^2) and primal_step = 2 / (L (1 + 1 / ratio)), with the norm taken 1 % and L 2 % too
    large; the relaxation is 1.

    Args:
        operator: K.
        lipschitz: L of the gradient of f, positive; for least squares the square of the operator's norm.
        like: what K takes; see `operator_norm`, which needs it for operators without a closed form.
        primal_strength: the weight of g, non-negative.
        dual_strength: the weight of h, non-negative.
        ratio: positive, how much the primal step is favored.

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("primal_strength", primal_strength)
    check_strength("dual_strength", dual_strength)
    check_positive("lipschitz", lipschitz)
    check_positive("ratio", ratio)
    # power iteration comes from below, and at equality the condition proves nothing
    norm = 1.01 * operator_norm(operator, like)
    lipschitz = 1.02 * lipschitz
    primal_step = 2 / (lipschitz * (1 + 1 / ratio))
    step_size = lipschitz / (2 * ratio * norm**2)
    return CondatVuParams(*scalars_like(norm, primal_step, step_size, primal_strength, dual_strength, 1.0))


def condat_vu(
    operator: Callable[[Problem], LinearOperator],
    prox_primal: ProxOfProblem = unchanged,
    prox_dual: ProxOfProblem = thresholded,
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """The Condat-Vu method for f(x) + primal_strength * g(x) + dual_strength * h(K x), f smooth.

    With the steps t and s (Condat 2013, algorithm 3.1; Vu 2013):
        x' = prox of t primal_strength g    at x - t (gradient(x) + K* y)
        y' = prox of s (dual_strength h)* at y + s K (2 x' - x)
        (x, y)+ = (x, y) + relaxation * ((x', y') - (x, y))

    For an inverse problem under total variation: `gradient` that of the data term, K = differences, g the indicator
    of the non-negative images. No system is solved.

    x may rest while the multipliers still move: give `solve` a `residual` that sees both.

    Args:
        operator: `problem -> K`, such as `lambda problem: differences`.
        prox_primal: `(x, strength, problem) -> x`, the proximal operator of g; by default g = 0.
        prox_dual: `(y, strength, problem) -> y`, the proximal operator **of h**, not of its conjugate, for y of the
            shape of K x; soft thresholding by default.
        gradient: `(x, problem) -> gradient of f`; the problem's own by default.
        start: `problem -> x` before the first iteration; the multipliers start at zero.

    Returns:
        An algorithm with `CondatVuParams` and `CondatVuState`.

    Raises:
        ValueError: for an `operator` that is no function of the problem.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 2.0]))
    >>> difference = uj.operators.Dense(jnp.array([[-1.0, 1.0]]))
    >>> algorithm = condat_vu(lambda problem: difference)
    >>> params = condat_vu_params(difference, lipschitz=1.0, dual_strength=1.0)
    >>> uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=500).state.x.round(3)
    Array([2.5, 2.5], dtype=float32)
    """
    check_operator_function(operator)

    def init(problem: Problem) -> CondatVuState:
        x = start(problem)
        return CondatVuState(x, zeros_of(checked_operator(operator, problem), x))

    def step(params: CondatVuParams, state: CondatVuState, problem: Problem) -> CondatVuState:
        fields = CondatVuParams._fields
        check_attributes("params", params, fields, "CondatVuParams, as condat_vu_params makes them")
        linear = checked_operator(operator, problem)
        primal_step, step_size, primal_strength, dual_strength, relaxation = scalars_like(state.x, *params)
        descent = jax.tree.map(jnp.add, slope_at(gradient, state.x, problem), linear.adjoint(state.dual))
        backward = tree_add_scaled(state.x, -primal_step, descent)
        x = prox_primal(backward, times(primal_step, primal_strength), problem)
        reflected = jax.tree.map(lambda new, old: 2 * new - old, x, state.x)
        forward = tree_add_scaled(state.dual, step_size, linear(reflected))
        dual = dual_step(prox_dual, forward, step_size, dual_strength, problem)
        return CondatVuState(
            tree_add_scaled(state.x, relaxation, tree_sub(x, state.x)),
            tree_add_scaled(state.dual, relaxation, tree_sub(dual, state.dual)),
        )

    return Algorithm(init, step)

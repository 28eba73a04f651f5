"""The primal-dual hybrid gradient method: minimize f(x) + g(K x) without solving any system with K."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_non_negative, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Problem, PyTree
from unroll_jax.algorithms._defaults import real_dtype
from unroll_jax.algorithms._parts import (
    ProxOfProblem,
    check_operator_function,
    check_strength,
    checked_operator,
    dual_step,
    problem_operator,
    scalars_like,
    thresholded,
    times,
    zeros_of,
)
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import operator_norm


class ChambollePockParams(NamedTuple):
    """Parameters of `chambolle_pock`.

    Attributes:
        primal_step: `()`, positive; primal_step * dual_step * ||K||^2 at most 1.
        dual_step: `()`, positive.
        primal_strength: `()`, the weight of f, non-negative; or a pytree that `prox_primal` understands.
        dual_strength: `()`, the weight of g, non-negative; or a pytree that `prox_dual` understands.
        extrapolation: `()`, theta, in [0, 1]; 1 is the method whose convergence is proven.
        strong_convexity: `()`, non-negative, a modulus of primal_strength * f, which the steps then adapt to; 0 for
            steps that stay.
    """

    primal_step: Array
    dual_step: Array
    primal_strength: PyTree
    dual_strength: PyTree
    extrapolation: Array
    strong_convexity: Array


class ChambollePockState(NamedTuple):
    """State of `chambolle_pock`.

    Attributes:
        x: the estimate.
        dual: y, the multipliers; the shape of K x.
        extrapolated: where K is applied next; the shape of `x`.
        scale: `()`, what the primal step is multiplied by and the dual one divided by; 1 at the start.
    """

    x: Estimate
    dual: Any
    extrapolated: Estimate
    scale: Array


def chambolle_pock_params(
    operator: LinearOperator,
    like: Any = None,
    *,
    primal_strength: PyTree = 1.0,
    dual_strength: PyTree = 1.0,
    ratio: Array | float = 1.0,
    strong_convexity: Array | float = 0.0,
) -> ChambollePockParams:
    """Parameters of one layer of `chambolle_pock`: steps ratio / ||K|| and 1 / (ratio ||K||), less 1 % each.

    Args:
        operator: K.
        like: what K takes; see `operator_norm`, which needs it for operators without a closed form.
        primal_strength: the weight of f, non-negative.
        dual_strength: the weight of g, non-negative.
        ratio: positive, how much the primal step is favored, (primal_step / dual_step)^(1/2); the size of x relative
            to that of the multipliers is a good choice.
        strong_convexity: a modulus of primal_strength * f, non-negative.

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("primal_strength", primal_strength)
    check_strength("dual_strength", dual_strength)
    check_positive("ratio", ratio)
    check_non_negative("strong_convexity", strong_convexity)
    norm = 1.01 * operator_norm(operator, like)  # power iteration comes from below
    return ChambollePockParams(
        *scalars_like(norm, ratio / norm, 1 / (ratio * norm), primal_strength, dual_strength, 1.0, strong_convexity)
    )


def _prox_of_distance(y: Any, strength: Array, problem: Problem) -> Any:
    """The proximal operator of ||y - measurement||^2 / 2."""
    check_attributes("problem", problem, ("measurement",), "LeastSquares(operator, measurement), say, or a `prox_dual`")

    def entry(a: Array, b: Array) -> Array:
        return (a + strength.astype(a.dtype) * b) / (1 + strength).astype(a.dtype)

    return jax.tree.map(entry, y, problem.measurement)


def chambolle_pock(
    operator: Callable[[Problem], LinearOperator] = problem_operator,
    prox_primal: ProxOfProblem = thresholded,
    prox_dual: ProxOfProblem = _prox_of_distance,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """The primal-dual hybrid gradient method for primal_strength * f(x) + dual_strength * g(K x).

    With the steps t and s (Chambolle and Pock 2011, algorithms 1 and 2):
        y+     = prox of s (dual_strength g)* at y + s K x_bar
        x+     = prox of t primal_strength f  at x - t K* y+
        theta  = extrapolation / (1 + 2 strong_convexity t)^(1/2)
        x_bar+ = x+ + theta (x+ - x)

    Where f is strongly convex, t+ = t / (1 + 2 strong_convexity t)^(1/2) and s+ = s t / t+, which makes
    ||x - solution||^2 fall as 1 / iterations^2.

    Either side may hold the data. The defaults solve f = ||x||_1, weighted by `primal_strength`, with
    g(K x) = ||operator(x) - measurement||^2 / 2. Total variation denoising has the data on the primal side,
    `prox_primal=lambda x, strength, problem: problem.prox(x, strength)`, and K = differences. With differences and the
    measurement's operator stacked into K, g is a sum and `prox_dual` takes both parts at once.

    x may rest while the multipliers still move, at zero to begin with: give `solve` a `residual` that sees both.

    Args:
        operator: `problem -> K`; the problem's own by default.
        prox_primal: `(x, strength, problem) -> x`, the proximal operator of f.
        prox_dual: `(y, strength, problem) -> y`, the proximal operator **of g**, for y of the shape of K x. That of
            its conjugate is made here. `strength` has the structure of `dual_strength`, so that the terms of a sum may
            have weights of their own.
        start: `problem -> x` before the first iteration; the multipliers start at zero.

    Returns:
        An algorithm with `ChambollePockParams` and `ChambollePockState`.

    Raises:
        ValueError: for an `operator` that is no function of the problem.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> params = chambolle_pock_params(problem.operator, primal_strength=1.0)
    >>> change = lambda old, new, problem: jnp.linalg.norm(new.x - old.x) + jnp.linalg.norm(new.dual - old.dual)
    >>> uj.solve(chambolle_pock(), params, problem, tolerance=1e-6, max_steps=100, residual=change).state.x.round(3)
    Array([2., 0.], dtype=float32)
    """
    check_operator_function(operator)

    def init(problem: Problem) -> ChambollePockState:
        x = start(problem)
        dual = zeros_of(checked_operator(operator, problem), x)
        return ChambollePockState(x, dual, x, jnp.ones((), real_dtype(x)))

    def step(params: ChambollePockParams, state: ChambollePockState, problem: Problem) -> ChambollePockState:
        fields = ChambollePockParams._fields
        check_attributes("params", params, fields, "ChambollePockParams, as chambolle_pock_params makes them")
        linear = checked_operator(operator, problem)
        primal_step, step_size, primal_strength, dual_strength, extrapolation, modulus = scalars_like(state.x, *params)
        primal_step, step_size = primal_step * state.scale, step_size / state.scale
        forward = tree_add_scaled(state.dual, step_size, linear(state.extrapolated))
        dual = dual_step(prox_dual, forward, step_size, dual_strength, problem)
        backward = tree_add_scaled(state.x, -primal_step, linear.adjoint(dual))
        x = prox_primal(backward, times(primal_step, primal_strength), problem)
        # not rsqrt, whose value at 1 is not 1 on every device: the scale would drift
        shrinkage = 1 / jnp.sqrt(1 + 2 * modulus * primal_step)
        extrapolated = tree_add_scaled(x, extrapolation * shrinkage, tree_sub(x, state.x))
        return ChambollePockState(x, dual, extrapolated, state.scale * shrinkage)

    return Algorithm(init, step)

"""Adaptive gradient descent: step sizes from the curvature that was met on the way."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_positive
from unroll_jax._tree import tree_add_scaled, tree_norm, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, Problem
from unroll_jax.algorithms._defaults import as_float, problem_gradient, real_dtype, slope_at
from unroll_jax.algorithms.proximal import zero_start


class AdaGDParams(NamedTuple):
    """Parameters of `adagd`.

    Attributes:
        first_step_size: `()`, positive: the step size of the first iteration only.
    """

    first_step_size: Array


class AdaGDState(NamedTuple):
    """State of `adagd`.

    Attributes:
        x: the estimate.
        previous: the estimate before; the shape of `x`.
        gradient: the gradient at `previous`, zero at the start; the shape of `x`.
        step_size: `()`, that of the last step, 0 at the start.
        growth: `()`, the last step size relative to the one before, infinite as long as there were no two.
    """

    x: Estimate
    previous: Estimate
    gradient: Estimate
    step_size: Array
    growth: Array


def adagd_params(first_step_size: Array | float = 1e-5) -> AdaGDParams:
    """The parameter of `adagd`: a first step size far below 1 / L, after which the second one is measured.

    The change of the gradient over that step must still be seen above rounding: in float32 take 1e-3 / L or more.

    Args:
        first_step_size: `()`, positive.

    Raises:
        ValueError: for a step size that is not positive.

    >>> adagd_params(0.125)
    AdaGDParams(first_step_size=Array(0.125, dtype=float32))
    """
    check_positive("first_step_size", first_step_size)
    return AdaGDParams(as_float(first_step_size))


def adagd(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
    project: Callable[[Estimate], Estimate] | None = None,
) -> Algorithm:
    """Adaptive gradient descent without a Lipschitz constant (Malitsky and Mishchenko 2020).

    x+ = x - a gradient(x), where the step size is
    a = min(sqrt(1 + growth) a_previous, ||x - x_previous|| / (2 ||gradient(x) - gradient(x_previous)||)),
    growth = a_previous / (the one before). It converges for every convex objective with a locally Lipschitz
    gradient, and its objective may rise on the way. Where the gradient did not change, the step size only grows; where
    the estimate did not move, it stays.

    Args:
        gradient: `(x, problem) -> gradient of the objective`; the problem's own by default.
        start: `problem -> x` before the first iteration.
        project: `x -> x`, onto a convex set, after every step: `prox.non_negative`, say. Common for images, but
            outside the theorem.

    Returns:
        An algorithm with `AdaGDParams` and `AdaGDState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.diag(jnp.array([100.0, 10.0])))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([300.0, 50.0]))
    >>> solution = uj.solve(adagd(), adagd_params(), problem, tolerance=1e-6, max_steps=2000)
    >>> bool(jnp.allclose(solution.state.x, jnp.array([3.0, 5.0]), rtol=1e-4))
    True
    """

    def init(problem: Problem) -> AdaGDState:
        x = start(problem)
        real = real_dtype(x)
        return AdaGDState(x, x, jax.tree.map(jnp.zeros_like, x), jnp.zeros((), real), jnp.full((), jnp.inf, real))

    def step(params: AdaGDParams, state: AdaGDState, problem: Problem) -> AdaGDState:
        check_attributes("params", params, AdaGDParams._fields, "AdaGDParams, as adagd_params makes them")
        slope = slope_at(gradient, state.x, problem)
        step_size, growth = _step_size(params, state, slope)
        x = tree_add_scaled(state.x, -step_size, slope)
        return AdaGDState(x if project is None else project(x), state.x, slope, step_size, growth)

    return Algorithm(init, step)


def _step_size(params: AdaGDParams, state: AdaGDState, slope: Estimate) -> tuple[Array, Array]:
    """The step size, and its growth: finite also where nothing moved or bent, in value and derivative."""
    last = state.step_size
    first = jnp.asarray(params.first_step_size).astype(last.dtype)
    moved = tree_norm(tree_sub(state.x, state.previous)).astype(last.dtype)
    bent = tree_norm(tree_sub(slope, state.gradient)).astype(last.dtype)
    is_first, is_bent, is_free = last == 0, bent > 0, jnp.isinf(state.growth)
    measured = moved / (2 * jnp.where(is_bent, bent, 1))
    # an infinite growth means no limit from the last step, which only the curvature then sets
    limit = jnp.sqrt(1 + jnp.where(is_free, 0, state.growth)) * last
    step_size = jnp.where(is_bent, jnp.where(is_free, measured, jnp.minimum(limit, measured)), limit)
    step_size = jnp.where(moved > 0, step_size, last)
    growth = jnp.where(is_first, jnp.inf, step_size / jnp.where(is_first, 1, last))
    return jnp.where(is_first, first, step_size), growth

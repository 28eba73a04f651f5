"""Accelerated gradient methods: a momentum that grows, and what holds it back."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_non_negative, check_ordered, check_positive
from unroll_jax._tree import tree_add_scaled, tree_real_vdot, tree_sub, tree_where
from unroll_jax._types import Algorithm, Array, Estimate, Problem
from unroll_jax.algorithms._defaults import as_float, no_penalty, problem_gradient, real_dtype, slope_at
from unroll_jax.algorithms.proximal import FISTAState, zero_start


class AcceleratedGradientParams(NamedTuple):
    """Parameters of `accelerated_gradient`.

    Attributes:
        step_size: `()`, positive, at most 1 / L for a gradient with Lipschitz constant L.
        strong_convexity: `()`, mu in [0, L], 0 where it is not known: the objective minus mu ||x||^2 / 2 is convex.
    """

    step_size: Array
    strong_convexity: Array


class SafeguardedAGDParams(NamedTuple):
    """Parameters of `safeguarded_agd`.

    Attributes:
        step_size: `()`, positive, at most 1 / L for a gradient with Lipschitz constant L.
        weak_convexity: `()`, rho >= 0: the smooth part plus rho ||x||^2 / 2 is convex; 0 for convex ones.
        strength: `()`, the weight of the term behind `prox`, non-negative.
    """

    step_size: Array
    weak_convexity: Array
    strength: Array


class SafeguardedAGDState(NamedTuple):
    """State of `safeguarded_agd`.

    Attributes:
        x: the estimate.
        extrapolated: where the next gradient will be taken, unless it turns out to lie uphill; the shape of `x`.
        base: where the last step started from; the shape of `x`. The objective falls along these points.
        momentum: `()`, the sequence t of the method, 1 at the start and after a restart.
    """

    x: Estimate
    extrapolated: Estimate
    base: Estimate
    momentum: Array


def accelerated_gradient_params(
    lipschitz: Array | float, strong_convexity: Array | float = 0.0
) -> AcceleratedGradientParams:
    """The classical parameters: step size 1 / lipschitz.

    Args:
        lipschitz: `()`, the Lipschitz constant of the gradient, positive; for `LeastSquares` with the operator A it
            is `operator_norm(A) ** 2`.
        strong_convexity: `()`, in [0, lipschitz], 0 where it is not known.

    Raises:
        ValueError: for constants outside these ranges.

    >>> accelerated_gradient_params(4.0).step_size
    Array(0.25, dtype=float32)
    """
    check_positive("lipschitz", lipschitz)
    check_non_negative("strong_convexity", strong_convexity)
    check_ordered("strong_convexity", strong_convexity, "lipschitz", lipschitz)
    step_size = 1 / as_float(lipschitz)
    return AcceleratedGradientParams(step_size, jnp.asarray(strong_convexity, step_size.dtype))


def safeguarded_agd_params(
    lipschitz: Array | float, weak_convexity: Array | float, strength: Array | float = 0.0, *, margin: float = 1.001
) -> SafeguardedAGDParams:
    """The classical parameters: step size 1 / lipschitz, and the weak convexity with a margin.

    Args:
        lipschitz: `()`, the Lipschitz constant of the gradient, positive.
        weak_convexity: `()`, rho >= 0: the smooth part plus rho ||x||^2 / 2 is convex. That of lambda * R, with R
            1-weakly convex, is lambda.
        strength: `()`, the weight of the term behind `prox`, non-negative.
        margin: a factor on the weak convexity, at least 1, against rounding.

    Raises:
        ValueError: for constants outside these ranges.

    >>> safeguarded_agd_params(4.0, 0.5, margin=1.0).weak_convexity
    Array(0.5, dtype=float32)
    """
    check_positive("lipschitz", lipschitz)
    check_non_negative("weak_convexity", weak_convexity)
    check_non_negative("strength", strength)
    if not margin >= 1:
        raise ValueError(f"`margin` must be at least 1, got {margin}: the weak convexity may not be understated.")
    step_size = 1 / as_float(lipschitz)
    weak_convexity = margin * jnp.asarray(weak_convexity, step_size.dtype)
    return SafeguardedAGDParams(step_size, weak_convexity, jnp.asarray(strength, step_size.dtype))


def accelerated_gradient(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
    *,
    restart: bool = True,
) -> Algorithm:
    """Nesterov's accelerated gradient method, with a momentum that grows, and with adaptive restart.

    x+ = z - step_size * gradient(z) and z+ = x+ + momentum * (x+ - x), where the momentum is that of Chambolle and
    Pock (2016, algorithm 5): with q = step_size * strong_convexity and t = 1 at the start,
    t+ = (1 - q t^2 + sqrt((1 - q t^2)^2 + 4 t^2)) / 2  and  momentum = (t - 1) / t+ * (1 - t+ q) / (1 - q),
    which is Nesterov's sequence of 1983 for q = 0, and tends to the momentum of `nesterov_params` for q > 0. Where it
    points uphill, <gradient(z), x+ - x> > 0, it starts again from nothing (O'Donoghue and Candes 2015).

    Without restart and for convex objectives the error of the objective after k steps is at most
    min(2 / (k + 1)^2, (1 + sqrt(q)) (1 - sqrt(q))^k / 2) ||x_0 - x*||^2 / step_size. It is `fista` without a prox.

    Args:
        gradient: `(x, problem) -> gradient of the objective`; the problem's own by default.
        start: `problem -> x` before the first iteration.
        restart: False for the original method.

    Returns:
        An algorithm with `AcceleratedGradientParams` and `FISTAState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.diag(jnp.array([1.0, 0.1])))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = accelerated_gradient_params(1.0)
    >>> solution = uj.solve(accelerated_gradient(), params, problem, tolerance=1e-7, max_steps=500)
    >>> bool(jnp.allclose(solution.state.x, jnp.array([3.0, 5.0]), rtol=1e-4))
    True
    """

    def init(problem: Problem) -> FISTAState:
        x = start(problem)
        return FISTAState(x, x, jnp.ones((), real_dtype(x)))

    def step(params: AcceleratedGradientParams, state: FISTAState, problem: Problem) -> FISTAState:
        fields = AcceleratedGradientParams._fields
        made_by = "AcceleratedGradientParams, as accelerated_gradient_params makes them"
        check_attributes("params", params, fields, made_by)
        slope = slope_at(gradient, state.extrapolated, problem)
        x = tree_add_scaled(state.extrapolated, -params.step_size, slope)
        change = tree_sub(x, state.x)
        t = state.momentum
        q = jnp.asarray(params.step_size * params.strong_convexity).astype(t.dtype)
        shrunk = 1 - q * t**2
        t_next = (shrunk + jnp.sqrt(shrunk**2 + 4 * t**2)) / 2
        # q = 1 is a Hessian 1 / step_size, for which one step without momentum is enough
        momentum = jnp.where(q < 1, (t - 1) / t_next * (1 - t_next * q) / jnp.where(q < 1, 1 - q, 1), 0)
        extrapolated = tree_add_scaled(x, momentum, change)
        if restart:
            points_uphill = tree_real_vdot(slope, change) > 0
            t_next = jnp.where(points_uphill, 1, t_next)
            extrapolated = tree_where(points_uphill, x, extrapolated)
        return FISTAState(x, extrapolated, t_next)

    return Algorithm(init, step)


def safeguarded_agd(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    prox: Callable[[Estimate, Array], Estimate] = no_penalty,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Accelerated gradient descent for weakly convex objectives, with a safeguard that needs no objective.

    From the extrapolated point z+ = x+ + (t - 1) / t+ * (x+ - x), with t as in `fista`, a step is made only if
    <gradient(z), z - z_base> + weak_convexity / 2 * ||z - z_base||^2 <= 0, where z_base is where the last step started
    from; else it starts from x, and the momentum from nothing. Then x+ = prox(z - step_size * gradient(z),
    step_size * strength) (Goujon, Neumayer, Unser 2024, arXiv 2308.10542).

    The condition bounds the objective at z by that at z_base, because of weak convexity; and the step to x does not
    raise it. So for step sizes up to 1 / L, and without a prox, the objective falls along the points the steps start
    from, whatever the momentum. With a projection on a convex set it does as long as these points lie in the set.

    Args:
        gradient: `(x, problem) -> gradient of the smooth part`; the problem's own by default.
        prox: `(x, strength) -> x`, the proximal operator of the other part: nothing by default; `prox.non_negative`
            for images, say.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `SafeguardedAGDParams` and `SafeguardedAGDState`.

    >>> import unroll_jax as uj
    >>> double_well = safeguarded_agd(lambda x, problem: x**3 - x, start=lambda problem: problem)
    >>> params = safeguarded_agd_params(lipschitz=11.0, weak_convexity=1.0)
    >>> uj.solve(double_well, params, jnp.asarray(2.0), tolerance=1e-6, max_steps=200).state.x.round(3)
    Array(1., dtype=float32)
    """

    def init(problem: Problem) -> SafeguardedAGDState:
        x = start(problem)
        return SafeguardedAGDState(x, x, x, jnp.ones((), real_dtype(x)))

    def step(params: SafeguardedAGDParams, state: SafeguardedAGDState, problem: Problem) -> SafeguardedAGDState:
        fields = SafeguardedAGDParams._fields
        check_attributes("params", params, fields, "SafeguardedAGDParams, as safeguarded_agd_params makes them")
        slope = slope_at(gradient, state.extrapolated, problem)
        shift = tree_sub(state.extrapolated, state.base)
        rise = tree_real_vdot(slope, shift) + params.weak_convexity / 2 * tree_real_vdot(shift, shift)
        may_rise = rise > 0
        base = tree_where(may_rise, state.x, state.extrapolated)
        slope = jax.lax.cond(may_rise, lambda: gradient(state.x, problem), lambda: slope)
        forward = tree_add_scaled(base, -params.step_size, slope)
        x = prox(forward, params.step_size * params.strength)
        t = jnp.where(may_rise, 1, state.momentum)
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        extrapolated = tree_add_scaled(x, (t - 1) / t_next, tree_sub(x, state.x))
        return SafeguardedAGDState(x, extrapolated, base, t_next)

    return Algorithm(init, step)

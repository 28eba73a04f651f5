"""Proximal gradient methods: minimize f(x) + strength * g(x), f smooth and g with a known proximal operator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_non_negative, check_operator, check_takes
from unroll_jax._tree import tree_add_scaled, tree_real_vdot, tree_sub, tree_where
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Problem
from unroll_jax.algorithms._defaults import problem_gradient, slope_at
from unroll_jax.operators import operator_norm
from unroll_jax.prox import soft_threshold


class ProximalGradientParams(NamedTuple):
    """Parameters of `proximal_gradient` and `fista`.

    Attributes:
        step_size: `()`, positive, below 2 / L for a gradient with Lipschitz constant L (1 / L for `fista`).
        strength: `()`, the weight of g, non-negative.
    """

    step_size: Array
    strength: Array


class ProximalGradientState(NamedTuple):
    """State of `proximal_gradient`: the estimate `x`."""

    x: Estimate


class FISTAState(NamedTuple):
    """State of `fista`.

    Attributes:
        x: the estimate.
        extrapolated: where the next gradient is taken; the shape of `x`.
        momentum: `()`, the sequence t of the method, 1 at the start and after a restart.
    """

    x: Estimate
    extrapolated: Estimate
    momentum: Array


def proximal_gradient_params(
    operator: LinearOperator, strength: Array | float, like: Any = None
) -> ProximalGradientParams:
    """The classical parameters for least squares with `operator`: step size 1 / ||operator||^2.

    Args:
        operator: the operator of the least-squares term.
        strength: the weight of g, non-negative.
        like: what the operator takes; see `operator_norm`, which needs it for operators without a closed form.

    Raises:
        ValueError: for a negative strength.
    """
    check_non_negative("strength", strength)
    step_size = 1 / operator_norm(operator, like) ** 2
    return ProximalGradientParams(step_size, jnp.asarray(strength, step_size.dtype))


def zero_start(problem: Problem) -> Estimate:
    """Zeros in the shape of `problem.operator.adjoint(problem.measurement)`.

    Raises:
        ValueError: for a problem without these two, or of whole numbers.
    """
    check_attributes("problem", problem, ("operator", "measurement"), "LeastSquares(operator, measurement), say")
    check_operator("operator", problem.operator)
    try:
        shape = jax.eval_shape(problem.operator.adjoint, problem.measurement)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"This came up for a `measurement` of shape {jax.tree.map(jnp.shape, problem.measurement)}, which must be "
            "one that the problem's `operator` makes; batches go through jax.vmap."
        )
        raise
    for leaf in jax.tree.leaves(shape):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                "`measurement` must be of a floating-point or complex type, or its `operator`, "
                f"got {leaf.dtype} from operator.adjoint(measurement). Convert it: measurement.astype(float)."
            )
    check_takes("operator", problem.operator, shape)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)


def proximal_gradient(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    prox: Callable[[Estimate, Array], Estimate] = soft_threshold,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Proximal gradient descent, x+ = prox(x - step_size * gradient(x), step_size * strength).

    With the defaults it is ISTA (Daubechies et al. 2004) on a `LeastSquares` or `Lasso` problem.

    Args:
        gradient: `(x, problem) -> gradient of f`; the problem's own by default.
        prox: `(x, strength) -> x`, the proximal operator of g; soft thresholding by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `ProximalGradientParams` and `ProximalGradientState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = proximal_gradient_params(operator, strength=1.0)
    >>> uj.solve(proximal_gradient(), params, problem, tolerance=1e-6, max_steps=100).state.x
    Array([2., 0.], dtype=float32)
    """

    def init(problem: Problem) -> ProximalGradientState:
        return ProximalGradientState(start(problem))

    def step(params: ProximalGradientParams, state: ProximalGradientState, problem: Problem) -> ProximalGradientState:
        return ProximalGradientState(_forward_backward(gradient, prox, params, state.x, problem))

    return Algorithm(init, step)


def fista(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    prox: Callable[[Estimate, Array], Estimate] = soft_threshold,
    start: Callable[[Problem], Estimate] = zero_start,
    *,
    restart: bool = True,
) -> Algorithm:
    """Accelerated proximal gradient descent (Beck and Teboulle 2009), with adaptive restart.

    Where the momentum points uphill, <extrapolated - x+, x+ - x> > 0, it starts again from nothing (the gradient
    scheme of O'Donoghue and Candes 2015), which gives the linear rate of the well-conditioned case without knowing it.

    Args:
        gradient: as in `proximal_gradient`.
        prox: as in `proximal_gradient`.
        start: as in `proximal_gradient`.
        restart: False for the original method.

    Returns:
        An algorithm with `ProximalGradientParams` and `FISTAState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.diag(jnp.array([1.0, 0.1])))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = proximal_gradient_params(operator, strength=0.01)
    >>> slow, fast = (
    ...     uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=2000)
    ...     for algorithm in (proximal_gradient(), fista()))
    >>> bool(fast.num_steps < slow.num_steps / 4)
    True
    """

    def init(problem: Problem) -> FISTAState:
        x = start(problem)
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).dtype
        return FISTAState(x, x, jnp.ones((), real))

    def step(params: ProximalGradientParams, state: FISTAState, problem: Problem) -> FISTAState:
        x = _forward_backward(gradient, prox, params, state.extrapolated, problem)
        change = tree_sub(x, state.x)
        momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        extrapolated = tree_add_scaled(x, (state.momentum - 1) / momentum, change)
        if restart:
            points_uphill = tree_real_vdot(tree_sub(state.extrapolated, x), change) > 0
            momentum = jnp.where(points_uphill, 1, momentum)
            extrapolated = tree_where(points_uphill, x, extrapolated)
        return FISTAState(x, extrapolated, momentum)

    return Algorithm(init, step)


def _forward_backward(
    gradient: Callable[[Estimate, Problem], Estimate],
    prox: Callable[[Estimate, Array], Estimate],
    params: ProximalGradientParams,
    x: Estimate,
    problem: Problem,
) -> Estimate:
    fields = ProximalGradientParams._fields
    check_attributes("params", params, fields, "ProximalGradientParams, as proximal_gradient_params makes them")
    forward = tree_add_scaled(x, -params.step_size, slope_at(gradient, x, problem))
    return prox(forward, params.step_size * params.strength)

"""Splitting methods: minimize f(x) + strength * g(x), each of f and g met through its proximal operator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_inside, check_non_negative, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, Problem, PyTree
from unroll_jax.algorithms._defaults import real_dtype
from unroll_jax.algorithms._parts import check_strength, floats, problem_prox, scalars_like, times
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.prox import soft_threshold


class HalfQuadraticParams(NamedTuple):
    """Parameters of `half_quadratic_splitting`.

    Attributes:
        penalty: `()`, positive, the weight of ||x - z||^2 / 2; the unit of f's curvature.
        strength: `()`, the weight of g, non-negative; or a pytree that `prox` understands.
        growth: `()`, non-negative: the penalty of iteration k, from 0, is penalty * (1 + growth * k).
    """

    penalty: Array
    strength: PyTree
    growth: Array


class HalfQuadraticState(NamedTuple):
    """State of `half_quadratic_splitting`.

    Attributes:
        x: the estimate, the last output of `prox_data`.
        auxiliary: z, the last output of `prox`; the shape of `x`.
        scale: `()`, by how much the penalty has grown, 1 at the start.
    """

    x: Estimate
    auxiliary: Estimate
    scale: Array


class DouglasRachfordParams(NamedTuple):
    """Parameters of `douglas_rachford`.

    Attributes:
        step_size: `()`, positive, of both proximal operators; the inverse unit of f's curvature. Any value converges.
        strength: `()`, the weight of g, non-negative; or a pytree that `prox` understands.
        relaxation: `()`, in (0, 2); 1 is the plain method.
    """

    step_size: Array
    strength: PyTree
    relaxation: Array


class DouglasRachfordState(NamedTuple):
    """State of `douglas_rachford`.

    Attributes:
        x: the estimate, the last output of `prox_data`.
        governing: the sequence that the method iterates; the shape of `x`.
    """

    x: Estimate
    governing: Estimate


def half_quadratic_params(
    strength: PyTree, *, penalty: Array | float = 1.0, growth: Array | float = 0.0
) -> HalfQuadraticParams:
    """Parameters of one layer of `half_quadratic_splitting`.

    Args:
        strength: the weight of g, non-negative; or a pytree that `prox` understands.
        penalty: positive.
        growth: non-negative.

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("strength", strength)
    check_positive("penalty", penalty)
    check_non_negative("growth", growth)
    return HalfQuadraticParams(*floats(penalty, strength, growth))


def half_quadratic_splitting(
    prox: Callable[[Estimate, Any], Estimate] = soft_threshold,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Half-quadratic splitting (Geman and Yang 1995), z+ = prox(x, strength / p), x+ = prox_data(z+, 1 / p).

    It alternates over x and z in  f(x) + strength * g(z) + p ||x - z||^2 / 2.  For a constant penalty p its limit
    minimizes f plus the Moreau envelope of strength * g (the l1 norm becomes a Huber function), which is closer to
    f + strength * g the larger p is. Toward the minimizer of f + strength * g itself lead penalties that grow
    linearly, `growth` > 0: the steps 1 / p then have an infinite sum and a finite sum of squares (Passty 1979), and the
    distance falls as one over the iterations. A network takes any schedule, with one penalty per layer and no growth.

    Args:
        prox: `(x, strength) -> x`, the proximal operator of g; soft thresholding by default.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `HalfQuadraticParams` and `HalfQuadraticState`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> params = half_quadratic_params(1.0, penalty=1.0)
    >>> uj.solve(half_quadratic_splitting(), params, problem, tolerance=1e-6, max_steps=100).state.x.round(2)
    Array([2.  , 0.25], dtype=float32)
    """

    def init(problem: Problem) -> HalfQuadraticState:
        x = start(problem)
        return HalfQuadraticState(x, x, jnp.ones((), real_dtype(x)))

    def step(params: HalfQuadraticParams, state: HalfQuadraticState, problem: Problem) -> HalfQuadraticState:
        check_attributes(
            "params", params, HalfQuadraticParams._fields, "HalfQuadraticParams, as half_quadratic_params makes them"
        )
        penalty, strength, growth = scalars_like(state.x, *params)
        step_size = 1 / (penalty * state.scale)
        auxiliary = prox(state.x, times(step_size, strength))
        x = prox_data(auxiliary, step_size, problem)
        return HalfQuadraticState(x, auxiliary, state.scale + growth)

    return Algorithm(init, step)


def douglas_rachford_params(
    strength: PyTree, *, step_size: Array | float = 1.0, relaxation: Array | float = 1.0
) -> DouglasRachfordParams:
    """Parameters of one layer of `douglas_rachford`.

    Args:
        strength: the weight of g, non-negative; or a pytree that `prox` understands.
        step_size: positive; the inverse of a typical curvature of f is a good place to start.
        relaxation: in (0, 2).

    Raises:
        ValueError: for values out of these ranges.
    """
    check_strength("strength", strength)
    check_positive("step_size", step_size)
    check_inside("relaxation", relaxation, 0, 2)
    return DouglasRachfordParams(*floats(step_size, strength, relaxation))


def douglas_rachford(
    prox: Callable[[Estimate, Any], Estimate] = soft_threshold,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Douglas-Rachford splitting (Lions and Mercier 1979; Eckstein and Bertsekas 1992).

    With the step size t and the governing sequence v:
        x+ = prox_data(v, t)
        v+ = v + relaxation * (prox(2 x+ - v, t * strength) - x+)

    Args:
        prox: `(x, strength) -> x`, the proximal operator of g; soft thresholding by default.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> v` before the first iteration.

    Returns:
        An algorithm with `DouglasRachfordParams` and `DouglasRachfordState`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> params = douglas_rachford_params(1.0)
    >>> uj.solve(douglas_rachford(), params, problem, tolerance=1e-6, max_steps=100).state.x.round(3)
    Array([2., 0.], dtype=float32)
    """

    def init(problem: Problem) -> DouglasRachfordState:
        governing = start(problem)
        return DouglasRachfordState(governing, governing)

    def step(params: DouglasRachfordParams, state: DouglasRachfordState, problem: Problem) -> DouglasRachfordState:
        fields = DouglasRachfordParams._fields
        check_attributes("params", params, fields, "DouglasRachfordParams, as douglas_rachford_params makes them")
        step_size, strength, relaxation = scalars_like(state.x, *params)
        x = prox_data(state.governing, step_size, problem)
        reflected = jax.tree.map(lambda a, b: 2 * a - b, x, state.governing)
        change = tree_sub(prox(reflected, times(step_size, strength)), x)
        return DouglasRachfordState(x, tree_add_scaled(state.governing, relaxation, change))

    return Algorithm(init, step)

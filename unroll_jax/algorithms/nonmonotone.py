"""Nonmonotone accelerated proximal gradient: backtracking on the objective, for what is not convex."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_count, check_inside, check_non_negative, check_positive
from unroll_jax._tree import tree_add_scaled, tree_real_vdot, tree_sub, tree_where
from unroll_jax._types import Algorithm, Array, Estimate, Problem
from unroll_jax.algorithms._defaults import as_float, no_penalty, problem_gradient, problem_value, real_dtype, slope_at
from unroll_jax.algorithms.proximal import zero_start


class NMAPGParams(NamedTuple):
    """Parameters of `nmapg`.

    Attributes:
        step_size: `()`, positive: where the first search starts; 1 / L where L is known, else rather too large.
        strength: `()`, the weight of the term behind `prox`, non-negative.
    """

    step_size: Array
    strength: Array


class NMAPGState(NamedTuple):
    """State of `nmapg`.

    Attributes:
        x: the estimate.
        previous: the estimate before; the shape of `x`.
        accelerated: the last accelerated step, taken or not; the shape of `x`.
        base: where that step started from; the shape of `x`.
        gradient: the gradient at `base`; the shape of `x`.
        momentum: `()`, the sequence t of the method, 0 at the start.
        reference: `()`, a running mean of the objective, below which every new estimate lies.
        weight: `()`, the weight of that mean.
        step_size: `()`, that of the last step, 0 at the start.
        num_backtracks: `()`, the step sizes that the last iteration refused.
        accepted: `()`, whether it found one that it did not refuse; else `x` stayed.
    """

    x: Estimate
    previous: Estimate
    accelerated: Estimate
    base: Estimate
    gradient: Estimate
    momentum: Array
    reference: Array
    weight: Array
    step_size: Array
    num_backtracks: Array
    accepted: Array


class _Trial(NamedTuple):
    x: Estimate
    value: Array
    decrease: Array  # what the objective must fall by
    step_size: Array
    num_backtracks: Array


def nmapg_params(step_size: Array | float, strength: Array | float = 0.0) -> NMAPGParams:
    """The parameters of `nmapg`.

    Args:
        step_size: `()`, positive, where the first search starts.
        strength: `()`, the weight of the term behind `prox`, non-negative.

    Raises:
        ValueError: for values outside these ranges.

    >>> nmapg_params(0.5)
    NMAPGParams(step_size=Array(0.5, dtype=float32), strength=Array(0., dtype=float32))
    """
    check_positive("step_size", step_size)
    check_non_negative("strength", strength)
    step_size = as_float(step_size)
    return NMAPGParams(step_size, jnp.asarray(strength, step_size.dtype))


def nmapg(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    value: Callable[[Estimate, Problem], Array] = problem_value,
    prox: Callable[[Estimate, Array], Estimate] = no_penalty,
    start: Callable[[Problem], Estimate] = zero_start,
    *,
    shrink: float = 0.9,
    max_backtracks: int = 100,
    decrease: float = 0.1,
    memory: float = 0.8,
) -> Algorithm:
    """Nonmonotone accelerated proximal gradient with backtracking (Li and Lin 2015), for f + strength * g.

    No Lipschitz constant is needed, and neither f nor g need be convex. With t as in `fista`, an accelerated step z is
    made from y = x + t_previous / t * (z - x) + (t_previous - 1) / t * (x - x_previous): z+ = prox(y - a gradient(y),
    a strength), where a starts at the step size of Barzilai and Borwein, |<r, s>| / ||r||^2 for the last changes s of
    the point and r of the gradient, and shrinks until F(z+) <= max(F(y), c) - decrease / a * ||z+ - y||^2. If then
    F(z+) > c - decrease / a * ||z+ - y||^2, a step from x itself is searched too, and the better one is taken. c is the
    mean of the objectives so far with weights memory^age, so they may rise for a while, but none above c.

    The published condition has a decrease of its own unit in place of decrease / a; ours does not change with the
    scale of the objective or of the estimate. A rounding error of F is forgiven. Derivatives are those of the steps
    found: how often a search shrank is constant almost everywhere.

    Args:
        gradient: `(x, problem) -> gradient of f`; the problem's own by default.
        value: `(x, problem) -> ()`, the **whole** objective F = f + strength * g; the problem's own by default, so a
            `Lasso` goes with `prox.soft_threshold` and its l1_weight as strength.
        prox: `(x, strength) -> x`, the proximal operator of g; nothing by default.
        start: `problem -> x` before the first iteration.
        shrink: what a refused step size is multiplied by, in (0, 1).
        max_backtracks: how often at most, at least 1.
        decrease: how much of ||z - y||^2 / a the objective must fall, in (0, 1/2).
        memory: in [0, 1): 0 lets no objective rise.

    Returns:
        An algorithm with `NMAPGParams` and `NMAPGState`.

    Raises:
        ValueError: for settings outside these ranges.

    >>> import unroll_jax as uj
    >>> lasso = uj.objectives.Lasso(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]), l1_weight=1.0)
    >>> algorithm = nmapg(prox=uj.prox.soft_threshold)
    >>> uj.solve(algorithm, nmapg_params(1.0, strength=1.0), lasso, tolerance=1e-6, max_steps=100).state.x
    Array([2., 0.], dtype=float32)
    """
    check_count("max_backtracks", max_backtracks)
    check_inside("shrink", shrink, 0.0, 1.0)
    check_inside("decrease", decrease, 0.0, 0.5)
    if not 0 <= memory < 1:
        raise ValueError(f"`memory` must lie in [0, 1), got {memory}: 0 lets no objective rise.")

    def init(problem: Problem) -> NMAPGState:
        x = start(problem)
        real = real_dtype(x)
        nothing = jnp.zeros((), real)
        reference = value(x, problem).astype(real)
        flat = jax.tree.map(jnp.zeros_like, x)
        return NMAPGState(
            x, x, x, x, flat, nothing, reference, 1 + nothing, nothing, jnp.zeros((), int), jnp.asarray(True)
        )

    def search(
        params: NMAPGParams, point: Estimate, slope: Estimate, state: NMAPGState, bound: Array, problem: Problem
    ) -> _Trial:
        first = _spectral_step_size(params, point, slope, state)

        def trial(num_backtracks: Array, values: Any) -> _Trial:
            params, point, slope, first, problem = values
            step_size = first * jnp.asarray(shrink, first.dtype) ** num_backtracks.astype(first.dtype)
            forward = tree_add_scaled(point, -step_size, slope)
            x = prox(forward, step_size * jnp.asarray(params.strength).astype(first.dtype))
            change = tree_sub(x, point)
            needed = decrease * tree_real_vdot(change, change).astype(first.dtype) / step_size
            return _Trial(x, value(x, problem).astype(first.dtype), needed, step_size, num_backtracks)

        values = (params, point, slope, first, problem)
        # the count is constant almost everywhere: it is found without derivatives, also of what functions close over
        example = jnp.zeros((), int)
        fixed, closed = jax.closure_convert(trial, example, values)
        at_rest, closed = _without_derivatives((values, closed))

        def is_refused(num_backtracks: Array) -> Array:
            found = fixed(num_backtracks, at_rest, *closed)
            return (num_backtracks < max_backtracks) & ~_falls(found, jax.lax.stop_gradient(bound))

        count = jax.lax.while_loop(is_refused, lambda num_backtracks: num_backtracks + 1, example)
        return trial(count, values)

    def step(params: NMAPGParams, state: NMAPGState, problem: Problem) -> NMAPGState:
        check_attributes("params", params, NMAPGParams._fields, "NMAPGParams, as nmapg_params makes them")
        t = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        point = tree_add_scaled(state.x, state.momentum / t, tree_sub(state.accelerated, state.x))
        point = tree_add_scaled(point, (state.momentum - 1) / t, tree_sub(state.x, state.previous))
        slope = slope_at(gradient, point, problem)
        bound = jnp.maximum(value(point, problem).astype(t.dtype), state.reference)
        fast = search(params, point, slope, state, bound, problem)

        def from_x() -> _Trial:
            slow = search(params, state.x, gradient(state.x, problem), state, state.reference, problem)
            better = tree_where(fast.value <= slow.value, fast, slow)
            return better._replace(num_backtracks=fast.num_backtracks + slow.num_backtracks)

        taken = jax.lax.cond(_falls(fast, state.reference), lambda: fast, from_x)
        accepted = _falls(taken._replace(decrease=jnp.zeros_like(taken.decrease)), state.reference)
        # the objective of an x that stays is not above the mean, which then serves as well
        objective = jnp.where(accepted, taken.value, state.reference)
        weight = memory * state.weight + 1
        share = 1 / weight
        return NMAPGState(
            x=tree_where(accepted, taken.x, state.x),
            previous=state.x,
            accelerated=fast.x,
            base=point,
            gradient=slope,
            momentum=t,
            reference=(1 - share) * state.reference + share * objective,
            weight=weight,
            step_size=taken.step_size,
            num_backtracks=taken.num_backtracks,
            accepted=accepted,
        )

    return Algorithm(init, step)


def _spectral_step_size(params: NMAPGParams, point: Estimate, slope: Estimate, state: NMAPGState) -> Array:
    """|<r, s>| / ||r||^2 for the changes s of the point and r of the gradient; the last step size without any."""
    dtype = state.step_size.dtype
    first = jnp.asarray(params.step_size).astype(dtype)
    last = jnp.where(state.step_size > 0, state.step_size, first)
    moved, bent = tree_sub(point, state.base), tree_sub(slope, state.gradient)
    bending = tree_real_vdot(bent, bent).astype(dtype)
    product = jnp.abs(tree_real_vdot(bent, moved)).astype(dtype)
    is_measured = (bending > 0) & (product > 0)
    return jnp.where(is_measured, product / jnp.where(is_measured, bending, 1), last)


def _falls(trial: _Trial, bound: Array) -> Array:
    rounding = 4 * jnp.finfo(bound.dtype).eps * jnp.abs(bound)
    return trial.value <= bound - trial.decrease + rounding


def _without_derivatives(tree: Any) -> Any:
    def stop(leaf: Any) -> Any:
        return jax.lax.stop_gradient(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    return jax.tree.map(stop, tree)

"""Stopping rules of `solve`: `(previous state, state, problem) -> ()`, compared with its tolerance."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes
from unroll_jax._tree import tree_norm, tree_sub
from unroll_jax._types import Array, Problem, State, estimate_of


def relative_change(previous: State, state: State, problem: Problem) -> Array:
    """||x - x_previous|| / ||x||, which has no unit: `()`. It is 0 where both are 0.

    A slow method changes little in a step and may still be far from the solution; see `state_change` for primal-dual
    methods.

    >>> relative_change(jnp.array([3.0, 3.0]), jnp.array([3.0, 4.0]), None)
    Array(0.2, dtype=float32)
    """
    return _ratio(absolute_change(previous, state, problem), tree_norm(estimate_of(state)))


def absolute_change(previous: State, state: State, problem: Problem) -> Array:
    """||x - x_previous||, in the unit of the estimate: `()`; how far the last state was from a fixed point.

    >>> absolute_change(jnp.array([3.0, 3.0]), jnp.array([3.0, 4.0]), None)
    Array(1., dtype=float32)
    """
    del problem
    return tree_norm(tree_sub(estimate_of(state), estimate_of(previous)))


def state_change(previous: State, state: State, problem: Problem) -> Array:
    """||s - s_previous|| / ||s|| over all numbers of a state, multipliers too: `()`. It is 0 where both are 0.

    For primal-dual methods, whose estimate may rest in its first steps while the multipliers already move.

    >>> state_change((jnp.zeros(2), jnp.zeros(2)), (jnp.zeros(2), jnp.array([3.0, 4.0])), None)
    Array(1., dtype=float32)
    """
    del problem
    numbers, before = (
        [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        for tree in (state, previous)
    )
    return _ratio(tree_norm(tree_sub(numbers, before)), tree_norm(numbers))


def gradient_norm(previous: State, state: State, problem: Problem) -> Array:
    """||problem.gradient(x)||, for smooth problems: `()`.

    Raises:
        ValueError: for a problem without `gradient`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 4.0]))
    >>> gradient_norm(None, jnp.zeros(2), problem)
    Array(5., dtype=float32)
    """
    del previous
    check_attributes("problem", problem, ("gradient",), "one of unroll_jax.objectives, or a rule of your own")
    return tree_norm(problem.gradient(estimate_of(state)))


def duality_gap(previous: State, state: State, problem: Problem) -> Array:
    """problem.duality_gap(x), an upper bound of how far the objective is above its minimum: `()`.

    Raises:
        ValueError: for a problem without `duality_gap`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.Lasso(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]), l1_weight=1.0)
    >>> duality_gap(None, jnp.array([2.0, 0.0]), problem)
    Array(0., dtype=float32)
    """
    del previous
    check_attributes("problem", problem, ("duality_gap",), "an objective with one, such as unroll_jax.objectives.Lasso")
    return problem.duality_gap(estimate_of(state))


def _ratio(change: Array, size: Array) -> Array:
    # an iteration that diverges may be finite and have a norm that is not: that is no small change
    return jnp.where(jnp.isinf(size), jnp.inf, change / jnp.where(change == 0, 1, size))

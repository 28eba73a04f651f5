"""Anderson acceleration: a wrapper that extrapolates from the last steps of any iteration."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_algorithm, check_count, check_positive
from unroll_jax._tree import tree_norm, tree_real_vdot, tree_sub, tree_where
from unroll_jax._types import Algorithm, Array, Estimate, Params, Problem, PyTree, State, estimate_of
from unroll_jax.algorithms._fields import check_fields, fields_of


class AndersonState(NamedTuple):
    """State of an `anderson` algorithm.

    Attributes:
        inner: the wrapped algorithm's state, with the extrapolated estimate as its `x`.
        stepped: what the wrapped step made of the last point, T x, by field.
        residual: how far it moved it, T x - x, by field.
        stepped_changes: the last changes of `stepped`, with a leading axis `memory`, zero where there were none.
        residual_changes: those of `residual`.
        count: `()`, the points so far since the memory was last cleared.
    """

    inner: State
    stepped: dict[str, PyTree]
    residual: dict[str, PyTree]
    stepped_changes: dict[str, PyTree]
    residual_changes: dict[str, PyTree]
    count: Array

    @property
    def x(self) -> Estimate:
        """The estimate."""
        return estimate_of(self.inner)


def anderson(
    algorithm: Algorithm,
    memory: int = 5,
    *,
    regularization: float = 1e-6,
    growth: float = 2.0,
    fields: tuple[str, ...] = ("x",),
) -> Algorithm:
    """`algorithm` with Anderson acceleration (type II; Walker and Ni 2011): fewer steps to its fixed point.

    With the residual f = T x - x of a step T, and F and G the last changes of f and of T x as columns,
    x+ = T x - G w, where w minimizes ||f - F w||^2 + regularization ||D w||^2, D the norms of F's columns. For linear
    maps this is GMRES, essentially. The columns are scaled to norm 1, so the normal equations of size `memory` serve
    in float32 too.

    Safeguard: if the residual at an extrapolated point is larger than `growth` times the last one, or not finite, that
    point is given up for T x of the point before, and the memory is cleared. So a step is lost, and no more.

    Args:
        algorithm: its states are NamedTuples. Meant for maps of the estimate: proximal gradient, splitting, plug and
            play. For damping, wrap `relaxed(algorithm)`.
        memory: the number of columns, at least 1.
        regularization: positive, relative; larger means smaller weights w.
        growth: at least 1, the safeguard.
        fields: of the state, those that the step is a map of; the others are as the step left them.

    Returns:
        An algorithm with the same parameters, and `AndersonState`.

    Raises:
        ValueError: for what is no algorithm, or settings outside these ranges; from `init`, if its state has no such
            fields.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.diag(jnp.array([1.0, 0.1])))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = uj.algorithms.proximal_gradient_params(operator, strength=0.01)
    >>> ista = uj.algorithms.proximal_gradient()
    >>> plain, fast = (
    ...     uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=2000).num_steps
    ...     for algorithm in (ista, anderson(ista)))
    >>> bool(fast < plain / 20)
    True
    """
    check_algorithm(algorithm)
    check_count("memory", memory)
    check_positive("regularization", regularization)
    if not growth >= 1:
        raise ValueError(f"`growth` must be at least 1, got {growth}: the plain iteration may not shrink its residual.")

    def init(problem: Problem) -> AndersonState:
        inner = algorithm.init(problem)
        check_fields(inner, fields, "these are extrapolated")
        nothing = jax.tree.map(jnp.zeros_like, fields_of(inner, fields))
        columns = jax.tree.map(lambda a: jnp.zeros((memory, *a.shape), a.dtype), nothing)
        return AndersonState(inner, nothing, nothing, columns, columns, jnp.zeros((), int))

    def step(params: Params, state: AndersonState, problem: Problem) -> AndersonState:
        inner = algorithm.step(params, state.inner, problem)
        stepped = fields_of(inner, fields)
        residual = tree_sub(stepped, fields_of(state.inner, fields))
        # the first two points after the memory was cleared are not extrapolated
        is_extrapolated = state.count >= 2
        is_worse = ~(tree_norm(residual) <= growth * tree_norm(state.residual))  # also for NaN
        given_up = is_extrapolated & is_worse

        stepped_changes = _with_column(state.stepped_changes, state, tree_sub(stepped, state.stepped))
        residual_changes = _with_column(state.residual_changes, state, tree_sub(residual, state.residual))
        weights = _weights(residual_changes, residual, regularization)
        extrapolated = jax.tree.map(
            lambda a, columns: a - jnp.tensordot(weights.astype(a.dtype), columns, axes=1), stepped, stepped_changes
        )
        nothing = jax.tree.map(jnp.zeros_like, residual_changes)
        taken = AndersonState(
            inner._replace(**extrapolated), stepped, residual, stepped_changes, residual_changes, state.count + 1
        )
        restarted = AndersonState(
            state.inner._replace(**state.stepped),
            state.stepped,
            state.residual,
            nothing,
            nothing,
            jnp.ones_like(state.count),
        )
        return tree_where(given_up, restarted, taken)

    def _with_column(columns: PyTree, state: AndersonState, change: PyTree) -> PyTree:
        index = (state.count - 1) % memory
        # the first point has none before it
        return jax.tree.map(lambda old, new: jnp.where(state.count == 0, old, old.at[index].set(new)), columns, change)

    return Algorithm(init, step)


def _weights(columns: PyTree, residual: PyTree, regularization: float) -> Array:
    """The minimizer w of ||residual - columns w||^2 + regularization ||D w||^2, D the norms of the columns."""
    norms = jax.vmap(tree_norm)(columns)
    scale = jnp.where(norms > 0, norms, 1)
    units = jax.tree.map(
        lambda a: a / scale.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1)),
        columns,
    )
    gram = jax.vmap(lambda a: jax.vmap(lambda b: tree_real_vdot(a, b))(units))(units)
    correlation = jax.vmap(lambda a: tree_real_vdot(a, residual))(units)
    regularized = gram + regularization * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return jnp.linalg.solve(regularized, correlation) / scale

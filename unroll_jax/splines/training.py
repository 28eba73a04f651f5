"""Splines in training: labels for learning rates, and slopes that stay in their box after an optimizer's step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from unroll_jax._types import Array, Params, PyTree
from unroll_jax.splines.boxes import SlopeBox
from unroll_jax.splines.feasible import clip_slopes, feasible_update
from unroll_jax.splines.grids import Grid
from unroll_jax.splines.modules import LinearSpline, SplineCoefficients, SplineScale


def keep_feasible(
    grid: Grid,
    box: SlopeBox,
    *,
    project: Callable[[Array, Grid, SlopeBox], Array] = clip_slopes,
    mask: PyTree | Callable[[Params], PyTree] | None = None,
) -> optax.GradientTransformation:
    """An optax transformation after which params + updates are splines with slopes in `box`; chain it last.

    Every update becomes project(params + update) - params, rounded such that the sum lies in the box as floating-point
    numbers do (`feasible.feasible_update`). Without state. Raw slopes never drift outside the box, so together with
    `clip_slopes` in the forward pass no slope is dead. Begin with coefficients in the box.

    Splines whose mean is free may wander as far as the optimizer drives them, and a slope is a difference of two
    values: where a wild optimizer is to be expected, let `project` keep the anchor, which bounds the coefficients.

    Args:
        grid: where the knots are, of all splines that `mask` selects.
        box: the slopes allowed.
        project: `(coefficients, grid, box) -> coefficients`: `clip_slopes`, with `functools.partial` for what it keeps,
            or `project_slopes` for the nearest spline.
        mask: a tree of bools like the parameters, or a function of the parameters that returns one: which leaves are
            coefficients `(..., num_knots)`. By default all. Splines on other grids get a transformation of their own.

    Raises:
        ValueError: when it runs, if there are no `params`, or a selected leaf does not fit `grid` or `box`.

    >>> from unroll_jax.splines import UniformGrid
    >>> grid, box = UniformGrid(-1.0, 1.0, 3), SlopeBox.lipschitz()
    >>> optimizer = optax.chain(optax.sgd(1e3), keep_feasible(grid, box))
    >>> params = jax.numpy.zeros(3)
    >>> updates, _ = optimizer.update(jax.numpy.array([1.0, 0.0, -1.0]), optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)
    Array([-1.,  0.,  1.], dtype=float32)
    """

    def update(updates: PyTree, state: optax.OptState, params: PyTree | None = None):
        if params is None:
            raise ValueError("`keep_feasible` needs the parameters: call update(updates, state, params).")
        change = functools.partial(feasible_update, grid=grid, box=box, project=project)
        return jax.tree.map(change, params, updates), state

    transformation = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return transformation if mask is None else optax.masked(transformation, mask)


def spline_labels(params: PyTree) -> PyTree:
    """A label for every variable of `params`: `"coefficients"` and `"scales"` of splines, `"weights"` for the rest.

    For separate learning rates: optax.multi_transform({"coefficients": ..., "scales": ..., "weights": ...},
    spline_labels). Coefficients want a small rate, as they are measured in the range of the knots: with knots in
    [-1, 1] a tenth of that of the weights, in [-0.1, 0.1] a fortieth; scales a half and a quarter.

    Args:
        params: a tree of nnx variables: an `nnx.State`, or a module.

    Returns:
        The tree with a text for every variable.

    >>> from unroll_jax.splines import UniformGrid
    >>> spline_labels(nnx.state(LinearSpline(UniformGrid(-1.0, 1.0, 5))))
    State({
      'coefficients': 'coefficients',
      'log_scale': 'scales'
    })
    """

    def label(variable: Any) -> str:
        if isinstance(variable, SplineCoefficients):
            return "coefficients"
        return "scales" if isinstance(variable, SplineScale) else "weights"

    return jax.tree.map(label, params, is_leaf=lambda node: isinstance(node, nnx.Variable))


def with_feasible_splines(model: PyTree) -> PyTree:
    """`model` with the coefficients of its splines replaced by the clipped ones, which changes no value it computes.

    Call it after every step of an optimizer, and no slope is dead: one that was clipped lies on its bound again, where
    it has a gradient. For an optimizer that does so itself there is `keep_splines_feasible`.

    Args:
        model: a pytree with one `LinearSpline` or more in it, also stacked ones, with a leading axis of layers.

    Returns:
        A new model; the given one stays as it is.

    >>> from unroll_jax.splines import UniformGrid
    >>> spline = LinearSpline(UniformGrid(-1.0, 1.0, 3), keep="anchor")
    >>> spline.coefficients[...] = jax.numpy.array([0.0, 5.0, 5.0])
    >>> with_feasible_splines(spline).coefficients[...]
    Array([-1.,  0.,  0.], dtype=float32)
    """

    def write_back(node: Any) -> Any:
        if not isinstance(node, LinearSpline):
            return node
        spline = jax.tree.map(lambda leaf: leaf, node)  # a copy
        spline.coefficients = SplineCoefficients(node.feasible_coefficients)
        return spline

    return jax.tree.map(write_back, model, is_leaf=lambda node: isinstance(node, LinearSpline))


def keep_splines_feasible(model: PyTree) -> optax.GradientTransformation:
    """`keep_feasible` for all the splines of a model, each on its own grid and in its own box; chain it last.

    Args:
        model: with `LinearSpline`s in it. The parameters that the optimizer gets may be the model itself or its
            `nnx.State`, as `primal_dual` and nnx optimizers give it.

    Raises:
        ValueError: if there are no splines; when it runs, if there are no `params`.

    >>> from unroll_jax.splines import UniformGrid
    >>> model = LinearSpline(UniformGrid(-1.0, 1.0, 3), keep="anchor")
    >>> optimizer = optax.chain(optax.sgd(1e3), keep_splines_feasible(model))
    >>> params = nnx.state(model)
    >>> gradient = jax.tree.map(lambda leaf: -jax.numpy.arange(leaf.size, dtype=float), params)
    >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["coefficients"][...]
    Array([-1.,  0.,  1.], dtype=float32)
    """
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda node: isinstance(node, LinearSpline))
    splines = [(path, node) for path, node in nodes if isinstance(node, LinearSpline)]
    if not splines:
        raise ValueError("`model` has no LinearSpline whose slopes could be kept in a box.")
    # what is static about them: the values of today are not kept alive
    changes = {".".join((*_names(path), "coefficients")): _change_of(spline) for path, spline in splines}

    def update(updates: PyTree, state: optax.OptState, params: PyTree | None = None):
        if params is None:
            raise ValueError("`keep_splines_feasible` needs the parameters: call update(updates, state, params).")

        def change(path: Any, update: Any, param: Any) -> Any:
            names = _names(path)
            names = names[:-1] if names[-1:] == ("value",) else names  # inside the variable
            own = changes.get(".".join(names))
            return update if own is None else own(param, update)

        return jax.tree_util.tree_map_with_path(change, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _change_of(spline: LinearSpline) -> Callable[[Array, Array], Array]:
    project = functools.partial(clip_slopes, keep=spline.keep)
    grid, box = spline.grid, spline.box
    return lambda param, update: feasible_update(param, update, grid, box, project)


def _names(path: Any) -> tuple[str, ...]:
    """The attributes on a path, the same in a module as in its state."""
    return tuple(str(getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", None)))) for entry in path)

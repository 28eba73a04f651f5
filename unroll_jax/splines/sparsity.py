"""Sparsity of linear splines: second-order total variation, pruning, and knots removed or added.

The second-order total variation TV2(f) = ||f''||_M is the sum of the sizes of all kinks, zero for affine functions, and
the regularizer under which learned nonlinearities get few knots (arXiv 2408.13114). TV2(f(a x) / a) = TV2(f): a
learnable scale changes nothing.
"""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer

from unroll_jax._checks import check_count, check_fits, check_non_negative
from unroll_jax._types import Array
from unroll_jax.splines.boxes import SlopeBox
from unroll_jax.splines.cells import cell_slopes, checked_coefficients, value_at
from unroll_jax.splines.feasible import cell_bounds
from unroll_jax.splines.grids import Grid, NonuniformGrid, UniformGrid
from unroll_jax.splines.kernels import Extrapolation


def kinks(coefficients: Array, grid: Grid) -> Array:
    """The change of slope at every inner knot, a_n = s_n - s_n-1.

    The spline in ReLU form is f(x) = c_0 + s_0 (x - t_0) + sum_n a_n max(x - t_n, 0).

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.

    Returns:
        `(..., num_knots - 2)`, in units of a slope.

    Raises:
        ValueError: if `coefficients` do not fit `grid`.

    >>> kinks(jnp.array([1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array([2.], dtype=float32)
    """
    return jnp.diff(cell_slopes(coefficients, grid))


def second_order_variation(coefficients: Array, grid: Grid, *, extrapolation: Extrapolation = "linear") -> Array:
    """TV2, the sum of the sizes of all kinks: sum_n |s_n - s_n-1|.

    On a uniform grid this is ||[1, -2, 1] * c||_1 / h. A weight of about 1e-4 times the loss of a sample makes splines
    sparse; take it of the coefficients after `clip_slopes`.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        extrapolation: with `"constant"` the spline bends at its outer knots too, by |s_0| and |s_last|.

    Returns:
        `(...)`, in units of a slope.

    Raises:
        ValueError: if `coefficients` do not fit `grid`, or `extrapolation` is none of the above.

    >>> second_order_variation(jnp.array([1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array(2., dtype=float32)
    """
    if extrapolation not in get_args(Extrapolation):
        raise ValueError(f"`extrapolation` must be one of {get_args(Extrapolation)}, got {extrapolation!r}.")
    slopes = cell_slopes(coefficients, grid)
    if extrapolation == "constant":
        outside = jnp.zeros_like(slopes[..., :1])
        slopes = jnp.concatenate([outside, slopes, outside], axis=-1)
    bends = jnp.diff(slopes)
    # the size of a bend, with derivative 0 at 0, where that of jnp.abs is 1: a straight spline stays straight
    return jnp.sum(bends * jnp.sign(bends), axis=-1)


def bv2_norm(coefficients: Array, grid: Grid, *, extrapolation: Extrapolation = "linear") -> Array:
    """TV2(f) + |f(0)| + |f(1)|: a norm, where TV2 alone does not see affine functions.

    It bounds the Lipschitz constant of f, so products over layers bound that of a network (arXiv 2408.13114).

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are; it need not reach 0 or 1.
        extrapolation: of the spline, as `linear_spline` takes it.

    Returns:
        `(...)`.

    Raises:
        ValueError: if `coefficients` do not fit `grid`, or `extrapolation` is none of the above.

    >>> bv2_norm(jnp.array([1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array(3., dtype=float32)
    """
    variation = second_order_variation(coefficients, grid, extrapolation=extrapolation)
    points = jnp.arange(2, dtype=coefficients.dtype)
    if extrapolation == "constant":
        points = jnp.clip(points, *grid.knots[jnp.array([0, -1])].astype(points.dtype))
    return variation + jnp.sum(jnp.abs(value_at(coefficients, grid, points)), axis=-1)


def prune(coefficients: Array, grid: Grid, threshold: Array | float, *, box: SlopeBox | None = None) -> Array:
    """The spline that connects the knots with kinks above `threshold`, on the same grid.

    Between them it is straight, and the other kinks are gone. At the knots that stay it has the values of its parent.
    Its slopes are means of its parent's slopes, so they stay in any box and TV2 does not grow (the argument of the
    representer theorem of arXiv 2408.13114). Between the first and the last knot it differs from its parent by at most
    (sum of the removed |a_n|) (t_last - t_first) / 4. The published way leaves the other kinks as they are, integrates
    again and projects; connecting is ours: no change adds up along the knots, and nothing is to be projected.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        threshold: `()` or `(..., 1)`, non-negative; in units of a slope.
        box: needed only where it has different bounds from cell to cell (`flat_ends`): knots between such cells stay.

    Returns:
        The shape of `coefficients`. `remove_knots` gives the smaller grid.

    Raises:
        ValueError: if `coefficients` or `box` do not fit `grid`, or `threshold` is negative.

    >>> prune(jnp.array([2.0, 1.01, 0.0, 1.0, 2.0]), UniformGrid(-2.0, 2.0, 5), threshold=0.1)
    Array([2., 1., 0., 1., 2.], dtype=float32)
    """
    check_non_negative("threshold", threshold)
    size = jnp.abs(kinks(coefficients, grid))
    check_fits("threshold", threshold, size)
    stays = size > jnp.broadcast_to(jnp.asarray(threshold, size.dtype), size.shape)
    if box is not None:
        for bound in cell_bounds(box, coefficients):
            stays = stays | (bound[..., 1:] != bound[..., :-1])
    ends = [(0, 0)] * (stays.ndim - 1) + [(1, 1)]
    stays = jnp.pad(stays, ends, constant_values=True)
    index = jnp.broadcast_to(jnp.arange(grid.num_knots), stays.shape)
    axis = stays.ndim - 1
    before = jax.lax.cummax(jnp.where(stays, index, 0), axis)
    after = jax.lax.cummin(jnp.where(stays, index, grid.num_knots - 1), axis, reverse=True)
    knots = jnp.broadcast_to(grid.knots.astype(coefficients.dtype), coefficients.shape)
    start, end = jnp.take_along_axis(knots, before, -1), jnp.take_along_axis(knots, after, -1)
    fraction = (knots - start) / jnp.where(stays, 1, end - start)
    left, right = jnp.take_along_axis(coefficients, before, -1), jnp.take_along_axis(coefficients, after, -1)
    return jnp.where(stays, coefficients, (1 - fraction) * left + fraction * right)


def remove_knots(coefficients: Array, grid: Grid, *, tolerance: float | None = None) -> tuple[Array, NonuniformGrid]:
    """The same splines with fewer knots: without those at which none of them bends.

    Greedy from the first knot: a knot is removed where the line that replaces it meets the values at all the knots it
    skips up to `tolerance`. So the splines change by at most `tolerance` between the first and the last knot, and their
    slopes stay in any box. Runs on concrete values, as the new shapes depend on them: not inside `jax.jit`.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        tolerance: non-negative, in units of the coefficients; by default rounding, 4 eps max |c|, for splines that
            `prune` made straight.

    Returns:
        `(coefficients, grid)`, `(..., fewer knots)` and the knots that stay, the same for all splines.

    Raises:
        ValueError: if `coefficients` do not fit `grid`, `tolerance` is negative, or values are traced.

    >>> remove_knots(jnp.array([2.0, 1.0, 0.0, 1.0, 2.0]), UniformGrid(-2.0, 2.0, 5))[0]
    Array([2., 0., 2.], dtype=float32)
    """
    coefficients = checked_coefficients(coefficients, grid)
    _check_concrete("remove_knots", coefficients, grid.knots)
    if tolerance is None:
        tolerance = 4 * float(jnp.finfo(coefficients.dtype).eps) * float(jnp.max(jnp.abs(coefficients), initial=0))
    check_non_negative("tolerance", tolerance)
    knots = grid.knots.tolist()
    splines = jnp.reshape(coefficients, (-1, len(knots))).T.tolist()  # one row per knot
    stays, start = [0], 0
    cones = [(-jnp.inf, jnp.inf)] * len(splines[0])  # slopes of lines from `start` that meet what they skip
    for n in range(1, len(knots)):
        width = knots[n] - knots[start]
        rises = [value - first for value, first in zip(splines[n], splines[start], strict=True)]
        if not all(low <= rise / width <= high for rise, (low, high) in zip(rises, cones, strict=True)):
            start = n - 1
            stays.append(start)
            width = knots[n] - knots[start]
            rises = [value - first for value, first in zip(splines[n], splines[start], strict=True)]
            cones = [(-jnp.inf, jnp.inf)] * len(rises)
        cones = [
            (max(low, (rise - tolerance) / width), min(high, (rise + tolerance) / width))
            for rise, (low, high) in zip(rises, cones, strict=True)
        ]
    index = jnp.asarray([*stays, len(knots) - 1])
    return coefficients[..., index], NonuniformGrid(grid.knots[index])


def insert_knots(coefficients: Array, grid: Grid, knots: Any) -> tuple[Array, NonuniformGrid]:
    """The same splines with more knots: exact, values between the old knots and extrapolated outside them.

    Runs on concrete knots, as those that are there already are not inserted again: not inside `jax.jit`.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        knots: `(num_new,)`, finite, in any order.

    Returns:
        `(coefficients, grid)`, `(..., at most num_knots + num_new)`.

    Raises:
        ValueError: if `coefficients` do not fit `grid`, or `knots` is not a finite vector, or traced.

    >>> insert_knots(jnp.array([1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3), [0.5, 2.0])[0]
    Array([1. , 0. , 0.5, 1. , 2. ], dtype=float32)
    """
    coefficients = checked_coefficients(coefficients, grid)
    _check_concrete("insert_knots", grid.knots, knots)
    knots = jnp.asarray(knots, grid.knots.dtype)
    if knots.ndim != 1 or not bool(jnp.all(jnp.isfinite(knots))):
        raise ValueError(f"`knots` must be a vector of finite numbers, got {knots}.")
    merged = jnp.unique(jnp.concatenate([grid.knots, knots]))
    return value_at(coefficients, grid, merged), NonuniformGrid(merged)


def refine(coefficients: Array, grid: Grid, factor: int) -> tuple[Array, Grid]:
    """The same splines with every cell cut into `factor` equal ones: exact, and uniform grids stay uniform.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        factor: at least 1.

    Returns:
        `(coefficients, grid)` with factor (num_knots - 1) + 1 knots.

    Raises:
        ValueError: if `coefficients` do not fit `grid`, or `factor` is not a whole number of at least 1.

    >>> refine(jnp.array([1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3), 2)[0]
    Array([1. , 0.5, 0. , 0.5, 1. ], dtype=float32)
    """
    check_count("factor", factor)
    coefficients = checked_coefficients(coefficients, grid)
    num_cells = grid.num_knots - 1

    def cut(nodes: Array) -> Array:
        fraction = jnp.arange(factor, dtype=nodes.dtype) / factor
        fraction = jnp.broadcast_to(fraction, (*nodes.shape[:-1], num_cells, factor))
        inner = (1 - fraction) * nodes[..., :-1, None] + fraction * nodes[..., 1:, None]
        return jnp.concatenate([inner.reshape(*nodes.shape[:-1], num_cells * factor), nodes[..., -1:]], axis=-1)

    if isinstance(grid, UniformGrid):
        return cut(coefficients), UniformGrid(grid.low, grid.high, num_cells * factor + 1)
    return cut(coefficients), NonuniformGrid(cut(grid.knots))


def _check_concrete(name: str, *values: Any) -> None:
    if any(isinstance(value, Tracer) for value in values):
        raise ValueError(
            f"`{name}` makes new shapes from values, which must be known: call it outside jax.jit and jax.grad."
        )

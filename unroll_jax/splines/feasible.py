"""Splines with slopes in a box: three ways to stay there.

`clip_slopes` is a reparametrization to differentiate through in a forward pass, `project_slopes` gives the nearest
spline in the box, and `keep_feasible` (in `training`) applies either one after every step of an optimizer.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from unroll_jax._checks import is_known_false
from unroll_jax._types import Array
from unroll_jax.splines._chain import nearest_chain, reachable_change
from unroll_jax.splines._interpolation import wide
from unroll_jax.splines.boxes import SlopeBox, check_box
from unroll_jax.splines.cells import checked_coefficients, integral, value_at, widths
from unroll_jax.splines.grids import Grid, UniformGrid

Keep: TypeAlias = Literal["mean", "anchor", "odd"]
"""What clipping keeps: the mean of the coefficients, f(0) = 0, or f(-x) = -f(x)."""


def clip_slopes(coefficients: Array, grid: Grid, box: SlopeBox, *, keep: Keep = "mean") -> Array:
    """A spline with the slopes of `coefficients` clipped to `box`, for use inside a forward pass.

    Clip and integrate again: c'_n = shift + sum_{m < n} h_m clip(s_m, lower, upper), with the shift that keeps

    - `"mean"`: the mean of the coefficients,
    - `"anchor"`: f(0) = 0, between knots too,
    - `"odd"`: f(-x) = -f(x); slopes are made symmetric first and clipped then, on a symmetric grid.

    The result lies in the box, what lies in it already comes back, and every spline in the box is some spline's clipped
    one; it is not the nearest one, which `project_slopes` gives. An infinite bound does not clip.

    The derivative of the clipping is 1 on the closed box, bounds included (within rounding), and 0 outside. So a slope
    on its bound still learns. A slope outside gets no gradient and may drift further out unless it is written back:
    replace the coefficients by the clipped ones after every step (`training.keep_feasible`), which changes the function
    not at all, and no slope is ever dead.

    Clip and shift as published (arXiv 2408.13114, its toolbox, and CRR-NN 2211.12461 for the anchor); the order in
    `"odd"`, anchors between knots and the derivative on bounds are ours.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        box: the slopes allowed; its bounds broadcast to `(..., num_knots - 1)`.
        keep: what the shift keeps.

    Returns:
        The shape of `coefficients`.

    Raises:
        ValueError: if `coefficients` or `box` do not fit `grid`, the box is empty, `keep` is none of the above, or the
            grid is not symmetric and `keep` is `"odd"`.

    >>> grid = UniformGrid(-1.0, 1.0, 3)
    >>> clip_slopes(jnp.array([0.0, 2.0, 1.5]), grid, SlopeBox.lipschitz(), keep="anchor")
    Array([-1. ,  0. , -0.5], dtype=float32)
    """
    if keep not in get_args(Keep):
        raise ValueError(f"`keep` must be one of {get_args(Keep)}, got {keep!r}.")
    dtype = jnp.result_type(coefficients)
    coefficients, lower, upper = checked_bounds(coefficients, grid, box)
    rises = jnp.diff(coefficients)
    if keep == "odd":
        _check_symmetric(grid, box)
        rises = (rises + jnp.flip(rises, -1)) / 2
    rounding = 16 * jnp.finfo(rises.dtype).eps * jnp.max(jnp.abs(coefficients), axis=-1, keepdims=True)
    values = integral(_clip_closed(rises, lower, upper, jax.lax.stop_gradient(rounding)))
    if keep == "odd":
        values = (values - jnp.flip(values, -1)) / 2
    elif keep == "anchor":
        values = values - value_at(values, grid, jnp.zeros(1, values.dtype))
    else:
        values = values + jnp.mean(coefficients - values, axis=-1, keepdims=True)
    return values.astype(dtype)


def project_slopes(coefficients: Array, grid: Grid, box: SlopeBox) -> Array:
    """The nearest spline with slopes in `box`: the exact Euclidean projection of the coefficients.

    The minimizer over c' of ||c' - c||^2 subject to lower h_n <= c'_n+1 - c'_n <= upper h_n, by dynamic programming: no
    iteration to a tolerance, num_knots steps of O(num_knots) work, exact up to rounding. It keeps the mean, and oddness
    on a symmetric grid. The published code clips (`clip_slopes`); the projection is ours.

    Its Jacobian is symmetric: cells that push against their bound move together with their neighbours, all others pass
    gradients as they are.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.
        box: the slopes allowed; its bounds broadcast to `(..., num_knots - 1)`.

    Returns:
        The shape of `coefficients`.

    Raises:
        ValueError: if `coefficients` or `box` do not fit `grid`, or the box is empty.

    >>> project_slopes(jnp.array([0.0, 3.0, 3.0]), UniformGrid(-1.0, 1.0, 3), SlopeBox.lipschitz())
    Array([1., 2., 3.], dtype=float32)
    """
    nearest = jnp.vectorize(nearest_chain, signature="(n),(m),(m)->(n)")(*checked_bounds(coefficients, grid, box))
    return nearest.astype(jnp.result_type(coefficients))


def feasible_update(
    coefficients: Array, update: Array, grid: Grid, box: SlopeBox, project: Callable[..., Array]
) -> Array:
    """`update` changed such that coefficients + update is a spline with slopes in `box`, as floating-point numbers.

    This is project(coefficients + update, grid, box) - coefficients in real numbers. In floating point, the difference
    and the sum that undoes it are rounded to the last digit of the larger summand, which in a narrow cell is a lot of
    slope: 6e-5 for float32 numbers near 1000, so 0.006 at a width of 0.01. Here they are rounded into the box. Where
    the box is narrower than such a digit, there may be no number in it.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        update: the same shape, what an optimizer wants to add.
        grid: where the knots are.
        box: the slopes allowed.
        project: `(coefficients, grid, box) -> coefficients`, such as `project_slopes`, or `clip_slopes` with its `keep`
            bound by `functools.partial`.

    Returns:
        The shape and dtype of `coefficients`.

    Raises:
        ValueError: what `project` raises.

    >>> grid = UniformGrid(-1.0, 1.0, 3)
    >>> feasible_update(jnp.zeros(3), jnp.array([0.0, 3.0, 3.0]), grid, SlopeBox.lipschitz(), project_slopes)
    Array([1., 2., 3.], dtype=float32)
    """
    if jnp.shape(update) != jnp.shape(coefficients):
        raise ValueError(
            f"`update` must have the shape of `coefficients`, {jnp.shape(coefficients)}, got {jnp.shape(update)}."
        )
    # the sum has the type of the coefficients, and so have its digits
    args = coefficients, project((coefficients + update).astype(coefficients.dtype), grid, box)
    bounds = (bound.astype(coefficients.dtype) for bound in checked_bounds(coefficients, grid, box)[1:])
    return jnp.vectorize(reachable_change, signature="(n),(n),(m),(m)->(n)")(*args, *bounds)


def checked_bounds(coefficients: Array, grid: Grid, box: SlopeBox) -> tuple[Array, Array, Array]:
    """`coefficients`, and the bounds lower h_n and upper h_n of `box` on c_n+1 - c_n, in single precision or wider."""
    coefficients = checked_coefficients(coefficients, grid)
    coefficients = coefficients.astype(wide(coefficients.dtype))
    lower, upper = cell_bounds(box, coefficients)
    width = widths(grid, lower)

    def times_width(bound: Array) -> Array:
        # a product with infinity would have derivatives inf * 0
        is_finite = jnp.isfinite(bound)
        return jnp.where(is_finite, jnp.where(is_finite, bound, 0) * width, bound)

    return coefficients, times_width(lower), times_width(upper)


def cell_bounds(box: SlopeBox, coefficients: Array) -> tuple[Array, Array]:
    """The bounds of `box` for every cell of splines with these coefficients, both `(..., num_knots - 1)`."""
    shape = (*coefficients.shape[:-1], coefficients.shape[-1] - 1)
    for name, bound in (("box.lower", box.lower), ("box.upper", box.upper)):
        try:
            fits = jnp.broadcast_shapes(jnp.shape(bound), shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"`{name}` must have shape (), ({shape[-1]},) with one bound per cell, or (channels, 1), and broadcast "
                f"to {shape}, got {jnp.shape(bound)}."
            )
    check_box(box)
    lower, upper = (jnp.broadcast_to(jnp.asarray(bound, coefficients.dtype), shape) for bound in box)
    return lower, upper


def _clip_closed(x: Array, lower: Array, upper: Array, rounding: Array) -> Array:
    """`x` clipped to [lower, upper], with derivative 1 up to `rounding` outside of it, and 0 beyond."""
    is_outside = (x < lower - rounding) | (x > upper + rounding)
    on_bound = x + jax.lax.stop_gradient(jnp.clip(x, lower, upper) - x)
    return jnp.where(is_outside, jnp.where(x < lower, lower, upper), on_bound)


def _check_symmetric(grid: Grid, box: SlopeBox) -> None:
    if isinstance(grid, UniformGrid):
        is_symmetric = grid.low == -grid.high
    else:
        rounding = 8 * jnp.finfo(grid.knots.dtype).eps
        error = lambda: jnp.max(jnp.abs(grid.knots + jnp.flip(grid.knots, -1)))
        is_symmetric = not is_known_false(lambda: error() <= rounding * jnp.max(jnp.abs(grid.knots)))
    if not is_symmetric:
        raise ValueError(
            f"`grid` must be symmetric about 0 for `keep='odd'`, got knots {grid.knots}. Keep the mean or the anchor."
        )
    for name, bound in (("box.lower", box.lower), ("box.upper", box.upper)):
        if jnp.ndim(bound) and is_known_false(lambda bound=bound: bound == jnp.flip(bound, -1)):
            raise ValueError(f"`{name}` must be the same in opposite cells for `keep='odd'`, got {bound}.")

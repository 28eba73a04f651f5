"""Between the values of splines at the knots and what lies between these: the slopes of cells, and values at points."""

import jax.numpy as jnp

from unroll_jax._checks import check_fits
from unroll_jax._types import Array
from unroll_jax.splines.grids import Grid, NonuniformGrid, UniformGrid


def cell_slopes(coefficients: Array, grid: Grid) -> Array:
    """The slope of every cell, s_n = (c_n+1 - c_n) / h_n with its width h_n.

    Args:
        coefficients: `(..., num_knots)`, the values at the knots.
        grid: where the knots are.

    Returns:
        `(..., num_knots - 1)`, values per unit of the argument.

    Raises:
        ValueError: if `coefficients` do not fit `grid`.

    >>> cell_slopes(jnp.array([1.0, 0.0, 0.0, 1.0]), UniformGrid(-1.5, 1.5, 4))
    Array([-1.,  0.,  1.], dtype=float32)
    """
    coefficients = checked_coefficients(coefficients, grid)
    rises = jnp.diff(coefficients)
    return rises / widths(grid, rises)


def coefficients_from_slopes(slopes: Array, grid: Grid, first: Array | float = 0.0) -> Array:
    """The values at the knots of the spline with these slopes: c_0 = first, c_n+1 = c_n + h_n s_n.

    Args:
        slopes: `(..., num_knots - 1)`.
        grid: where the knots are.
        first: `()` or `(...)`, the value at the first knot.

    Returns:
        `(..., num_knots)`.

    Raises:
        ValueError: if `slopes` do not fit `grid`, or `first` does not fit `slopes`.

    >>> coefficients_from_slopes(jnp.array([-1.0, 0.0, 1.0]), UniformGrid(-1.5, 1.5, 4), first=1.0)
    Array([1., 0., 0., 1.], dtype=float32)
    """
    if not jnp.issubdtype(jnp.result_type(slopes), jnp.floating):
        raise ValueError(f"`slopes` must be real and of a floating-point type, got {jnp.result_type(slopes)}.")
    if jnp.shape(slopes)[-1:] != (grid.num_knots - 1,):
        raise ValueError(
            f"`slopes` must have shape (..., {grid.num_knots - 1}), one per cell of the grid, got {jnp.shape(slopes)}."
        )
    check_fits("first", first, slopes[..., 0])
    return integral(slopes * widths(grid, slopes)) + jnp.broadcast_to(first, slopes.shape[:-1])[..., None]


# --- what the functions of splines share ---


def value_at(coefficients: Array, grid: Grid, points: Array) -> Array:
    """The splines at `points`, `(num_points,)`, the same for all: `(..., num_points)`."""
    cell, fraction = grid.locate(points)
    left, right = coefficients[..., cell], coefficients[..., cell + 1]
    fraction = jnp.broadcast_to(fraction, left.shape)
    return (1 - fraction) * left + fraction * right


def widths(grid: Grid, like: Array) -> Array:
    """The widths of the cells, with the shape and type of `like`, `(..., num_knots - 1)`."""
    return jnp.broadcast_to(grid.steps.astype(like.dtype), like.shape)


def integral(rises: Array) -> Array:
    """The values at the knots, from 0 on: `(..., num_knots)` for rises `(..., num_knots - 1)`."""
    return jnp.concatenate([jnp.zeros_like(rises[..., :1]), jnp.cumsum(rises, axis=-1)], axis=-1)


def checked_coefficients(coefficients: Array, grid: Grid) -> Array:
    """`coefficients` as an array, if they are real and one per knot of `grid` on the last axis."""
    if not isinstance(grid, UniformGrid | NonuniformGrid):
        raise ValueError(
            f"`grid` must be a UniformGrid or a NonuniformGrid, got {type(grid).__name__}. "
            "Knots become a grid by NonuniformGrid(knots)."
        )
    coefficients = jnp.asarray(coefficients)
    if not jnp.issubdtype(coefficients.dtype, jnp.floating):
        raise ValueError(
            f"`coefficients` must be real and of a floating-point type such as float32, got {coefficients.dtype}."
        )
    if coefficients.shape[-1:] != (grid.num_knots,):
        raise ValueError(
            f"`coefficients` must have shape (..., {grid.num_knots}) for a grid of {grid.num_knots} knots, "
            f"got {coefficients.shape}."
        )
    return coefficients

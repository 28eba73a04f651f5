"""Values and slopes of linear splines."""

import functools
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.splines._interpolation import interpolate, locate, neighbours, rebuilt, wide
from unroll_jax.splines.grids import Grid, NonuniformGrid, UniformGrid, nodes_of

Extrapolation: TypeAlias = Literal["linear", "constant"]
"""Beyond the outer knots: on with the end slopes, or with the end values."""


def linear_spline(
    x: Array | float, coefficients: Array, grid: Grid, *, extrapolation: Extrapolation = "linear"
) -> Array:
    """The spline with the values `coefficients` at the knots of `grid`, at every entry of `x`.

    f(x) = c_n + s_n (x - t_n) with the slope s_n = (c_n+1 - c_n) / (t_n+1 - t_n) of the cell n that holds x, and of the
    first or last cell beyond the knots (hat functions as a basis: arXiv 2408.13114).

    Differentiable in all three arguments, forward and backward, any number of times, and exact: the derivative in x is
    the slope, from the right on a knot. Backward, `x` is kept and nothing else of its size. The derivative in the
    coefficients is a histogram over the cells; on TPU, where gathers are slow, it all goes by matrix products.

    Args:
        x: any shape, real; `(..., channels)` for one spline per channel.
        coefficients: `(num_knots,)` for one spline, or `(channels, num_knots)` for one per channel: the values at the
            knots.
        grid: where the knots are, in the unit of `x`.
        extrapolation: `"linear"` goes on with the end slopes, `"constant"` with the end values.

    Returns:
        The shape of `x`, in the unit of the coefficients.

    Raises:
        ValueError: if `x` or `coefficients` are not of a floating-point type, their shapes do not fit each other or the
            grid, or `extrapolation` is none of the above.

    >>> grid = UniformGrid(-1.0, 1.0, 3)
    >>> linear_spline(jnp.array([-2.0, 0.0, 0.5, 2.0]), jnp.array([0.0, 0.0, 1.0]), grid)
    Array([0. , 0. , 0.5, 2. ], dtype=float32)
    """
    x, coefficients = checked(x, coefficients, grid, extrapolation)
    if extrapolation == "linear":
        return interpolate(x, nodes_of(grid), coefficients)
    return _clipped_spline(x, coefficients, grid)


@jax.jit
@rebuilt
def _clipped_spline(x: Array, coefficients: Array, grid: Grid) -> Array:
    return interpolate(clipped(x, *ends(grid, x.dtype)), nodes_of(grid), coefficients)


def spline_slope(
    x: Array | float, coefficients: Array, grid: Grid, *, extrapolation: Extrapolation = "linear"
) -> Array:
    """The slope f'(x) of the spline at every entry of `x`, from the right on a knot.

    s_n = (c_n+1 - c_n) / (t_n+1 - t_n) with the cell n that holds x. Differentiable in the coefficients and the knots;
    in `x` it is constant almost everywhere, so the derivative is zero.

    Args:
        x: as `linear_spline` takes it.
        coefficients: as `linear_spline` takes them.
        grid: where the knots are.
        extrapolation: with `"constant"` the slope beyond the knots is zero, and on the last knot.

    Returns:
        The shape of `x`; unit of the coefficients per unit of `x`.

    Raises:
        ValueError: as `linear_spline`.

    >>> spline_slope(jnp.array([-2.0, 0.0, 0.5]), jnp.array([0.0, 0.0, 3.0]), UniformGrid(-1.0, 1.0, 3))
    Array([0., 3., 3.], dtype=float32)
    """
    x, coefficients = checked(x, coefficients, grid, extrapolation)

    return _slope(x, coefficients, grid, is_constant=extrapolation == "constant")


@functools.partial(jax.jit, static_argnames="is_constant")
def _slope(x: Array, coefficients: Array, grid: Grid, is_constant: bool) -> Array:
    return rebuilt(functools.partial(_slope_of_cell, is_constant))(x, coefficients, grid)


def _slope_of_cell(is_constant: bool, x: Array, coefficients: Array, grid: Grid) -> Array:
    index, _ = locate(x, nodes_of(grid))
    rise = difference(coefficients.astype(wide(x.dtype)), index)
    width = grid.step if isinstance(grid, UniformGrid) else difference(grid.knots.astype(rise.dtype), index)
    slope = rise / width
    if is_constant:
        low, high = ends(grid, x.dtype)
        slope = jnp.where((x < low) | (x >= high), 0, slope)
    return slope.astype(x.dtype)


def odd_coefficients(coefficients: Array) -> Array:
    """The odd part of splines on a grid that is symmetric around zero: f(-x) = -f(x), and so f(0) = 0.

    (c_n - c_N-1-n) / 2, the nearest coefficients of an odd function. Evaluate these in the place of `coefficients`, and
    gradients keep the splines odd. Their potentials are even.

    Args:
        coefficients: `(..., num_knots)`.

    Returns:
        The same shape.

    >>> odd_coefficients(jnp.array([0.0, 1.0, 4.0]))
    Array([-2.,  0.,  2.], dtype=float32)
    """
    return (coefficients - jnp.flip(coefficients, axis=-1)) / 2


# --- what all public functions share ---


def checked(x: Any, coefficients: Any, grid: Grid, extrapolation: str = "linear") -> tuple[Array, Array]:
    """`x` and `coefficients` as arrays of one type, if they fit each other and the grid."""
    if extrapolation not in get_args(Extrapolation):
        raise ValueError(f"`extrapolation` must be one of {get_args(Extrapolation)}, got {extrapolation!r}.")
    if not isinstance(grid, UniformGrid | NonuniformGrid):
        raise ValueError(
            f"`grid` must be a UniformGrid or a NonuniformGrid, got {type(grid).__name__}. "
            "Knots become a grid by NonuniformGrid(knots)."
        )
    for name, value in (("x", x), ("coefficients", coefficients)):
        dtype = jnp.result_type(value)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"`{name}` must be real and of a floating-point type such as float32, got {dtype}.")
    shape, num_knots = jnp.shape(coefficients), grid.num_knots
    if len(shape) not in (1, 2) or shape[-1] != num_knots:
        raise ValueError(
            f"`coefficients` must have shape ({num_knots},) or (channels, {num_knots}), one value per knot of "
            f"the grid, got {shape}."
        )
    if len(shape) == 2 and jnp.shape(x)[-1:] != shape[:1]:
        raise ValueError(
            f"`x` must have the channels of `coefficients` as its last axis, shape (..., {shape[0]}), "
            f"got {jnp.shape(x)}; `coefficients` of shape ({num_knots},) are one spline for all entries."
        )
    dtype = jnp.result_type(x, coefficients)
    return jnp.asarray(x, dtype), jnp.asarray(coefficients, dtype)


def ends(grid: Grid, dtype: Any) -> tuple[Array, Array]:
    """The first and the last knot."""
    if isinstance(grid, UniformGrid):
        return jnp.asarray(grid.low, dtype), jnp.asarray(grid.high, dtype)
    return grid.knots[0].astype(dtype), grid.knots[-1].astype(dtype)


def clipped(x: Array, low: Array, high: Array) -> Array:
    """`x` moved to the nearest point of [low, high]; derivatives are from the right, so zero at `high`."""
    return jnp.where(x < low, low, jnp.where(x >= high, high, x))


def difference(table: Array, index: Array) -> Array:
    """`table[index + 1] - table[index]`."""
    left, right = neighbours(table, index)
    return right - left

"""Integrals, inverses and proximal operators of linear splines: exact, each again a table to interpolate in."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative, is_known_false
from unroll_jax._types import Array
from unroll_jax.splines._interpolation import interpolate, locate, neighbours, rebuilt, wide
from unroll_jax.splines.grids import Grid, UniformGrid, nodes_of
from unroll_jax.splines.kernels import Extrapolation, checked, clipped, difference, ends


def spline_potential(
    x: Array | float, coefficients: Array, grid: Grid, *, extrapolation: Extrapolation = "linear"
) -> Array:
    """The potential psi of the spline f at every entry of `x`: psi' = f and psi(0) = 0.

    The integral of f from 0 to x, exact. In the cell n that holds x, with h_n its width and u the fraction left of x,

        psi(x) = P_n + h_n (c_n u + (c_n+1 - c_n) u^2 / 2) - P(0),   P_n+1 = P_n + h_n (c_n + c_n+1) / 2.

    Beyond the knots it is quadratic, or linear with constant extrapolation. It is convex if and only if all slopes of f
    are at least 0, and psi(x) + rho x^2 / 2 is if they are at least -rho.

    Args:
        x: as `linear_spline` takes it.
        coefficients: as `linear_spline` takes them.
        grid: where the knots are; zero may lie anywhere.
        extrapolation: of the spline.

    Returns:
        The shape of `x`, in the unit of the coefficients times that of `x`.

    Raises:
        ValueError: as `linear_spline`.

    >>> spline_potential(jnp.array([-1.0, 0.0, 1.0, 2.0]), jnp.array([-1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array([0.5, 0. , 0.5, 2. ], dtype=float32)
    """
    x, coefficients = checked(x, coefficients, grid, extrapolation)

    return _potential(x, coefficients, grid, is_constant=extrapolation == "constant")


@functools.partial(jax.jit, static_argnames="is_constant")
def _potential(x: Array, coefficients: Array, grid: Grid, is_constant: bool) -> Array:
    return rebuilt(functools.partial(_integral_from_zero, is_constant))(x, coefficients, grid)


def _integral_from_zero(is_constant: bool, x: Array, coefficients: Array, grid: Grid) -> Array:
    dtype = wide(x.dtype)
    coefficients, steps, knots = coefficients.astype(dtype), grid.steps.astype(dtype), grid.knots.astype(dtype)
    means = (coefficients[..., 1:] + coefficients[..., :-1]) / 2
    areas = jnp.broadcast_to(steps, means.shape) * means
    table = jnp.concatenate([jnp.zeros_like(areas[..., :1]), jnp.cumsum(areas, axis=-1)], axis=-1)

    def integral(x: Array) -> Array:
        inside = clipped(x, *ends(grid, dtype)) if is_constant else x
        index, u = locate(inside, nodes_of(grid))
        left, right = neighbours(coefficients, index)
        width = grid.step if isinstance(grid, UniformGrid) else difference(knots, index)
        value = neighbours(table, index)[0] + width * u * (left + (right - left) * u / 2)
        return value + (left + (right - left) * u) * (x - inside) if is_constant else value

    origin = integral(jnp.zeros(coefficients.shape[:-1], dtype))
    return (integral(x.astype(dtype)) - jnp.broadcast_to(origin, x.shape)).astype(x.dtype)


def spline_inverse(y: Array | float, coefficients: Array, grid: Grid) -> Array:
    """The x with f(x) = y, for every entry of `y`, of a spline whose slopes are all positive.

    x = t_n + (y - c_n) / s_n  with the cell n whose values c_n to c_n+1 hold y: again a linear spline, with knots c_n
    and values t_n, extrapolated linearly as f is. Slopes in [a, b] give slopes in [1 / b, 1 / a].

    Args:
        y: as `linear_spline` takes `x`; in the unit of the coefficients.
        coefficients: as `linear_spline` takes them, increasing along the knots.
        grid: where the knots are.

    Returns:
        The shape of `y`, in the unit of the knots.

    Raises:
        ValueError: as `linear_spline`, or if coefficients that are known do not increase.

    >>> spline_inverse(jnp.array([-4.0, 0.5]), jnp.array([-2.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array([-2. ,  0.5], dtype=float32)
    """
    given, (y, coefficients) = coefficients, checked(y, coefficients, grid)
    if is_known_false(lambda: jnp.diff(given) > 0):
        raise ValueError(
            "`coefficients` must increase from knot to knot, so that all slopes are positive, for a spline to have an "
            f"inverse here, got {given}."
        )
    return interpolate(y, coefficients, grid.knots.astype(y.dtype))


def potential_prox(
    x: Array | float,
    strength: Array | float,
    coefficients: Array,
    grid: Grid,
    *,
    extrapolation: Extrapolation = "linear",
) -> Array:
    """The proximal operator of strength * psi, with psi the potential of the spline f, at every entry of `x`.

    The minimizer over z of  strength * psi(z) + (z - x)^2 / 2, which solves z + strength f(z) = x:

        z = t_n + (x - g_n) / (1 + strength s_n),   g_n = t_n + strength c_n,   with the n whose g_n to g_n+1 hold x.

    Again a linear spline, whose slopes are 1 / (1 + strength s_n): firmly non-expansive if all s_n >= 0.

    Args:
        x: as `linear_spline` takes it.
        strength: `()`, or `(channels,)` with the last axis of `x`; non-negative, and less than 1 / rho where the
            smallest slope is -rho.
        coefficients: as `linear_spline` takes them.
        grid: where the knots are.
        extrapolation: of the spline.

    Returns:
        The shape of `x`, in the unit of the knots.

    Raises:
        ValueError: as `linear_spline`; if `strength` is of another shape or negative; or if values that are known give
            1 + strength s_n <= 0 somewhere, so that there is no single minimizer.

    >>> convex = jnp.array([-1.0, 0.0, 1.0])  # psi(z) = z^2 / 2
    >>> potential_prox(jnp.array([-4.0, 1.0]), 1.0, convex, UniformGrid(-1.0, 1.0, 3))
    Array([-2. ,  0.5], dtype=float32)
    """
    args = _checked_prox(x, strength, coefficients, grid, extrapolation)
    return _prox(*args, grid, is_constant=extrapolation == "constant")


def potential_moreau(
    x: Array | float,
    strength: Array | float,
    coefficients: Array,
    grid: Grid,
    *,
    extrapolation: Extrapolation = "linear",
) -> Array:
    """The Moreau envelope of strength * psi at every entry of `x`: the least value of what `potential_prox` minimizes.

    min over z of  strength * psi(z) + (z - x)^2 / 2.  Its gradient is x - potential_prox(x, strength).

    Args:
        x: as `linear_spline` takes it.
        strength: as `potential_prox` takes it.
        coefficients: as `linear_spline` takes them.
        grid: where the knots are.
        extrapolation: of the spline.

    Returns:
        The shape of `x`, in the unit of `x` squared.

    Raises:
        ValueError: as `potential_prox`.

    >>> potential_moreau(jnp.array([-4.0, 2.0]), 1.0, jnp.array([-1.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))
    Array([4., 1.], dtype=float32)
    """
    args = _checked_prox(x, strength, coefficients, grid, extrapolation)
    return _moreau(*args, grid, is_constant=extrapolation == "constant")


@functools.partial(jax.jit, static_argnames="is_constant")
def _moreau(x: Array, strength: Array, coefficients: Array, grid: Grid, is_constant: bool) -> Array:
    def envelope(x: Array, strength: Array, coefficients: Array, grid: Grid) -> Array:
        z = _prox(x, strength, coefficients, grid, is_constant=is_constant)
        potential = _integral_from_zero(is_constant, z, coefficients, grid)
        return jnp.broadcast_to(strength, x.shape) * potential + (z - x) ** 2 / 2

    return rebuilt(envelope)(x, strength, coefficients, grid)


@functools.partial(jax.jit, static_argnames="is_constant")
def _prox(x: Array, strength: Array, coefficients: Array, grid: Grid, is_constant: bool) -> Array:
    knots, images = grid.knots.astype(x.dtype), _images(strength, coefficients, grid)
    if not is_constant:
        return interpolate(x, images, knots)

    def prox(x: Array, images: Array, knots: Array) -> Array:
        # beyond the knots f is constant, and x - z with it
        first, last = (jnp.broadcast_to(images[..., n], x.shape) for n in (0, -1))
        inside = clipped(x, first, last)
        return interpolate(inside, images, knots) + (x - inside)

    return rebuilt(prox)(x, images, knots)


def _images(strength: Any, coefficients: Any, grid: Grid) -> Array:
    """What the proximal operator maps to the knots: t_n + strength c_n, `(num_knots,)` or `(channels, num_knots)`."""
    coefficients = jnp.asarray(coefficients)
    strength = jnp.asarray(strength, coefficients.dtype)
    if coefficients.ndim == 1 and strength.ndim == 1:
        coefficients = coefficients[None]
    shifts = jnp.expand_dims(strength, -1) * coefficients if strength.ndim else strength * coefficients
    return jnp.broadcast_to(grid.knots.astype(shifts.dtype), shifts.shape) + shifts


def _checked_prox(
    x: Any, strength: Any, coefficients: Any, grid: Grid, extrapolation: str
) -> tuple[Array, Array, Array]:
    """`x`, `strength` and `coefficients` as arrays of one type, if there is one minimizer."""
    given, (x, coefficients) = (strength, coefficients), checked(x, coefficients, grid, extrapolation)
    check_non_negative("strength", strength)
    if jnp.ndim(strength) > 1 or (jnp.ndim(strength) == 1 and jnp.shape(strength) != x.shape[-1:]):
        raise ValueError(
            f"`strength` must have shape (), or (channels,) with the last axis of `x`, got {jnp.shape(strength)} for "
            f"`x` of shape {x.shape}. Map over a batch of strengths by jax.vmap."
        )
    # while tracing, only what was known before is known: hence of what was given
    if is_known_false(lambda: jnp.diff(_images(*given, grid)) > 0):
        raise ValueError(
            "`strength` must be less than 1 / rho where the smallest slope is -rho, so that 1 + strength * slope > 0 "
            f"and the minimizer is unique, got {strength}."
        )
    return x, jnp.asarray(strength, x.dtype), coefficients

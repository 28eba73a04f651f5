"""Projections: proximal operators of the indicator function of a convex set, whatever the strength.

The value is 0 in the set and infinite elsewhere; up to rounding, as a projection ends there only up to rounding.
"""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_fits, check_ordered, check_positive
from unroll_jax._types import Array
from unroll_jax.prox._arguments import (
    equations,
    in_type_of,
    indicator,
    inexact,
    norm_along,
    number,
    of_entries,
    real,
    rounding,
)


def non_negative(x: Array, strength: Array | float = 1.0) -> Array:
    """`x` with its negative entries set to zero: the projection on the non-negative orthant.

    Args:
        x: any shape, real.
        strength: not used; it is there so that every proximal operator is called alike.

    >>> non_negative(jnp.array([-2.0, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """
    del strength
    return jnp.maximum(real(x), 0)


def non_negative_value(x: Array, strength: Array | float = 1.0) -> Array:
    """0 where no entry of `x` is negative, else infinite: `()`.

    >>> non_negative_value(jnp.array([-2.0, 0.5]))
    Array(inf, dtype=float32)
    """
    del strength
    return indicator(-jnp.min(real(x), initial=0), 0)


def box(x: Array, strength: Array | float = 1.0, *, lower: Array | float = 0.0, upper: Array | float = 1.0) -> Array:
    """`x` clipped to `[lower, upper]`: the projection on a box. Bind the bounds with `functools.partial`.

    Args:
        x: any shape, real.
        strength: not used; it is there so that every proximal operator is called alike.
        lower: `()` or the shape of `x`; same unit as `x`.
        upper: `()` or the shape of `x`; same unit as `x`, nowhere below `lower`.

    >>> box(jnp.array([-2.0, 0.5, 3.0]))
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    del strength
    x = real(x)
    return jnp.clip(x, *_bounds(lower, upper, x))


def box_value(
    x: Array, strength: Array | float = 1.0, *, lower: Array | float = 0.0, upper: Array | float = 1.0
) -> Array:
    """0 where every entry of `x` lies in `[lower, upper]`, else infinite: `()`.

    >>> box_value(jnp.array([0.0, 0.5]))
    Array(0., dtype=float32)
    """
    del strength
    x = real(x)
    lower, upper = _bounds(lower, upper, x)
    return indicator(jnp.max(jnp.maximum(lower - x, x - upper), initial=0), 0)


def half_space(x: Array, strength: Array | float = 1.0, *, normal: Array, offset: Array | float = 0.0) -> Array:
    """The nearest point z with <normal, z> <= offset: x - max(<normal, x> - offset, 0) normal / ||normal||^2.

    For complex numbers the real part of the inner product counts.

    Args:
        x: any shape, real or complex.
        strength: not used.
        normal: the shape of `x`, not zero.
        offset: `()`.

    >>> half_space(jnp.array([3.0, 1.0]), normal=jnp.array([1.0, 0.0]), offset=2.0)
    Array([2., 1.], dtype=float32)
    """
    del strength
    x = inexact(x)
    normal, excess = _excess(x, normal, offset)
    return x - jnp.maximum(excess, 0) / jnp.sum(jnp.real(normal * jnp.conj(normal))) * normal


def half_space_value(x: Array, strength: Array | float = 1.0, *, normal: Array, offset: Array | float = 0.0) -> Array:
    """0 where <normal, x> <= offset, up to rounding, else infinite: `()`.

    >>> half_space_value(jnp.array([3.0, 1.0]), normal=jnp.array([1.0, 0.0]), offset=2.0)
    Array(inf, dtype=float32)
    """
    del strength
    x = inexact(x)
    normal, excess = _excess(x, normal, offset)
    return indicator(excess, rounding(x, jnp.sum(jnp.abs(normal * x))))


def affine(x: Array, strength: Array | float = 1.0, *, matrix: Array, measurement: Array) -> Array:
    """The nearest solution z of matrix @ z = measurement.

    x - A* (A A*)^-1 (A x - b), by the QR factors of A* (Golub and Van Loan, section 5.6).

    Args:
        x: `(n,)`, real or complex.
        strength: not used.
        matrix: `(m, n)` with linearly independent rows, so m <= n. Of a `Dense` operator, its `.matrix`.
        measurement: `(m,)`.

    Raises:
        ValueError: if the shapes do not fit.

    >>> affine(jnp.array([3.0, 1.0]), matrix=jnp.array([[0.0, 2.0]]), measurement=jnp.array([4.0]))
    Array([3., 2.], dtype=float32)
    """
    del strength
    x = inexact(x)
    matrix, measurement = _wide_equations(x, matrix, measurement)
    orthonormal, triangular = jnp.linalg.qr(matrix.conj().T)
    residual = matrix @ x - measurement
    return x - orthonormal @ jax.scipy.linalg.solve_triangular(triangular, residual, trans="C")


def affine_value(x: Array, strength: Array | float = 1.0, *, matrix: Array, measurement: Array) -> Array:
    """0 where matrix @ x = measurement, up to rounding, else infinite: `()`.

    >>> affine_value(jnp.array([2.0, 0.0]), matrix=jnp.array([[1.0, 1.0]]), measurement=jnp.array([2.0]))
    Array(0., dtype=float32)
    """
    del strength
    x = inexact(x)
    matrix, measurement = _wide_equations(x, matrix, measurement)
    scale = jnp.max(jnp.abs(matrix) @ jnp.abs(x) + jnp.abs(measurement), initial=0)
    return indicator(jnp.max(jnp.abs(matrix @ x - measurement), initial=0), rounding(x, scale))


def second_order_cone(x: Array, strength: Array | float = 1.0, *, slope: Array | float = 1.0) -> Array:
    """The nearest point z of the cone ||z[1:]|| <= slope * z[0].

    Inside, `x`; in the polar cone, zero; else on the boundary (Bauschke 1996, theorem 3.3.6).

    Args:
        x: `(n,)`, n >= 1, real.
        strength: not used.
        slope: `()`, positive.

    Raises:
        ValueError: for what is no vector, complex numbers, or a known slope that is not positive.

    >>> second_order_cone(jnp.array([1.0, 0.0, 3.0]))
    Array([2., 0., 2.], dtype=float32)
    """
    del strength
    x, slope, height, radius = _cone(x, slope)
    new_height = (height + slope * radius) / (1 + slope**2)
    is_outside = radius > slope * height
    boundary = jnp.append(new_height, x[1:] * (slope * new_height / jnp.where(is_outside & (radius > 0), radius, 1)))
    return jnp.where(is_outside, jnp.where(height + slope * radius > 0, boundary, 0), x)


def second_order_cone_value(x: Array, strength: Array | float = 1.0, *, slope: Array | float = 1.0) -> Array:
    """0 where ||x[1:]|| <= slope * x[0], up to rounding, else infinite: `()`.

    >>> second_order_cone_value(jnp.array([5.0, 3.0, 4.0]))
    Array(0., dtype=float32)
    """
    del strength
    x, slope, height, radius = _cone(x, slope)
    return indicator(radius - slope * height, rounding(x, radius))


def _bounds(lower: Array | float, upper: Array | float, x: Array) -> tuple[Array, Array]:
    check_fits("lower", lower, x)
    check_fits("upper", upper, x)
    if not any(isinstance(bound, jax.Array) for bound in (lower, upper)):  # arrays would make eager code wait for them
        check_ordered("lower", lower, "upper", upper)
    return of_entries("lower", lower, x), of_entries("upper", upper, x)


def _excess(x: Array, normal: Array, offset: Array | float) -> tuple[Array, Array]:
    normal = in_type_of(x, normal)
    if normal.shape != x.shape:
        raise ValueError(f"`normal` must have the shape of `x`, {x.shape}, got {normal.shape}.")
    return normal, jnp.sum(jnp.real(jnp.conj(normal) * x)) - number("offset", offset, x)


def _wide_equations(x: Array, matrix: Array, measurement: Array) -> tuple[Array, Array]:
    matrix, measurement = equations(x, matrix, measurement)
    if matrix.shape[0] > matrix.shape[1]:
        raise ValueError(f"`matrix` must have linearly independent rows, so no more than columns, got {matrix.shape}.")
    return matrix, measurement


def _cone(x: Array, slope: Array | float) -> tuple[Array, Array, Array, Array]:
    x = real(x)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"`x` must be a vector, the height first, got shape {x.shape}. A batch goes through jax.vmap.")
    return x, number("slope", slope, x, check_positive), x[0], norm_along(x[1:], None)[0]

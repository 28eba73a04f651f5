"""Proximal operators of quadratic functions: linear systems."""

from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_fits
from unroll_jax._types import Array
from unroll_jax.prox._arguments import equations, in_type_of, inexact, of_entries, with_one_strength, with_strength


def quadratic(x: Array, strength: Array | float, *, matrix: Array | float, linear: Array | float = 0.0) -> Array:
    """The proximal operator of <z, matrix z> / 2 + <linear, z>: (I + strength matrix)^-1 (x - strength linear).

    Args:
        x: any shape for a diagonal matrix, else `(n,)`; real or complex.
        strength: `()`, or for a diagonal matrix also the shape of `x`; non-negative.
        matrix: a diagonal, `()` or the shape of `x`, non-negative; or `(n, n)`, Hermitian and positive semidefinite.
        linear: `()` or the shape of `x`.

    Raises:
        ValueError: if the shapes do not fit, or for a known negative strength.

    >>> quadratic(jnp.array([2.0, 3.0]), 1.0, matrix=jnp.array([1.0, 2.0]))
    Array([1., 1.], dtype=float32)
    """
    x = inexact(x)
    if _is_diagonal(x, matrix):
        x, strength = with_strength(x, strength)
        return (x - strength * _linear(linear, x)) / (1 + strength * of_entries("matrix", matrix, x))
    x, strength = with_one_strength(x, strength)
    return _solve(strength, _square(x, matrix), x - strength * _linear(linear, x))


def quadratic_value(
    x: Array, strength: Array | float = 1.0, *, matrix: Array | float, linear: Array | float = 0.0
) -> Array:
    """`strength` * (<x, matrix x> / 2 + <linear, x>), the value that `quadratic` belongs to: `()`.

    >>> quadratic_value(jnp.array([2.0, 3.0]), matrix=jnp.array([1.0, 2.0]))
    Array(11., dtype=float32)
    """
    x = inexact(x)
    if _is_diagonal(x, matrix):
        x, strength = with_strength(x, strength)
        product = of_entries("matrix", matrix, x) * x
    else:
        x, strength = with_one_strength(x, strength)
        product = _square(x, matrix) @ x
    return jnp.sum(strength * jnp.real(jnp.conj(x) * product / 2 + jnp.conj(_linear(linear, x)) * x))


def least_squares(x: Array, strength: Array | float, *, matrix: Array, measurement: Array) -> Array:
    """The proximal operator of ||matrix z - measurement||^2 / 2, as splitting methods take it.

    (I + strength A* A)^-1 (x + strength A* b); for fewer rows than columns by the smaller system of the rows.

    Args:
        x: `(n,)`, real or complex.
        strength: `()`, non-negative.
        matrix: `(m, n)`. Of a `Dense` operator, its `.matrix`.
        measurement: `(m,)`.

    Raises:
        ValueError: if the shapes do not fit, or for a known negative strength.

    >>> least_squares(jnp.zeros(2), 3.0, matrix=jnp.eye(2), measurement=jnp.array([4.0, 8.0]))
    Array([3., 6.], dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    matrix, measurement = equations(x, matrix, measurement)
    adjoint, (num_rows, num_columns) = matrix.conj().T, matrix.shape
    if num_rows >= num_columns:
        return _solve(strength, adjoint @ matrix, x + strength * adjoint @ measurement)
    # z = x + strength A* r with r = b - A z, so that r (1 + strength A A*) = b - A x
    return x + strength * adjoint @ _solve(strength, matrix @ adjoint, measurement - matrix @ x)


def least_squares_value(x: Array, strength: Array | float = 1.0, *, matrix: Array, measurement: Array) -> Array:
    """`strength` * ||matrix x - measurement||^2 / 2, the value that `least_squares` belongs to: `()`.

    >>> least_squares_value(jnp.array([0.0, 1.0]), matrix=jnp.eye(2), measurement=jnp.array([3.0, 5.0]))
    Array(12.5, dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    matrix, measurement = equations(x, matrix, measurement)
    residual = matrix @ x - measurement
    return strength * jnp.sum(jnp.real(residual * jnp.conj(residual))) / 2


def _solve(strength: Array, matrix: Array, right: Array) -> Array:
    """(I + strength matrix)^-1 right, by Cholesky's factors."""
    system = jnp.eye(matrix.shape[0], dtype=matrix.dtype) + strength * matrix
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(system), right)


def _is_diagonal(x: Array, matrix: Any) -> bool:
    return jnp.shape(matrix) in ((), x.shape)


def _square(x: Array, matrix: Any) -> Array:
    if x.ndim != 1 or jnp.shape(matrix) != (x.size, x.size):
        raise ValueError(
            "`matrix` must have shape (), that of `x`, or (n, n) for a vector `x`, "
            f"got {jnp.shape(matrix)} for {x.shape}."
        )
    return in_type_of(x, matrix)


def _linear(linear: Any, x: Array) -> Array:
    check_fits("linear", linear, x)
    return jnp.broadcast_to(in_type_of(x, linear), x.shape)

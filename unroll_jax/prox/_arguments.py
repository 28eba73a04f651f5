"""The arguments of proximal operators, checked and in the dtype of the data; and moduli with finite gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_array, check_fits, check_non_negative, check_real_array, check_scalar
from unroll_jax._types import Array


def inexact(x: Any) -> Array:
    """`x` as an array of a floating-point or complex type: whole numbers become floating-point ones."""
    check_array("x", x)
    x = jnp.asarray(x)
    return x.astype(jnp.result_type(x, float))


def real(x: Any) -> Array:
    """`x` as an array of a floating-point type.

    Raises:
        ValueError: for complex numbers.
    """
    check_array("x", x)
    check_real_array("x", x)
    return inexact(x)


def with_strength(x: Array, strength: Any) -> tuple[Array, Array]:
    """`x`, and `strength` of shape `()` or that of `x` in its real type.

    Raises:
        ValueError: for a strength of another shape, a complex one, or a known negative one.
    """
    return x, of_entries("strength", strength, x, check_non_negative)


def with_one_strength(x: Array, strength: Any) -> tuple[Array, Array]:
    """`x`, and `strength` of shape `()` in its real type.

    Raises:
        ValueError: for a strength of another shape, a complex one, or a known negative one.
    """
    return x, number("strength", strength, x, check_non_negative)


def of_entries(name: str, value: Any, x: Array, check: Callable[[str, Any], None] | None = None) -> Array:
    """`value`, one for all entries of `x` or one for each, in the real type of `x`."""
    check_fits(name, value, x)
    _check_value(name, value, check)
    # a single number broadcasts by itself; anything else must not be promoted in its rank
    array = jnp.asarray(value, jnp.finfo(x.dtype).dtype)
    return array if array.ndim == 0 else jnp.broadcast_to(array, x.shape)


def number(name: str, value: Any, x: Array, check: Callable[[str, Any], None] | None = None) -> Array:
    """`value`, one for all of `x`, in the real type of `x`: `()`."""
    check_scalar(name, value)
    _check_value(name, value, check)
    return jnp.asarray(value, jnp.finfo(x.dtype).dtype)


def in_type_of(x: Array, value: Any) -> Array:
    """`value` in the type of `x`, or in the complex one of the same precision."""
    is_widened = jnp.iscomplexobj(value) and not jnp.iscomplexobj(x)
    return jnp.asarray(value, jnp.result_type(x, jnp.complex64) if is_widened else x.dtype)


def equations(x: Array, matrix: Any, measurement: Any) -> tuple[Array, Array]:
    """`matrix` and `measurement` of the equations matrix @ z = measurement, in the type of `x`.

    Raises:
        ValueError: if the shapes are not `(m, n)`, `(m,)` and `(n,)`.
    """
    matrix, measurement = in_type_of(x, matrix), in_type_of(x, measurement)
    if x.ndim != 1 or matrix.ndim != 2 or measurement.shape != matrix.shape[:1] or x.shape != matrix.shape[1:]:
        raise ValueError(
            "`matrix` must have shape (m, n) for a `measurement` (m,) and `x` (n,), "
            f"got {matrix.shape}, {measurement.shape} and {x.shape}. A batch goes through jax.vmap."
        )
    return matrix, measurement


def _check_value(name: str, value: Any, check: Callable[[str, Any], None] | None) -> None:
    check_real_array(name, value)
    if check is not None and not isinstance(value, jax.Array):  # an array would make eager code wait for it
        check(name, value)


def with_modulus(x: Array, modulus: Array, new_modulus: Array) -> Array:
    """`x` with moduli `new_modulus` in place of `modulus`; signs and phases stay. The new ones are zero at zero."""
    if jnp.iscomplexobj(x):
        return x * (new_modulus / jnp.where(modulus == 0, 1, modulus))
    return jnp.sign(x) * new_modulus


def norm_along(x: Array, axes: tuple[int, ...] | int | None) -> Array:
    """The Euclidean norm of `x` along `axes`, which stay as 1. Its gradient at zero is zero, not NaN."""
    square = jnp.sum(jnp.real(x * jnp.conj(x)), axis=axes, keepdims=True)
    is_zero = square == 0
    # the inner `where` keeps the square root's infinite slope out of the gradient
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def times_at_most_one(x: Array, bound: Array, norm: Array) -> Array:
    """`x * min(1, bound / norm)`, and `x` where `norm` is zero."""
    is_inside = norm <= bound
    return jnp.where(is_inside, x, x * (bound / jnp.where(is_inside, 1, norm)))


def indicator(violation: Array, tolerance: Array | float) -> Array:
    """0 where `violation` is at most `tolerance`, else infinite."""
    return jnp.where(violation <= tolerance, 0, jnp.inf).astype(violation.dtype)


def rounding(x: Array, scale: Array | float = 1.0) -> Array:
    """How far from a set a projection may end by rounding: 100 eps max(1, scale)."""
    info = jnp.finfo(x.dtype)
    return (100 * float(info.eps) * jnp.maximum(scale, 1)).astype(info.dtype)

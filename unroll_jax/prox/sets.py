"""Projections: proximal operators of the indicator function of a convex set, whatever the strength."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_fits, check_ordered, check_real_array
from unroll_jax._types import Array


def non_negative(x: Array, strength: Array | float = 1.0) -> Array:
    """`x` with its negative entries set to zero: the projection on the non-negative orthant.

    Args:
        x: any shape, real.
        strength: not used; it is there so that every proximal operator is called alike.

    >>> non_negative(jnp.array([-2.0, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """
    del strength
    check_real_array("x", x)
    return jnp.maximum(x, 0)


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
    check_real_array("x", x)
    check_fits("lower", lower, x)
    check_fits("upper", upper, x)
    if not any(isinstance(bound, jax.Array) for bound in (lower, upper)):  # arrays would make eager code wait for them
        check_ordered("lower", lower, "upper", upper)
    return jnp.clip(x, lower, upper)

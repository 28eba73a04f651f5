"""Projections: proximal operators of the indicator function of a convex set, whatever the strength."""

import jax.numpy as jnp

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
    return jnp.clip(x, lower, upper)

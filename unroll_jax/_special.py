"""Special functions that JAX does not have."""

import jax.numpy as jnp

from unroll_jax._types import Array


def wright_omega(c: Array) -> Array:
    """The w > 0 with w + log w = c, which is Lambert's W of exp(c), without overflow: the shape of `c`.

    By Halley's method for v = log w from above the root (Lawrence, Corless and Jeffrey 2012). Its derivative is
    w / (1 + w), which a caller knows better how to use.

    >>> wright_omega(jnp.array([1.0, 1e30]))
    Array([1.e+00, 1.e+30], dtype=float32)
    """
    v = jnp.where(c <= 1, c, jnp.log(jnp.maximum(c, 1)))
    for _ in range(5):
        power = jnp.exp(v)
        # f / f' and f'' / f' of f(v) = v + exp(v) - c; their products stay small where those of f overflow
        newton, bend = (v + power - c) / (1 + power), power / (1 + power)
        v = v - newton / (1 - newton * bend / 2)
    # exp(v) has a larger rounding error where v is large
    return jnp.where(c <= 1, jnp.exp(v), c - v)

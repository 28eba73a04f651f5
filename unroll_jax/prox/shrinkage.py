"""Proximal operators that move entries toward zero."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_fits, check_non_negative
from unroll_jax._types import Array


def soft_threshold(x: Array, strength: Array | float) -> Array:
    """`x` with every entry moved toward zero by `strength`: the proximal operator of the l1 norm.

    The minimizer over z of  strength * ||z||_1 + ||z - x||^2 / 2  (Beck and Teboulle 2009). For complex
    entries the modulus shrinks and the phase stays.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`; same unit as `x`, non-negative.

    >>> soft_threshold(jnp.array([-2.0, 0.5]), 1.0)
    Array([-1.,  0.], dtype=float32)
    """
    check_fits("strength", strength, x)
    if not isinstance(strength, jax.Array):  # an array would make eager code wait for it
        check_non_negative("strength", strength)
    if jnp.iscomplexobj(x):
        modulus = jnp.abs(x)
        shrunk = jnp.maximum(modulus - strength, 0)
        return x * (shrunk / jnp.where(modulus == 0, 1, modulus))
    # measured on XLA:CPU: 1.5 times faster than x - clip(x, -strength, strength)
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - strength, 0)

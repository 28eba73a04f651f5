"""Proximal operators that move entries toward zero, each entry by itself; for complex entries, moduli."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative, check_positive
from unroll_jax._types import Array
from unroll_jax.prox._arguments import inexact, of_entries, with_modulus, with_strength


def soft_threshold(x: Array, strength: Array | float) -> Array:
    """`x` with every entry moved toward zero by `strength`: the proximal operator of the l1 norm.

    The minimizer over z of  strength * ||z||_1 + ||z - x||^2 / 2  (Beck and Teboulle 2009). For complex
    entries the modulus shrinks and the phase stays. Its value is `l1_value`.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`; same unit as `x`, non-negative.

    >>> soft_threshold(jnp.array([-2.0, 0.5]), 1.0)
    Array([-1.,  0.], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    if not jnp.iscomplexobj(x):
        return _soft_threshold(x, strength)
    modulus = jnp.abs(x)
    return with_modulus(x, modulus, jnp.maximum(modulus - strength, 0))


@jax.custom_jvp
def _soft_threshold(x: Array, strength: Array) -> Array:
    # measured on XLA:CPU: 1.5 times faster than x - clip(x, -strength, strength)
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - strength, 0)


@_soft_threshold.defjvp
def _soft_threshold_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The derivative from the signs of what is left: a byte per entry is all that a backward pass needs to keep."""
    value = _soft_threshold(*primals)

    def derivative(sign: Array, x_dot: Array, strength_dot: Array) -> Array:
        return jnp.where(sign != 0, x_dot - sign.astype(x_dot.dtype) * strength_dot, 0)

    # computed again in the backward pass, or what is kept would be the masks and signs in full precision
    derivative = jax.checkpoint(derivative, prevent_cse=False)
    return value, derivative(jnp.sign(value).astype(jnp.int8), *tangents)


def l1(x: Array, strength: Array | float, *, weights: Array | float = 1.0) -> Array:
    """`x` with every entry moved toward zero by its own weight times `strength`: the weighted l1 norm.

    The minimizer over z of  strength * sum_i weights_i |z_i| + ||z - x||^2 / 2.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative.
        weights: `()` or the shape of `x`, non-negative; zero keeps an entry as it is.

    >>> l1(jnp.array([-2.0, 0.5, 3.0]), 1.0, weights=jnp.array([1.0, 2.0, 0.0]))
    Array([-1.,  0.,  3.], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return soft_threshold(x, strength * of_entries("weights", weights, x, check_non_negative))


def l1_value(x: Array, strength: Array | float = 1.0, *, weights: Array | float = 1.0) -> Array:
    """`strength` * sum_i weights_i |x_i|, the value that `l1` and `soft_threshold` belong to: `()`.

    >>> l1_value(jnp.array([-2.0, 0.5]))
    Array(2.5, dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return jnp.sum(strength * of_entries("weights", weights, x, check_non_negative) * jnp.abs(x))


def elastic_net(x: Array, strength: Array | float, *, ratio: Array | float = 1.0) -> Array:
    """`x` moved toward zero and scaled down: the proximal operator of ||z||_1 + ratio ||z||^2 / 2.

    soft_threshold(x, strength) / (1 + strength * ratio)  (Zou and Hastie 2005; Parikh and Boyd 2014, section 6.5.3).

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative.
        ratio: `()` or the shape of `x`, non-negative; in the unit of 1 / `x`.

    >>> elastic_net(jnp.array([-2.0, 0.5, 5.0]), 1.0)
    Array([-0.5,  0. ,  2. ], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return soft_threshold(x, strength) / (1 + strength * of_entries("ratio", ratio, x, check_non_negative))


def elastic_net_value(x: Array, strength: Array | float = 1.0, *, ratio: Array | float = 1.0) -> Array:
    """`strength` * (||x||_1 + ratio ||x||^2 / 2), the value that `elastic_net` belongs to: `()`.

    >>> elastic_net_value(jnp.array([-2.0, 1.0]))
    Array(5.5, dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    ratio, modulus = of_entries("ratio", ratio, x, check_non_negative), jnp.abs(x)
    return jnp.sum(strength * (modulus + ratio * modulus**2 / 2))


def squared_l2(x: Array, strength: Array | float) -> Array:
    """`x / (1 + strength)`: the proximal operator of ||z||^2 / 2.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative.

    >>> squared_l2(jnp.array([-2.0, 0.5]), 1.0)
    Array([-1.  ,  0.25], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return x / (1 + strength)


def squared_l2_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * ||x||^2 / 2, the value that `squared_l2` belongs to: `()`.

    >>> squared_l2_value(jnp.array([3.0, 4.0]))
    Array(12.5, dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return jnp.sum(strength * jnp.real(x * jnp.conj(x))) / 2


def huber(x: Array, strength: Array | float, *, width: Array | float = 1.0) -> Array:
    """`x` moved toward zero by at most `strength`, in proportion inside: the proximal operator of the Huber function.

    Of |z|^2 / (2 width) where |z| <= width, and |z| - width / 2 beyond: x (1 - strength / max(|x|, strength + width))
    (Huber 1964; Beck 2017, section 6.7).

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative.
        width: `()` or the shape of `x`, positive; same unit as `x`.

    >>> huber(jnp.array([-4.0, 1.0]), 1.0)
    Array([-3. ,  0.5], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width = of_entries("width", width, x, check_positive)
    return x * (1 - strength / jnp.maximum(jnp.abs(x), strength + width))


def huber_value(x: Array, strength: Array | float = 1.0, *, width: Array | float = 1.0) -> Array:
    """The sum of strength * |x|^2 / (2 width) where |x| <= width, and strength * (|x| - width / 2) beyond: `()`.

    >>> huber_value(jnp.array([-4.0, 1.0]))
    Array(4., dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width, modulus = of_entries("width", width, x, check_positive), jnp.abs(x)
    inside = jnp.minimum(modulus, width)
    return jnp.sum(strength * (inside**2 / (2 * width) + modulus - inside))

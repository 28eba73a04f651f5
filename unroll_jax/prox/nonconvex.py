"""Proximal operators of non-convex sparse penalties, each entry by itself; for complex entries, moduli.

`mcp`, `scad` and `log_sum` have slope 1 at zero, as the l1 norm, and then flatten. They are weakly convex: below the
largest strength that each one names, the minimizer is unique and `prox` is continuous, and expansive. From there on it
is the global minimizer all the same, and jumps. None of them is non-expansive.
"""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative, check_ordered, check_positive
from unroll_jax._types import Array
from unroll_jax.prox._arguments import inexact, of_entries, with_modulus, with_strength


def l0(x: Array, strength: Array | float) -> Array:
    """`x` with its entries up to sqrt(2 strength) set to zero, hard thresholding: that of the number of non-zeros.

    A minimizer over z of  strength * #{i: z_i != 0} + ||z - x||^2 / 2; not convex, whatever the strength.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative; in the unit of `x` squared. Its gradient is zero.

    >>> l0(jnp.array([-2.0, 0.5, 3.0]), 2.0)
    Array([0., 0., 3.], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return jnp.where(jnp.abs(x) > jnp.sqrt(2 * strength), x, 0)


def l0_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * #{i: x_i != 0}, the value that `l0` belongs to: `()`.

    >>> l0_value(jnp.array([-2.0, 0.0, 3.0]))
    Array(2., dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    return jnp.sum(jnp.where(x == 0, 0, strength))


def mcp(x: Array, strength: Array | float, *, width: Array | float = 3.0) -> Array:
    """`x` by firm thresholding: the proximal operator of the minimax concave penalty.

    Of |z| - |z|^2 / (2 width) up to `width` and width / 2 beyond (Zhang 2010, with lambda = strength and
    gamma = width / strength). Zero up to `strength`, `x` from `width` on, a line between; unique for
    strength < width. For larger strengths, hard thresholding at sqrt(strength * width).

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative; same unit as `x`.
        width: `()` or the shape of `x`, positive; same unit as `x`.

    >>> mcp(jnp.array([-0.5, 2.0, 4.0]), 1.0)
    Array([-0. ,  1.5,  4. ], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width, modulus = of_entries("width", width, x, check_positive), jnp.abs(x)
    is_firm = strength < width
    slope = width / jnp.where(is_firm, width - strength, 1)
    firm = jnp.where(modulus >= width, modulus, slope * jnp.maximum(modulus - strength, 0))
    hard = jnp.where(modulus**2 > strength * width, modulus, 0)
    return with_modulus(x, modulus, jnp.where(is_firm, firm, hard))


def mcp_value(x: Array, strength: Array | float = 1.0, *, width: Array | float = 3.0) -> Array:
    """`strength` times the minimax concave penalty, |x| - |x|^2 / (2 width) up to `width`, then constant: `()`.

    >>> mcp_value(jnp.array([-2.0, 4.0]), width=4.0)
    Array(3.5, dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width = of_entries("width", width, x, check_positive)
    inside = jnp.minimum(jnp.abs(x), width)
    return jnp.sum(strength * (inside - inside**2 / (2 * width)))


def scad(x: Array, strength: Array | float, *, knee: Array | float = 1.0, width: Array | float = 3.7) -> Array:
    """`x` by the smoothly clipped absolute deviation: moved toward zero where small, unmoved from `width` on.

    The penalty's slope is 1 up to `knee`, falls to 0 at `width`, and stays there (Fan and Li 2001: lambda = strength,
    knee = lambda, width = a lambda). Unique for strength < width - knee. For larger strengths it jumps to `x` where
    |x| passes (knee + width + strength) / 2, or sqrt(strength (knee + width)) if that is reached from zero.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative; same unit as `x`.
        knee: `()` or the shape of `x`, non-negative; same unit as `x`.
        width: `()` or the shape of `x`, above `knee`; same unit as `x`.

    >>> scad(jnp.array([-1.5, 4.0]), 1.0)
    Array([-0.5,  4. ], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    knee, width = _knee_and_width(knee, width, x)
    modulus, soft = jnp.abs(x), jnp.maximum(jnp.abs(x) - strength, 0)
    fall = width - knee
    is_unique = strength < fall
    middle = (fall * modulus - strength * width) / jnp.where(is_unique, fall - strength, 1)
    outer = jnp.where(modulus >= width, modulus, middle)
    unique = jnp.where(modulus <= strength + knee, soft, outer)
    from_soft, from_zero = (knee + width + strength) / 2, jnp.sqrt(strength * (knee + width))
    jump = jnp.where(strength <= knee + width, from_soft, from_zero)
    return with_modulus(x, modulus, jnp.where(is_unique, unique, jnp.where(modulus > jump, modulus, soft)))


def scad_value(
    x: Array, strength: Array | float = 1.0, *, knee: Array | float = 1.0, width: Array | float = 3.7
) -> Array:
    """`strength` times the smoothly clipped absolute deviation, whose slope falls between `knee` and `width`: `()`.

    >>> scad_value(jnp.array([-0.5, 4.0]), width=3.0)
    Array(2.5, dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    knee, width = _knee_and_width(knee, width, x)
    modulus = jnp.abs(x)
    beyond = jnp.clip(modulus, knee, width) - knee
    return jnp.sum(strength * (jnp.minimum(modulus, knee) + beyond - beyond**2 / (2 * (width - knee))))


def log_sum(x: Array, strength: Array | float, *, width: Array | float = 1.0) -> Array:
    """`x` moved toward zero, large entries less: the proximal operator of sum width log(1 + |z| / width).

    Reweighted l1 minimization descends on this penalty (Candes, Wakin and Boyd 2008). With d = |x| + width, the
    larger root (|x| - width + sqrt(d^2 - 4 strength width)) / 2, or zero; unique for strength < width. For larger
    strengths, whichever of the two has the smaller objective.

    Args:
        x: any shape, real or complex.
        strength: `()` or the shape of `x`, non-negative; same unit as `x`.
        width: `()` or the shape of `x`, positive; same unit as `x`.

    >>> log_sum(jnp.array([-0.5, 2.0]), 1.0)
    Array([-0.       ,  1.6180...], dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width, modulus = of_entries("width", width, x, check_positive), jnp.abs(x)
    discriminant = (modulus + width) ** 2 - 4 * strength * width
    has_root = discriminant > 0
    root = (modulus - width + jnp.sqrt(jnp.where(has_root, discriminant, 1))) / 2
    # where log_sum is not too steep, the root is positive just beyond `strength`
    gain = strength * width * jnp.log1p(jnp.maximum(root, 0) / width) + (root / 2 - modulus) * root
    is_root = has_root & jnp.where(strength <= width, modulus > strength, (root > 0) & (gain < 0))
    return with_modulus(x, modulus, jnp.where(is_root, root, 0))


def log_sum_value(x: Array, strength: Array | float = 1.0, *, width: Array | float = 1.0) -> Array:
    """`strength` * sum_i width log(1 + |x_i| / width), the value that `log_sum` belongs to: `()`.

    >>> log_sum_value(jnp.array([-1.0, 0.0]))
    Array(0.6931..., dtype=float32)
    """
    x, strength = with_strength(inexact(x), strength)
    width = of_entries("width", width, x, check_positive)
    return jnp.sum(strength * width * jnp.log1p(jnp.abs(x) / width))


def _knee_and_width(knee: Array | float, width: Array | float, x: Array) -> tuple[Array, Array]:
    if not any(isinstance(value, jax.Array) for value in (knee, width)):  # as in `box`
        check_ordered("knee", knee, "width", width)
    return of_entries("knee", knee, x, check_non_negative), of_entries("width", width, x, check_positive)

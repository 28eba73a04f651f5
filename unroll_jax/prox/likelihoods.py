"""Proximal operators of likelihoods and entropies, each entry by itself: real numbers only."""

from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative
from unroll_jax._special import wright_omega
from unroll_jax._types import Array
from unroll_jax.prox._arguments import of_entries, real, with_strength


def entropy(x: Array, strength: Array | float) -> Array:
    """The proximal operator of the negative entropy sum z_i log z_i: smooth, and positive everywhere.

    strength W(exp(x / strength - 1) / strength), with Lambert's W (Beck 2017, section 6.9). It is computed from the
    logarithm of what W is taken of, so that nothing overflows.

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative; at 0 it is `non_negative`.

    Raises:
        ValueError: for complex numbers, or a known negative strength.

    >>> entropy(jnp.array([-1.0, 2.0]), 1.0)
    Array([0.1200..., 1.        ], dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    return _entropy(x, jnp.broadcast_to(strength, x.shape))


def entropy_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * sum x_i log x_i with 0 log 0 = 0, infinite where an entry is negative: `()`.

    >>> entropy_value(jnp.array([0.0, 1.0]))
    Array(0., dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    is_positive = x > 0
    logarithm = jnp.log(jnp.where(is_positive, x, 1))
    return jnp.sum(jnp.where(x < 0, jnp.inf, strength * x * logarithm))


def poisson(x: Array, strength: Array | float, *, counts: Array | float) -> Array:
    """The proximal operator of the Poisson negative log-likelihood sum z_i - counts_i log z_i of rates z.

    The larger root of p^2 - (x - strength) p - strength counts = 0 (Combettes and Pesquet 2007). For rates with a
    known background, `translated(poisson, -background)`.

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative.
        counts: `()` or the shape of `x`, non-negative.

    Raises:
        ValueError: for complex numbers, or a known negative strength or count.

    >>> poisson(jnp.array([-1.0, 2.0]), 1.0, counts=jnp.array([0.0, 2.0]))
    Array([0., 2.], dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    return _larger_root(x - strength, strength * of_entries("counts", counts, x, check_non_negative))


def poisson_value(x: Array, strength: Array | float = 1.0, *, counts: Array | float) -> Array:
    """`strength` * sum x_i - counts_i log x_i, infinite for a negative rate, or zero under a count: `()`.

    >>> poisson_value(jnp.array([1.0, 0.0]), counts=jnp.array([3.0, 0.0]))
    Array(1., dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    counts = of_entries("counts", counts, x, check_non_negative)
    is_positive = x > 0
    value = strength * (x - counts * jnp.log(jnp.where(is_positive, x, 1)))
    return jnp.sum(jnp.where(is_positive | ((x == 0) & (counts == 0)), value, jnp.inf))


def log_barrier(x: Array, strength: Array | float) -> Array:
    """The proximal operator of -sum log z_i: (x + sqrt(x^2 + 4 strength)) / 2, positive everywhere.

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative; at 0 it is `non_negative`.

    >>> log_barrier(jnp.array([0.0, 1.5]), 1.0)
    Array([1., 2.], dtype=float32)
    """
    return _larger_root(*with_strength(real(x), strength))


def log_barrier_value(x: Array, strength: Array | float = 1.0) -> Array:
    """-strength * sum log x_i, infinite where an entry is not positive: `()`.

    >>> log_barrier_value(jnp.array([1.0, 1.0]))
    Array(0., dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    is_positive = x > 0
    return jnp.sum(jnp.where(is_positive, -strength * jnp.log(jnp.where(is_positive, x, 1)), jnp.inf))


def _larger_root(b: Array, c: Array) -> Array:
    """The larger root of p^2 - b p - c, c >= 0, without cancellation; the gradient at b = c = 0 is finite."""
    is_zero = c == 0
    root = jnp.sqrt(b**2 + 4 * jnp.where(is_zero, 1, c))
    far = (jnp.abs(b) + root) / 2
    return jnp.where(is_zero, jnp.maximum(b, 0), jnp.where(b >= 0, far, c / far))


@jax.custom_jvp
def _entropy(x: Array, strength: Array) -> Array:
    """The p with strength (1 + log p) + p = x."""
    info = jnp.finfo(x.dtype)
    # where x / strength would overflow, strength is as good as zero
    is_zero = strength <= jnp.maximum(jnp.abs(x) / (0.1 * float(info.max)), float(info.tiny))
    safe = jnp.where(is_zero, 1, strength)
    omega = wright_omega(jnp.where(is_zero, 0, x) / safe - 1 - jnp.log(safe))
    return jnp.where(is_zero, jnp.maximum(x, 0), safe * omega)


@_entropy.defjvp
def _entropy_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, strength), (dx, dstrength) = primals, tangents
    p = _entropy(x, strength)
    is_positive = p > 0
    pull = jnp.log(jnp.where(is_positive, p, 1)) + 1
    weight = jnp.where(is_positive, p / jnp.where(is_positive, p + strength, 1), 0)
    return p, weight * dx - weight * pull * dstrength

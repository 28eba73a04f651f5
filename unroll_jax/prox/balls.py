"""Projections on the simplex and on the balls of l1, l2 and l-infinity, over the whole array."""

import jax.numpy as jnp

from unroll_jax._checks import check_non_negative
from unroll_jax._types import Array
from unroll_jax.prox._arguments import (
    indicator,
    inexact,
    norm_along,
    number,
    real,
    rounding,
    times_at_most_one,
    with_modulus,
)


def sum_threshold(x: Array, total: Array) -> Array:
    """The number t for which the entries of max(x - t, 0) sum to `total`: `()`.

    With the entries sorted, u_1 >= u_2 >= ..., it is the largest of (u_1 + ... + u_k - total) / k over k (Held, Wolfe
    and Crowder 1974; Condat 2016).

    >>> sum_threshold(jnp.array([3.0, 1.0, -1.0]), jnp.array(3.0))
    Array(0.5, dtype=float32)
    """
    entries = jnp.sort(jnp.ravel(x), descending=True)
    counts = jnp.arange(1, entries.size + 1, dtype=entries.dtype)
    return jnp.max((jnp.cumsum(entries) - total) / counts, initial=-jnp.inf)


def ball_threshold(modulus: Array, radius: Array) -> Array:
    """The smallest t >= 0 for which max(modulus - t, 0) sums to at most `radius`: `()`.

    >>> ball_threshold(jnp.array([3.0, 1.0]), jnp.array(3.0))
    Array(0.5, dtype=float32)
    """
    return jnp.maximum(sum_threshold(modulus, radius), 0)


def simplex(x: Array, strength: Array | float = 1.0, *, total: Array | float = 1.0) -> Array:
    """The nearest non-negative array whose entries sum to `total`: max(x - t, 0) for the right t.

    Args:
        x: any shape, real; the sum runs over all entries.
        strength: not used; it is there so that every proximal operator is called alike.
        total: `()`, non-negative; same unit as `x`.

    >>> simplex(jnp.array([3.0, 1.0, -1.0]), total=3.0)
    Array([2.5, 0.5, 0. ], dtype=float32)
    """
    del strength
    x = real(x)
    return jnp.maximum(x - sum_threshold(x, number("total", total, x, check_non_negative)), 0)


def simplex_value(x: Array, strength: Array | float = 1.0, *, total: Array | float = 1.0) -> Array:
    """0 where `x` is non-negative and sums to `total`, up to rounding, else infinite: `()`.

    >>> simplex_value(jnp.array([0.75, 0.25]))
    Array(0., dtype=float32)
    """
    del strength
    x = real(x)
    total = number("total", total, x, check_non_negative)
    violation = jnp.maximum(jnp.abs(jnp.sum(x) - total), -jnp.min(x, initial=0))
    return indicator(violation, rounding(x, total))


def l1_ball(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """The nearest array with ||z||_1 <= radius: soft thresholding with the right threshold.

    Args:
        x: any shape, real or complex; the norm runs over all entries.
        strength: not used.
        radius: `()`, non-negative; same unit as `x`.

    >>> l1_ball(jnp.array([3.0, -1.0, 0.0]), radius=3.0)
    Array([ 2.5, -0.5,  0. ], dtype=float32)
    """
    del strength
    x = inexact(x)
    modulus = jnp.abs(x)
    threshold = ball_threshold(modulus, number("radius", radius, x, check_non_negative))
    return with_modulus(x, modulus, jnp.maximum(modulus - threshold, 0))


def l1_ball_value(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """0 where ||x||_1 <= radius, up to rounding, else infinite: `()`.

    >>> l1_ball_value(jnp.array([3.0, -1.0]), radius=3.0)
    Array(inf, dtype=float32)
    """
    del strength
    x = inexact(x)
    radius = number("radius", radius, x, check_non_negative)
    return indicator(jnp.sum(jnp.abs(x)) - radius, rounding(x, radius))


def l2_ball(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """The nearest array with ||z||_2 <= radius: x min(1, radius / ||x||_2).

    Args:
        x: any shape, real or complex; the norm runs over all entries.
        strength: not used.
        radius: `()`, non-negative; same unit as `x`. With `translated`, the ball around another point.

    >>> l2_ball(jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """
    del strength
    x = inexact(x)
    return times_at_most_one(x, number("radius", radius, x, check_non_negative), norm_along(x, None))


def l2_ball_value(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """0 where ||x||_2 <= radius, up to rounding, else infinite: `()`.

    >>> l2_ball_value(jnp.array([0.6, 0.8]))
    Array(0., dtype=float32)
    """
    del strength
    x = inexact(x)
    radius = number("radius", radius, x, check_non_negative)
    return indicator(jnp.sum(norm_along(x, None)) - radius, rounding(x, radius))


def linf_ball(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """`x` with every modulus cut to `radius`: the projection on the ball of the l-infinity norm.

    Args:
        x: any shape, real or complex.
        strength: not used.
        radius: `()`, non-negative; same unit as `x`.

    >>> linf_ball(jnp.array([3.0, -0.5]))
    Array([ 1. , -0.5], dtype=float32)
    """
    del strength
    x = inexact(x)
    radius = number("radius", radius, x, check_non_negative)
    return times_at_most_one(x, radius, jnp.abs(x)) if jnp.iscomplexobj(x) else jnp.clip(x, -radius, radius)


def linf_ball_value(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """0 where max |x_i| <= radius, up to rounding, else infinite: `()`.

    >>> linf_ball_value(jnp.array([3.0, -0.5]))
    Array(inf, dtype=float32)
    """
    del strength
    x = inexact(x)
    radius = number("radius", radius, x, check_non_negative)
    return indicator(jnp.max(jnp.abs(x), initial=0) - radius, rounding(x, radius))

"""Proximal operators of norms that look at more than one entry: l2, groups of l2, l-infinity."""

import jax.numpy as jnp

from unroll_jax._checks import check_non_negative
from unroll_jax._types import Array
from unroll_jax.prox._arguments import inexact, norm_along, of_entries, with_modulus, with_one_strength
from unroll_jax.prox.balls import ball_threshold


def l2(x: Array, strength: Array | float) -> Array:
    """`x` shortened by `strength`, or zero: the proximal operator of the norm ||z||_2 of the whole array.

    x max(1 - strength / ||x||_2, 0), block soft thresholding (Parikh and Boyd 2014, section 6.5.1).

    Args:
        x: any shape, real or complex; one block.
        strength: `()`, same unit as `x`, non-negative.

    >>> l2(jnp.array([3.0, 4.0]), 2.5)
    Array([1.5, 2. ], dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    return _shortened(x, strength, norm_along(x, None))


def l2_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * ||x||_2, the value that `l2` belongs to: `()`.

    >>> l2_value(jnp.array([3.0, 4.0]))
    Array(5., dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    return strength * jnp.sum(norm_along(x, None))


def group_l21(x: Array, strength: Array | float, *, axis: int | tuple[int, ...] = -1) -> Array:
    """`x` with every group shortened by `strength`, or zero: the proximal operator of a sum of l2 norms.

    A group is what differs only along `axis`: the channels of a pixel by default (Yuan and Lin 2006).

    Args:
        x: any shape, real or complex.
        strength: `()`, or one for each group: broadcastable to `x` with length 1 along `axis`; non-negative.
        axis: one axis or several, along which the norms are taken.

    Raises:
        ValueError: for a strength of another shape, or a known negative one.

    >>> group_l21(jnp.array([[3.0, 4.0], [0.3, 0.4]]), 2.5)
    Array([[1.5, 2. ],
           [0. , 0. ]], dtype=float32)
    """
    x = inexact(x)
    _check_axis(x, axis)
    norm = norm_along(x, axis)
    return _shortened(x, _of_groups(strength, norm), norm)


def group_l21_value(x: Array, strength: Array | float = 1.0, *, axis: int | tuple[int, ...] = -1) -> Array:
    """The sum over groups of strength * ||x_group||_2, the value that `group_l21` belongs to: `()`.

    >>> group_l21_value(jnp.array([[3.0, 4.0], [0.3, 0.4]]))
    Array(5.5, dtype=float32)
    """
    x = inexact(x)
    _check_axis(x, axis)
    norm = norm_along(x, axis)
    return jnp.sum(_of_groups(strength, norm) * norm)


def linf(x: Array, strength: Array | float) -> Array:
    """`x` with its largest moduli cut to one level: the proximal operator of the norm max |z_i|.

    What is cut off sums to `strength`; if all of `x` is less than that, zero (Parikh and Boyd 2014, section 6.5.2).

    Args:
        x: any shape, real or complex; the norm runs over all entries.
        strength: `()`, same unit as `x`, non-negative.

    >>> linf(jnp.array([-4.0, 3.0, 1.0]), 3.0)
    Array([-2.,  2.,  1.], dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    modulus = jnp.abs(x)
    return with_modulus(x, modulus, jnp.minimum(modulus, ball_threshold(modulus, strength)))


def linf_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * max |x_i|, the value that `linf` belongs to: `()`.

    >>> linf_value(jnp.array([-4.0, 3.0]))
    Array(4., dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    return strength * jnp.max(jnp.abs(x), initial=0)


def _shortened(x: Array, strength: Array, norm: Array) -> Array:
    stays = norm > strength
    return x * jnp.where(stays, 1 - strength / jnp.where(stays, norm, 1), 0)


def _of_groups(strength: Array | float, norm: Array) -> Array:
    try:
        fits = jnp.broadcast_shapes(jnp.shape(strength), norm.shape) == norm.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`strength` must have shape () or one entry for each group, {norm.shape}, got {jnp.shape(strength)}."
        )
    return of_entries("strength", strength, norm, check_non_negative)


def _check_axis(x: Array, axis: int | tuple[int, ...]) -> None:
    axes = [
        index % x.ndim if -x.ndim <= index < x.ndim else None
        for index in (axis if isinstance(axis, tuple) else (axis,))
    ]
    if None in axes or len(set(axes)) < len(axes):
        raise ValueError(f"`axis` must be one axis of `x` or several, each once, got {axis} for shape {x.shape}.")

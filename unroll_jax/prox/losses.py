"""Proximal operators of the losses of classification and regression, each entry by itself: real numbers only."""

from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_inside, check_signs
from unroll_jax._types import Array
from unroll_jax.prox._arguments import of_entries, real, with_strength


def logistic(x: Array, strength: Array | float, *, labels: Array | float = 1.0) -> Array:
    """The proximal operator of the logistic loss sum log(1 + exp(-labels_i z_i)), by Newton's method.

    It starts at zero, on the side of the root from which it never oversteps it. Derivatives are exact.

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative.
        labels: `()` or the shape of `x`, -1 or 1.

    >>> logistic(jnp.array([-0.5, 0.5]), 1.0)
    Array([0.        , 0.8082...], dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    labels = _labels(labels, x)
    return labels * _logistic_margin(labels * x, jnp.broadcast_to(strength, x.shape))


def logistic_value(x: Array, strength: Array | float = 1.0, *, labels: Array | float = 1.0) -> Array:
    """`strength` * sum log(1 + exp(-labels_i x_i)), the value that `logistic` belongs to: `()`.

    >>> logistic_value(jnp.array([0.0]))
    Array(0.6931..., dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    return jnp.sum(strength * jax.nn.softplus(-_labels(labels, x) * x))


def hinge(x: Array, strength: Array | float, *, labels: Array | float = 1.0) -> Array:
    """`x` moved toward its label by at most `strength`, and not past it: that of the sum of max(1 - labels_i z_i, 0).

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative.
        labels: `()` or the shape of `x`, -1 or 1.

    >>> hinge(jnp.array([-2.0, 0.5, 3.0]), 1.0)
    Array([-1.,  1.,  3.], dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    labels = _labels(labels, x)
    return x + labels * jnp.clip(1 - labels * x, 0, strength)


def hinge_value(x: Array, strength: Array | float = 1.0, *, labels: Array | float = 1.0) -> Array:
    """`strength` * sum max(1 - labels_i x_i, 0), the value that `hinge` belongs to: `()`.

    >>> hinge_value(jnp.array([-2.0, 0.5]))
    Array(3.5, dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    return jnp.sum(strength * jnp.maximum(1 - _labels(labels, x) * x, 0))


def quantile(x: Array, strength: Array | float, *, level: Array | float = 0.5) -> Array:
    """`x` moved toward zero, unlike from above and from below: that of sum max(level z_i, (level - 1) z_i).

    From above by level * strength, from below by (1 - level) * strength: the loss of quantile regression (Koenker
    and Bassett 1978), half the l1 norm at level 0.5.

    Args:
        x: any shape, real.
        strength: `()` or the shape of `x`, non-negative.
        level: `()` or the shape of `x`, between 0 and 1.

    >>> quantile(jnp.array([-2.0, 2.0]), 1.0, level=0.75)
    Array([-1.75,  1.25], dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    level = _level(level, x)
    return x - jnp.clip(x, (level - 1) * strength, level * strength)


def quantile_value(x: Array, strength: Array | float = 1.0, *, level: Array | float = 0.5) -> Array:
    """`strength` * sum max(level x_i, (level - 1) x_i), the value that `quantile` belongs to: `()`.

    >>> quantile_value(jnp.array([-2.0, 2.0]), level=0.75)
    Array(2., dtype=float32)
    """
    x, strength = with_strength(real(x), strength)
    level = _level(level, x)
    return jnp.sum(strength * jnp.maximum(level * x, (level - 1) * x))


def _labels(labels: Array | float, x: Array) -> Array:
    return of_entries("labels", labels, x, check_signs)


def _level(level: Array | float, x: Array) -> Array:
    return of_entries("level", level, x, lambda name, value: check_inside(name, value, 0, 1))


@jax.custom_jvp
def _logistic_margin(a: Array, strength: Array) -> Array:
    """The t with t - strength / (1 + exp(t)) = a."""

    def newton(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, _, count = carry
        pull = jax.nn.sigmoid(-t)
        change = (t - a - strength * pull) / (1 + strength * pull * (1 - pull))
        return t - change, change, count + 1

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        t, change, count = carry
        rounding = 4 * float(jnp.finfo(a.dtype).eps)
        return (count < 100) & jnp.any(jnp.abs(change) > rounding * (jnp.abs(t) + 1))

    start = (jnp.zeros_like(a), jnp.full_like(a, jnp.inf), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, newton, start)[0]


@_logistic_margin.defjvp
def _logistic_margin_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    t = _logistic_margin(*primals)
    pull = jax.nn.sigmoid(-t)
    return t, (tangents[0] + pull * tangents[1]) / (1 + primals[1] * pull * (1 - pull))

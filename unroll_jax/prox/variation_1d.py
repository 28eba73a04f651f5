"""The proximal operator of the total variation of signals, exactly."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.prox._arguments import real, with_one_strength


def total_variation_1d(x: Array, strength: Array | float) -> Array:
    """`x` made piecewise constant: the exact proximal operator of sum |z_i+1 - z_i|, in a number of steps like n.

    By dynamic programming (Johnson 2013): the derivative of the best objective of the first i entries is piecewise
    linear in z_i, and clipping it to [-strength, strength] gives that of the next. The pieces found, each is the mean
    of `x` over it, moved toward its neighbours by strength / length; so derivatives are exact too.

    Args:
        x: `(n,)`, real.
        strength: `()`, same unit as `x`, non-negative.

    Raises:
        ValueError: for what is no vector, complex numbers, or a known negative strength.

    >>> total_variation_1d(jnp.array([0.0, 0.5, 4.0, 4.5]), 1.0)
    Array([0.75, 0.75, 3.75, 3.75], dtype=float32)
    """
    x, strength = with_one_strength(_vector(x), strength)
    if x.size == 0:
        return x
    solution = _fused(jax.lax.stop_gradient(x), jax.lax.stop_gradient(strength))
    rises = jnp.sign(jnp.diff(solution))
    piece = jnp.cumsum(jnp.append(0, (rises != 0).astype(jnp.int32)))
    pull = jnp.append(rises, 0) - jnp.append(0, rises)
    sums = functools.partial(jax.ops.segment_sum, segment_ids=piece, num_segments=x.size, indices_are_sorted=True)
    lengths = jnp.maximum(sums(jnp.ones_like(x)), 1)
    return ((sums(x) + strength * sums(pull.astype(x.dtype))) / lengths)[piece]


def total_variation_1d_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * sum |x_i+1 - x_i|, the value that `total_variation_1d` belongs to: `()`.

    >>> total_variation_1d_value(jnp.array([0.0, 1.0, -1.0]))
    Array(3., dtype=float32)
    """
    x, strength = with_one_strength(_vector(x), strength)
    return strength * jnp.sum(jnp.abs(jnp.diff(x)))


def _vector(x: Array) -> Array:
    x = real(x)
    if x.ndim != 1:
        raise ValueError(f"`x` must be a vector (n,), got shape {x.shape}. A batch goes through jax.vmap.")
    return x


def _fused(x: Array, strength: Array) -> Array:
    """The minimizer of strength * sum |z_i+1 - z_i| + ||z - x||^2 / 2, by dynamic programming; not differentiable."""
    num = x.shape[0]

    # The derivative's bends lie at places[first..last], sorted; there slope and intercept of the line change. Entry i
    # adds one bend on either side, so the deque starts in the middle of its arrays and never overflows.
    def cut(bends: Any, index: Array, line: tuple[Array, Array], level: Array, towards: int) -> Any:
        """The index of the first bend that stays, the line there, and where it meets `level`, going inward."""
        places, slopes, intercepts, other_end = bends

        def is_past(carry: Any) -> Array:
            i, slope, intercept = carry
            is_left = towards * (other_end - i) >= 0
            reached = slope * places[i] + intercept
            return is_left & (towards * (level - reached) > 0)

        def pop(carry: Any) -> Any:
            i, slope, intercept = carry
            return i + towards, slope + towards * slopes[i], intercept + towards * intercepts[i]

        i, slope, intercept = jax.lax.while_loop(is_past, pop, (index, *line))
        return i, slope, intercept, (level - intercept) / slope

    def forward(carry: Any, entry: Array) -> tuple[Any, tuple[Array, Array]]:
        places, slopes, intercepts, first, last, offset = carry
        one = jnp.ones_like(entry)
        # the outermost lines: slope 1 from the newest entry, on top of the clipped -strength and strength
        left_line, right_line = (one, -offset - entry), (one, offset - entry)
        bends = (places, slopes, intercepts)
        i, left_slope, left_intercept, low = cut((*bends, last), first, left_line, -strength, 1)
        j, right_slope, right_intercept, high = cut((*bends, i), last, right_line, strength, -1)
        first, last = i - 1, j + 1
        places = places.at[first].set(low).at[last].set(high)
        slopes = slopes.at[first].set(left_slope).at[last].set(-right_slope)
        intercepts = intercepts.at[first].set(left_intercept + strength).at[last].set(strength - right_intercept)
        return (places, slopes, intercepts, first, last, strength), (low, high)

    zeros = jnp.zeros(2 * num + 2, x.dtype)
    start = (zeros, zeros, zeros, jnp.int32(num + 1), jnp.int32(num), jnp.zeros_like(strength))
    (places, slopes, intercepts, first, last, offset), (lows, highs) = jax.lax.scan(forward, start, x[:-1])
    line = (jnp.ones_like(x[0]), -offset - x[-1])
    end = cut((places, slopes, intercepts, last), first, line, jnp.zeros_like(x[0]), 1)[3]

    def backward(z: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        z = jnp.clip(z, *bounds)
        return z, z

    _, before = jax.lax.scan(backward, end, (lows, highs), reverse=True)
    return jnp.append(before, end)

"""The proximal operator of the total variation of signals, exactly."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.prox._arguments import real, with_one_strength


def total_variation_1d(x: Array, strength: Array | float) -> Array:
    """`x` made piecewise constant: the exact proximal operator of sum |z_i+1 - z_i|, in 3 n steps, one after another.

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
    lows, highs = _bounds(x, strength)

    def backward(z: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        z = jnp.clip(z, *bounds)
        return z, z

    _, before = jax.lax.scan(backward, lows[-1], (lows[:-1], highs[:-1]), reverse=True)
    return jnp.append(before, lows[-1])


class _Sweep(NamedTuple):
    """Where the sweep over the entries stands.

    The derivative of the best objective of entries 0..entry, clipped before the last of them was added, is a line at
    the far left, and bends at `bends[first..last]`: rows of a place, and of the changes of slope and intercept there.
    """

    bends: Array  # (2 n + 2, 3), the last row for writes that do not count
    bounds: Array  # (n + 1, 2), where the derivative is clipped; the last row likewise
    entry: Array
    first: Array
    last: Array
    left: Array  # (2,), slope and intercept of the line left of the first bend that is not yet passed
    right: Array  # (2,), of the line right of the last one


def _bounds(x: Array, strength: Array) -> tuple[Array, Array]:
    """Where each derivative is cut at -strength and at strength, two of `(n,)`; at the end, twice where it is zero."""
    num = x.shape[0]
    one = jnp.ones_like(strength)

    def lines(entry: Array, level: Array) -> tuple[Array, Array]:
        # slope 1 from the entry, on top of the constants that clipping leaves outside
        value = x[jnp.minimum(entry, num - 1)]
        return jnp.stack([one, -level - value]), jnp.stack([one, level - value])

    def advance(_: Array, sweep: _Sweep) -> _Sweep:
        bends, bounds, entry, first, last, left, right = sweep
        is_end = entry == num - 1
        # both rows in one gather, and both written in one scatter: XLA:CPU copies all rows in each step otherwise
        start, end = bends[jnp.stack([first, last])]
        low, high = jnp.where(is_end, 0, -strength), jnp.where(is_end, 0, strength)
        has_bends = (first <= last) & (entry < num)
        # inward from the left until the line meets -strength before its next bend, then from the right likewise
        passes_left = has_bends & (left[0] * start[0] + left[1] < low)
        passes_right = has_bends & ~passes_left & (right[0] * end[0] + right[1] > high)
        meets = ~passes_left & ~passes_right & (entry < num)
        cuts = jnp.stack([(low - left[1]) / left[0], (high - right[1]) / right[0]])
        new_left, new_right = lines(entry + 1, strength)
        bend_left = jnp.stack([cuts[0], left[0], left[1] + strength])
        bend_right = jnp.stack([cuts[1], -right[0], strength - right[1]])
        # entries add a bend on either side, so the rows in use stay in the middle and never run out
        return _Sweep(
            bends.at[jnp.where(meets, jnp.stack([first - 1, last + 1]), 2 * num + 1)].set(
                jnp.stack([bend_left, bend_right])
            ),
            bounds.at[jnp.where(meets, entry, num)].set(cuts),
            entry + meets,
            first + passes_left - meets,
            last - passes_right + meets,
            jnp.where(meets, new_left, left + jnp.where(passes_left, start[1:], 0)),
            jnp.where(meets, new_right, right - jnp.where(passes_right, end[1:], 0)),
        )

    start = _Sweep(
        jnp.zeros((2 * num + 2, 3), x.dtype),
        jnp.zeros((num + 1, 2), x.dtype),
        jnp.int32(0),
        jnp.int32(num + 1),
        jnp.int32(num),
        *lines(jnp.int32(0), jnp.zeros_like(strength)),
    )
    # each entry is met once, and each of its two bends passed once at most; a fixed number of steps, so that under
    # jax.vmap no array is copied to keep what has ended
    bounds = jax.lax.fori_loop(0, 3 * num, advance, start).bounds[:num]
    return bounds[:, 0], bounds[:, 1]

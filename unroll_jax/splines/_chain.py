"""Vectors whose successive differences are bounded: the nearest one, and the nearest floating-point one.

Plain arrays, one vector at a time; `feasible` maps them over channels and says what the vectors mean.
"""

import functools

import jax
import jax.numpy as jnp

from unroll_jax._types import Array


@jax.custom_jvp
def nearest_chain(values: Array, lower: Array, upper: Array) -> Array:
    """The Euclidean projection of `values` on the vectors v with lower[n] <= v[n + 1] - v[n] <= upper[n].

    Dynamic programming over F_n(v), the least half squared distance over v[0], ..., v[n] with v[n] = v. Its derivative
    is increasing and piecewise linear, and with its root r_n

        F_n+1'(v) = v - values[n + 1] + F_n'(v - lower[n])   for v below r_n + lower[n]
                                      + 0                    between
                                      + F_n'(v - upper[n])   for v above r_n + upper[n].

    A piece of F_n' is kept as its slope and its own root, an average of shifted values: no cancellation, and bounds may
    be infinite. Exact up to rounding after len(values) steps of O(len(values)) work each. Backward, v[n] is r_n clipped
    to what v[n + 1] allows. The algorithm is ours, in the manner of Johnson (2013) for the fused lasso.

    The derivative is exact almost everywhere, in the bounds too: over a run of differences that push against their
    bound, the tangent is averaged. A difference that lies on its bound without pushing does not join a run.

    Args:
        values: `(n,)`.
        lower: `(n - 1,)`, -inf where there is no bound.
        upper: `(n - 1,)`, nowhere below `lower`; inf where there is no bound.
    """
    num_breaks = 2 * lower.shape[0]
    index = jnp.arange(num_breaks + 1)  # piece n lies left of break n; breaks not in use wait at infinity

    def root_of(breaks: Array, zeros: Array) -> tuple[Array, Array]:
        # the derivative is negative at a break that the zero of the piece left of it has not reached
        piece = jnp.sum((breaks < zeros[:-1]) | (breaks == -jnp.inf))
        ends = jnp.concatenate([jnp.full(1, -jnp.inf, breaks.dtype), breaks, jnp.full(1, jnp.inf, breaks.dtype)])
        return piece, jnp.clip(zeros[piece], ends[piece], ends[piece + 1])

    def forward(pieces: tuple[Array, Array, Array], bound: tuple[Array, Array, Array]):
        breaks, slopes, zeros = pieces
        low, high, value = bound
        piece, root = root_of(breaks, zeros)
        is_left, is_flat = index <= piece, index == piece + 1
        new = jnp.where(index[:-1] == piece, root + low, root + high)
        old = jnp.where(is_left[:-1], breaks + low, jnp.roll(breaks, 2) + high)
        breaks = jnp.where((index[:-1] == piece) | is_flat[:-1], new, old)
        slopes = jnp.where(is_flat, 0, jnp.where(is_left, slopes, jnp.roll(slopes, 2)))
        zeros = jnp.where(is_left, zeros + low, jnp.roll(zeros, 2) + high)
        zeros = jnp.where(is_flat, value, (slopes * zeros + value) / (slopes + 1))
        return (breaks, slopes + 1, zeros), root

    def backward(following: Array, bound: tuple[Array, Array, Array]):
        low, high, root = bound
        value = jnp.clip(root, following - high, following - low)
        return value, value

    start = (
        jnp.full(num_breaks, jnp.inf, values.dtype),
        jnp.ones(num_breaks + 1, values.dtype),
        jnp.full(num_breaks + 1, values[0]),
    )
    (breaks, _, zeros), roots = jax.lax.scan(forward, start, (lower, upper, values[1:]))
    _, last = root_of(breaks, zeros)
    _, rest = jax.lax.scan(backward, last, (lower, upper, roots), reverse=True)
    return jnp.concatenate([rest, last[None]])


@nearest_chain.defjvp
def _nearest_chain_jvp(primals, tangents):
    values, lower, upper = primals
    values_dot, lower_dot, upper_dot = tangents
    nearest = nearest_chain(values, lower, upper)
    # the multiplier of a difference: positive where it pushes against its upper bound
    multiplier = jnp.cumsum(nearest - values)[:-1]
    rounding = jnp.finfo(values.dtype).eps * values.shape[0] * jnp.max(jnp.abs(values))
    is_tight = jnp.abs(multiplier) > rounding
    bound_dot = jnp.where(is_tight, jnp.where(multiplier > 0, upper_dot, lower_dot), 0)
    # a run is one offset plus the bounds along it, and the offset is the mean of what is left
    offset_dot = jnp.pad(jnp.cumsum(bound_dot), (1, 0))
    run = jnp.pad(jnp.cumsum(~is_tight), (1, 0))
    total = functools.partial(jax.ops.segment_sum, segment_ids=run, num_segments=values.shape[0])
    mean_dot = total(values_dot - offset_dot) / jnp.maximum(total(jnp.ones_like(values)), 1)
    return nearest, mean_dot[run] + offset_dot


def reachable_change(start: Array, target: Array, lower: Array, upper: Array) -> Array:
    """`change` such that start + change, as floating-point numbers, is `target` up to rounding and within the bounds.

    Sums are rounded to multiples of the last digit of the larger summand; where this would break a bound, the sum is
    moved inward by such digits, entry after entry. Between bounds closer than a digit there may be no number.

    Args:
        start: `(n,)`.
        target: `(n,)`, with differences within the bounds up to rounding.
        lower: `(n - 1,)`, the bounds on differences, as in `nearest_chain`.
        upper: `(n - 1,)`.
    """

    def last_digit(x: Array) -> Array:
        x = jnp.abs(x)
        return jnp.nextafter(x, jnp.inf) - x

    def land(previous: Array, entry: tuple[Array, Array, Array, Array]):
        begin, end, low, high = entry
        change = jnp.clip(end, previous + low, previous + high) - begin
        for _ in range(3):
            reached = begin + change
            digit = jnp.maximum(last_digit(change), last_digit(reached))
            difference = reached - previous
            change = jnp.where(difference > high, change - digit, jnp.where(difference < low, change + digit, change))
        return begin + change, change

    first = target[0] - start[0]
    _, rest = jax.lax.scan(land, start[0] + first, (start[1:], target[1:], lower, upper))
    return jnp.concatenate([first[None], rest])

"""Proximal operators of the total variation of images, by an inner iteration."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.prox._arguments import inexact, norm_along, times_at_most_one, with_one_strength


def total_variation(
    x: Array,
    strength: Array | float,
    *,
    isotropic: bool = True,
    axes: Sequence[int] = (0, 1),
    num_steps: int = 100,
) -> Array:
    """`x` with its differences shrunk, edges kept: the proximal operator of total variation, nearly.

    Fast gradient projection on the dual problem, with step size 1 / (4 len(axes)) (Beck and Teboulle 2009) and adaptive
    restart (O'Donoghue and Candes 2015). The distance to the minimizer is at most sqrt(2 gap), with the gap of
    `total_variation_gap`; on a photograph in [0, 1] with noise and strength 0.1, its root mean square is 3e-4 after 100
    steps, 6e-5 after 200 and 9e-6 after 500. Gradients are those of the iterations, which reverse mode keeps in memory.

    Args:
        x: any shape with these axes, real or complex; images are `(height, width, channels)`.
        strength: `()`, same unit as `x`, non-negative.
        isotropic: the length of the gradient of each pixel and channel; False for the sum of its absolute entries.
        axes: along which differences are taken; each channel has its own variation.
        num_steps: iterations.

    Raises:
        ValueError: for axes that `x` does not have, a known negative strength, or `num_steps` below 1.

    >>> total_variation(jnp.array([[0.0, 0.0], [4.0, 4.0]]), 1.0)
    Array([[1., 1.],
           [3., 3.]], dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    return x - _differences_adjoint(_dual_point(x, strength, isotropic, axes, num_steps), _axes(x, axes))


def total_variation_value(
    x: Array,
    strength: Array | float = 1.0,
    *,
    isotropic: bool = True,
    axes: Sequence[int] = (0, 1),
) -> Array:
    """`strength` times the total variation of `x`, the value that `total_variation` belongs to: `()`.

    >>> total_variation_value(jnp.array([[0.0, 4.0], [3.0, 4.0]]))
    Array(6., dtype=float32)
    """
    x, strength = with_one_strength(inexact(x), strength)
    return strength * jnp.sum(_sizes(_differences(x, _axes(x, axes)), isotropic))


def total_variation_gap(
    x: Array,
    strength: Array | float,
    *,
    isotropic: bool = True,
    axes: Sequence[int] = (0, 1),
    num_steps: int = 100,
) -> Array:
    """The duality gap at which `total_variation` with these arguments stops: `()`.

    An upper bound of what its objective is above its minimum, and of half the squared distance to the minimizer.

    >>> bool(total_variation_gap(jnp.array([[0.0, 0.0], [4.0, 4.0]]), 1.0) < 1e-5)
    True
    """
    x, strength = with_one_strength(inexact(x), strength)
    axes = _axes(x, axes)
    dual = _dual_point(x, strength, isotropic, axes, num_steps)
    differences = _differences(x - _differences_adjoint(dual, axes), axes)
    # strength TV(z) - <dual, D z>, term by term, as all of them are non-negative
    products = jnp.sum(jnp.real(jnp.conj(dual) * differences), axis=0)
    return jnp.sum(strength * jnp.sum(_sizes(differences, isotropic), axis=0) - products)


def _dual_point(x: Array, strength: Array, isotropic: bool, axes: Sequence[int], num_steps: int) -> Array:
    """The q, of size at most `strength` at each pixel, that nearly minimizes ||x - D* q||^2 / 2."""
    check_count("num_steps", num_steps)
    axes = _axes(x, axes)

    def project(q: Array) -> Array:
        return times_at_most_one(q, strength, norm_along(q, 0) if isotropic else jnp.abs(q))

    def step(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        q, extrapolated, momentum = carry
        rise = _differences(x - _differences_adjoint(extrapolated, axes), axes)
        q_next = project(extrapolated + rise / (4 * len(axes)))
        change = q_next - q
        # the momentum points uphill: it starts again from nothing
        restarts = jnp.sum(jnp.real(jnp.conj(extrapolated - q_next) * change)) > 0
        momentum_next = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        weight = jnp.where(restarts, 0, (momentum - 1) / momentum_next)
        return q_next, q_next + weight * change, jnp.where(restarts, 1, momentum_next)

    zero = jnp.zeros((len(axes), *x.shape), x.dtype)
    return jax.lax.fori_loop(0, num_steps, step, (zero, zero, jnp.ones((), strength.dtype)))[0]


def _differences(x: Array, axes: tuple[int, ...]) -> Array:
    """Forward differences, zero at the far end, one leading entry per axis."""
    return jnp.stack([jnp.concatenate([jnp.diff(x, axis=a), jnp.zeros_like(_last(x, a))], axis=a) for a in axes])


def _differences_adjoint(q: Array, axes: tuple[int, ...]) -> Array:
    total = jnp.zeros_like(q[0])
    for part, axis in zip(q, axes, strict=True):
        inner = jax.lax.slice_in_dim(part, 0, part.shape[axis] - 1, axis=axis)
        end = jnp.zeros_like(_last(part, axis))
        total = total + jnp.concatenate([end, inner], axis=axis) - jnp.concatenate([inner, end], axis=axis)
    return total


def _last(x: Array, axis: int) -> Array:
    return jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)


def _sizes(differences: Array, isotropic: bool) -> Array:
    return norm_along(differences, 0) if isotropic else jnp.abs(differences)


def _axes(x: Array, axes: Sequence[int]) -> tuple[int, ...]:
    axes = tuple(axes)
    is_known = bool(axes) and all(-x.ndim <= axis < x.ndim for axis in axes)
    if not is_known or len({axis % x.ndim for axis in axes}) < len(axes) or x.size == 0:
        raise ValueError(f"`axes` must be axes of `x`, each once, got {axes} for shape {x.shape}.")
    return tuple(axis % x.ndim for axis in axes)

"""Proximal operators that act on the singular values or the eigenvalues of a matrix.

Their derivatives are those of spectral functions, by divided differences of the values (Lewis and Sendov 2001; for
singular values, Candes, Sing-Long and Trzasko 2013), so they are right where singular values repeat or are zero, where
that of the singular vectors does not exist.
"""

from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative
from unroll_jax._types import Array
from unroll_jax.prox._arguments import indicator, inexact, number, rounding, with_one_strength
from unroll_jax.prox.balls import ball_threshold


def nuclear(x: Array, strength: Array | float) -> Array:
    """`x` with its singular values moved toward zero by `strength`: that of the nuclear norm, their sum.

    Singular value thresholding (Cai, Candes and Shen 2010).

    Args:
        x: `(m, n)`, real or complex.
        strength: `()`, same unit as `x`, non-negative.

    Raises:
        ValueError: for what is no matrix, or a known negative strength.

    >>> nuclear(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
    Array([[1., 0.],
           [0., 0.]], dtype=float32)
    """
    return _shrink_singular_values(*with_one_strength(_matrix(x), strength))


def nuclear_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * the sum of the singular values of `x`, the value that `nuclear` belongs to: `()`.

    >>> nuclear_value(jnp.diag(jnp.array([3.0, -1.0])))
    Array(4., dtype=float32)
    """
    x, strength = with_one_strength(_matrix(x), strength)
    return strength * jnp.sum(_singular_values(x))


def nuclear_ball(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """The nearest matrix whose singular values sum to at most `radius`: their projection on an l1 ball.

    Args:
        x: `(m, n)`, real or complex.
        strength: not used; it is there so that every proximal operator is called alike.
        radius: `()`, non-negative; same unit as `x`.

    >>> nuclear_ball(jnp.diag(jnp.array([3.0, 1.0])), radius=2.0)
    Array([[2., 0.],
           [0., 0.]], dtype=float32)
    """
    del strength
    x = _matrix(x)
    threshold = ball_threshold(_singular_values(x), number("radius", radius, x, check_non_negative))
    return _shrink_singular_values(x, threshold)


def nuclear_ball_value(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """0 where the singular values of `x` sum to at most `radius`, up to rounding, else infinite: `()`.

    >>> nuclear_ball_value(jnp.diag(jnp.array([3.0, 1.0])), radius=2.0)
    Array(inf, dtype=float32)
    """
    del strength
    x = _matrix(x)
    radius = number("radius", radius, x, check_non_negative)
    return indicator(jnp.sum(_singular_values(x)) - radius, rounding(x, radius))


def spectral_norm(x: Array, strength: Array | float) -> Array:
    """`x` with its largest singular values cut to one level: that of the spectral norm, the largest of them.

    x minus its projection on the nuclear ball of radius `strength` (Moreau's decomposition).

    Args:
        x: `(m, n)`, real or complex.
        strength: `()`, same unit as `x`, non-negative.

    >>> spectral_norm(jnp.diag(jnp.array([3.0, 1.0])), 1.0)
    Array([[2., 0.],
           [0., 1.]], dtype=float32)
    """
    x, strength = with_one_strength(_matrix(x), strength)
    return x - _shrink_singular_values(x, ball_threshold(_singular_values(x), strength))


def spectral_norm_value(x: Array, strength: Array | float = 1.0) -> Array:
    """`strength` * the largest singular value of `x`, the value that `spectral_norm` belongs to: `()`.

    >>> spectral_norm_value(jnp.diag(jnp.array([3.0, 1.0])))
    Array(3., dtype=float32)
    """
    x, strength = with_one_strength(_matrix(x), strength)
    return strength * jnp.max(_singular_values(x), initial=0)


def spectral_ball(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """`x` with its singular values cut to `radius`: the projection on the matrices of at most this spectral norm.

    Args:
        x: `(m, n)`, real or complex.
        strength: not used.
        radius: `()`, non-negative; same unit as `x`. A layer with radius 1 is non-expansive.

    >>> spectral_ball(jnp.diag(jnp.array([3.0, 0.5])))
    Array([[1. , 0. ],
           [0. , 0.5]], dtype=float32)
    """
    del strength
    x = _matrix(x)
    return x - _shrink_singular_values(x, number("radius", radius, x, check_non_negative))


def spectral_ball_value(x: Array, strength: Array | float = 1.0, *, radius: Array | float = 1.0) -> Array:
    """0 where the largest singular value of `x` is at most `radius`, up to rounding, else infinite: `()`.

    >>> spectral_ball_value(jnp.diag(jnp.array([3.0, 0.5])))
    Array(inf, dtype=float32)
    """
    del strength
    x = _matrix(x)
    radius = number("radius", radius, x, check_non_negative)
    largest = jnp.max(_singular_values(x), initial=0)
    # what is cut off is subtracted, so it counts by its own size; that is not known any more
    return indicator(largest - radius, 10 * rounding(x, radius))


def positive_semidefinite(x: Array, strength: Array | float = 1.0) -> Array:
    """The nearest Hermitian matrix without negative eigenvalues: those of the Hermitian part of `x` are cut at 0.

    Args:
        x: `(n, n)`, real or complex.
        strength: not used.

    Raises:
        ValueError: for what is no square matrix.

    >>> positive_semidefinite(jnp.diag(jnp.array([3.0, -0.5])))
    Array([[3., 0.],
           [0., 0.]], dtype=float32)
    """
    del strength
    return _cut_eigenvalues(_hermitian_part(_square(x)))


def positive_semidefinite_value(x: Array, strength: Array | float = 1.0) -> Array:
    """0 where `x` is Hermitian without negative eigenvalues, up to rounding, else infinite: `()`.

    >>> positive_semidefinite_value(jnp.diag(jnp.array([3.0, -0.5])))
    Array(inf, dtype=float32)
    """
    del strength
    x = _square(x)
    hermitian = _hermitian_part(x)
    violation = jnp.max(jnp.abs(x - hermitian), initial=0) - jnp.min(jnp.linalg.eigvalsh(hermitian), initial=0)
    return indicator(violation, rounding(x, jnp.max(jnp.abs(x), initial=0)))


@jax.custom_jvp
def _shrink_singular_values(x: Array, threshold: Array) -> Array:
    """U max(s - threshold, 0) V* for x = U s V*."""
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    return (left * jnp.maximum(values - threshold, 0)[None, :]) @ right


@_shrink_singular_values.defjvp
def _shrink_singular_values_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, threshold), (dx, dthreshold) = primals, tangents
    left, values, right = jnp.linalg.svd(x, full_matrices=False)
    # at threshold zero nothing is cut, zeros included
    stays = (values > threshold) | (threshold == 0)
    shrunk = jnp.maximum(values - threshold, 0)
    kept = jnp.where(stays, jnp.where(values > 0, shrunk / jnp.where(values > 0, values, 1), 1), 0)

    def quotient(rises: Array, runs: Array, both: Array) -> Array:
        neither = ~(stays[:, None] | stays[None, :])
        ratio = rises / jnp.where(runs == 0, 1, runs)
        return jnp.where(neither, 0, jnp.where(stays[:, None] & stays[None, :], both, ratio))

    sums = values[:, None] + values[None, :]
    # (f_i - f_j) / (s_i - s_j) and (f_i + f_j) / (s_i + s_j), with their limits
    slopes = quotient(shrunk[:, None] - shrunk[None, :], values[:, None] - values[None, :], jnp.ones_like(sums))
    secants = quotient(
        shrunk[:, None] + shrunk[None, :],
        sums,
        jnp.where(sums > 0, 1 - 2 * threshold / jnp.where(sums > 0, sums, 1), 1),
    )
    inner = left.conj().T @ dx @ right.conj().T
    flipped = inner.conj().T
    middle = slopes * (inner + flipped) / 2 + secants * (inner - flipped) / 2
    # the parts of dx whose columns or rows lie outside the singular vectors; one of the two is zero
    columns = dx @ right.conj().T - left @ inner
    rows = left.conj().T @ dx - inner @ right
    middle = middle - jnp.diag(jnp.where(stays, dthreshold, 0))
    tangent = left @ middle @ right + (columns * kept[None, :]) @ right + left @ (kept[:, None] * rows)
    return (left * shrunk[None, :]) @ right, tangent.astype(x.dtype)


@jax.custom_jvp
def _cut_eigenvalues(x: Array) -> Array:
    """U max(e, 0) U* for x = U e U*, Hermitian."""
    values, vectors = jnp.linalg.eigh(x)
    return (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.conj().T


@_cut_eigenvalues.defjvp
def _cut_eigenvalues_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    values, vectors = jnp.linalg.eigh(x)
    cut, is_positive = jnp.maximum(values, 0), values > 0
    gaps = values[:, None] - values[None, :]
    differ = is_positive[:, None] ^ is_positive[None, :]
    slopes = jnp.where(
        differ,
        (cut[:, None] - cut[None, :]) / jnp.where(differ, gaps, 1),
        jnp.broadcast_to(is_positive[:, None], gaps.shape).astype(values.dtype),
    )
    inner = vectors.conj().T @ dx @ vectors
    return (vectors * cut[None, :]) @ vectors.conj().T, vectors @ (slopes * inner) @ vectors.conj().T


def _matrix(x: Array) -> Array:
    x = inexact(x)
    if x.ndim != 2:
        raise ValueError(f"`x` must be a matrix (m, n), got shape {x.shape}. A batch goes through jax.vmap.")
    return x


def _square(x: Array) -> Array:
    x = _matrix(x)
    if x.shape[0] != x.shape[1]:
        raise ValueError(f"`x` must be a square matrix (n, n), got shape {x.shape}.")
    return x


def _hermitian_part(x: Array) -> Array:
    return (x + x.conj().T) / 2


def _singular_values(x: Array) -> Array:
    return jnp.linalg.svd(x, compute_uv=False)

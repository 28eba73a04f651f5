"""Linear bijections of the channels: their scales, and an invertible 1 x 1 convolution."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu, solve_triangular

from unroll_jax._checks import check_count, check_inexact, check_key
from unroll_jax._types import Array

_SMALLEST_STD = 1e-6  # a channel that does not vary is not blown up beyond this


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ActNorm:
    """A scale and a shift for every channel: y = exp(log_scale) (x + shift) (Kingma and Dhariwal 2018).

    `fit_actnorm` makes one from a batch.

    Attributes:
        shift: `(channels,)`, in the unit of `x`.
        log_scale: `(channels,)`.

    >>> norm = ActNorm(jnp.array([1.0]), jnp.array([0.0]))
    >>> norm.forward(jnp.array([[[2.0], [3.0]]]))
    (Array([[[3.],
            [4.]]], dtype=float32), Array(0., dtype=float32))
    """

    shift: Array
    log_scale: Array

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The image of `x`, `(..., channels)`, and the log-determinant, (positions) * sum(log_scale).

        Raises:
            ValueError: if `x` has other channels.
        """
        shift, scale = self._over(x)
        return scale * (x + shift), _num_positions(x) * jnp.sum(self.log_scale)

    def inverse(self, y: Array) -> Array:
        """The `x` with the image `y`.

        Raises:
            ValueError: if `y` has other channels.
        """
        shift, scale = self._over(y)
        return y / scale - shift

    def _over(self, x: Array) -> tuple[Array, Array]:
        check_channels(x, jnp.shape(self.shift)[-1])
        return jnp.broadcast_to(self.shift, x.shape), jnp.broadcast_to(jnp.exp(self.log_scale), x.shape)


def fit_actnorm(batch: Array) -> ActNorm:
    """The `ActNorm` after which every channel of `batch` has mean 0 and standard deviation 1.

    Args:
        batch: `(..., channels)`; the statistics are over all axes but the last.

    Raises:
        ValueError: for what is no array of a floating-point type with channels, or an empty one.

    >>> norm = fit_actnorm(jnp.array([[1.0], [5.0]]))
    >>> norm.forward(jnp.array([5.0]))[0]
    Array([1.], dtype=float32)
    """
    check_inexact("batch", batch)
    if batch.ndim < 2 or batch.size == 0:
        raise ValueError(f"`batch` must have shape (..., channels), and examples, got {batch.shape}.")
    axes = tuple(range(batch.ndim - 1))
    mean = jnp.mean(batch, axis=axes, keepdims=True)
    # what rounding took, which a small deviation magnifies
    mean += jnp.mean(batch - mean, axis=axes, keepdims=True)
    std = jnp.maximum(jnp.std(batch, axis=axes), _SMALLEST_STD)
    return ActNorm(-mean.ravel(), -jnp.log(std))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InvertibleConvolution:
    """A 1 x 1 convolution y = W x of the channels at every position, by the factors W = P L U.

    L has ones and `lower` below them, U has signs * exp(log_diagonal) and `upper` above them, and P permutes, so the
    determinant is known and never zero (Kingma and Dhariwal 2018). `factored_convolution` makes one of a matrix.

    Attributes:
        lower: `(channels, channels)`, of which what is below the diagonal counts.
        upper: `(channels, channels)`, of which what is above the diagonal counts.
        log_diagonal: `(channels,)`.
        signs: `(channels,)`, -1 or 1; not learned.
        permutation: `(channels,)`, whole numbers: row n of W is row permutation[n] of L U; not learned.

    >>> swap = InvertibleConvolution(jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.zeros(2), jnp.ones(2), jnp.array([1, 0]))
    >>> swap.forward(jnp.array([3.0, 4.0]))
    (Array([4., 3.], dtype=float32), Array(0., dtype=float32))
    """

    lower: Array
    upper: Array
    log_diagonal: Array
    signs: Array
    permutation: Array

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The image of `x`, `(..., channels)`, and the log-determinant, (positions) * sum(log_diagonal).

        Raises:
            ValueError: if `x` has other channels.
        """
        check_channels(x, jnp.shape(self.log_diagonal)[-1])
        lower, upper = self._factors()
        matrix = (lower @ upper)[self.permutation]
        return x @ matrix.T, _num_positions(x) * jnp.sum(self.log_diagonal)

    def inverse(self, y: Array) -> Array:
        """The `x` with the image `y`, by triangular solves.

        Raises:
            ValueError: if `y` has other channels.
        """
        check_channels(y, jnp.shape(self.log_diagonal)[-1])
        lower, upper = self._factors()
        identity = jnp.eye(lower.shape[0], dtype=lower.dtype)
        # of the small matrix, once for all positions and examples
        half = solve_triangular(lower, identity[jnp.argsort(self.permutation)], lower=True, unit_diagonal=True)
        return y @ solve_triangular(upper, half, lower=False).T

    def _factors(self) -> tuple[Array, Array]:
        identity = jnp.eye(jnp.shape(self.lower)[-1], dtype=jnp.result_type(self.lower))
        diagonal = jnp.diag(self.signs * jnp.exp(self.log_diagonal))
        return jnp.tril(self.lower, -1) + identity, jnp.triu(self.upper, 1) + diagonal


def random_convolution(key: Array, num_channels: int, dtype: Any = jnp.float32) -> InvertibleConvolution:
    """The `InvertibleConvolution` of a random orthogonal matrix, which has the log-determinant 0.

    Args:
        key: a random key.
        num_channels: at least 1.
        dtype: of the factors.

    Raises:
        ValueError: for what is no key or no number of channels.

    >>> convolution = random_convolution(jax.random.key(0), 3)
    >>> x = jnp.array([1.0, 2.0, 2.0])
    >>> bool(jnp.allclose(jnp.linalg.norm(convolution.forward(x)[0]), 3.0))
    True
    """
    check_key("key", key)
    check_count("num_channels", num_channels)
    orthogonal, _ = jnp.linalg.qr(jax.random.normal(key, (num_channels, num_channels), dtype))
    return factored_convolution(orthogonal)


def factored_convolution(matrix: Array) -> InvertibleConvolution:
    """The `InvertibleConvolution` of a matrix.

    Args:
        matrix: `(channels, channels)`, invertible.

    Raises:
        ValueError: for another shape.

    >>> factored_convolution(jnp.array([[0.0, 2.0], [1.0, 0.0]])).forward(jnp.array([3.0, 4.0]))
    (Array([8., 3.], dtype=float32), Array(0.6931472, dtype=float32))
    """
    check_inexact("matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`matrix` must have shape (channels, channels), got {matrix.shape}.")
    permuting, lower, upper = lu(matrix)
    diagonal = jnp.diag(upper)
    return InvertibleConvolution(
        lower=jnp.tril(lower, -1),
        upper=jnp.triu(upper, 1),
        log_diagonal=jnp.log(jnp.abs(diagonal)),
        signs=jnp.sign(diagonal),
        permutation=jnp.argmax(permuting, axis=1),
    )


def check_channels(x: Array, num_channels: int) -> None:
    """Raise unless the last axis of `x` has so many channels."""
    if jnp.shape(x)[-1:] != (num_channels,):
        raise ValueError(
            f"`x` must have {num_channels} channels as its last axis, got shape {jnp.shape(x)}. Images are (height, "
            "width, channels)."
        )


def _num_positions(x: Array) -> int:
    return x.size // x.shape[-1]

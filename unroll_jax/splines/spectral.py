"""Spectral norms bounded from above: of matrices, and of convolutions whatever the size of the image.

Power iteration approaches a norm from below, and a network built on it is not quite as Lipschitz as it says. Everything
here is a bound from above, in floating point too: the rounding of every product is part of it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.splines._interpolation import wide


def spectral_bound(matrix: Array, *, num_steps: int = 8) -> Array:
    """An upper bound of the spectral norm of `matrix`, tight and differentiable.

    Gram iteration (Delattre et al. 2023, arXiv 2305.16173): G_0 = W, G_k+1 = G_k* G_k, and

        ||W|| = ||G_k||^(1 / 2^k) <= ||G_k||_F^(1 / 2^k),

    at most rank^(1 / 2^(k + 1)) times the norm: 1.4 % above it for rank 1000 after 8 steps. Every G_k is divided by its
    Frobenius norm, so nothing overflows; the bound is put together from the last one back, and each time the rounding
    of a product, at most eps times its length for matrices of norm 1, is added.

    Args:
        matrix: `(m, n)`, real or complex.
        num_steps: k, the number of products of matrices of the smaller of both sizes.

    Returns:
        `()`, real; in single precision or wider.

    Raises:
        ValueError: if `matrix` has no two axes or is of integers, or `num_steps` is below 1.

    >>> round(float(spectral_bound(jnp.diag(jnp.array([3.0, 2.0, 1.0])))), 3)
    3.0
    """
    _check_matrix(matrix)
    check_count("num_steps", num_steps)
    return _gram_bound(matrix, num_steps)


def orthonormalized(matrix: Array, *, num_iterations: int = 25) -> Array:
    """The matrix with orthonormal rows or columns nearest to `matrix`, with a norm of at most 1 in floating point too.

    Bjorck and Bowie (1971):  W <- W (3 I - W* W) / 2,  which moves every singular value of (0, sqrt(3)) to 1; it starts
    with W divided by `spectral_bound`. Singular values below 1.5^-num_iterations of the largest one have not arrived,
    so the result is divided by a bound of its norm at the end, min(`spectral_bound`, sqrt(1 + ||W* W - I||_F)), which
    is 1 up to rounding where they all have.

    Args:
        matrix: `(m, n)`, real, not zero.
        num_iterations: each two products of matrices.

    Returns:
        The shape of `matrix`.

    Raises:
        ValueError: as `spectral_bound`, or if `num_iterations` is below 1.

    >>> orthonormalized(jnp.array([[3.0, 0.0], [0.0, -0.1]])).round(3)
    Array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    _check_matrix(matrix)
    check_count("num_iterations", num_iterations)
    dtype = matrix.dtype
    wider = matrix.astype(wide(dtype))
    tall = wider if matrix.shape[0] >= matrix.shape[1] else wider.T
    # few steps: this bound need not be tight
    tall = tall / jnp.maximum(_gram_bound(tall, 4), jnp.finfo(tall.dtype).tiny)

    def iteration(w: Array, _: None) -> tuple[Array, None]:
        return 1.5 * w - 0.5 * _product(w, _product(w.T, w)), None

    tall, _ = jax.lax.scan(iteration, tall, length=num_iterations)
    size = tall.shape[1]
    defect = _frobenius(_product(tall.T, tall) - jnp.eye(size, dtype=tall.dtype))
    rounding = _rounding(tall.dtype, tall.shape[0]) * jnp.sum(tall**2)
    bound = jnp.minimum(jnp.sqrt(1 + defect + rounding), _gram_bound(tall, 8))
    tall = tall / jnp.maximum(_with_rounding(bound, size), 1)
    return (tall if matrix.shape[0] >= matrix.shape[1] else tall.T).astype(dtype)


def conv_spectral_bound(
    kernel: Array, *, num_frequencies: int | None = None, num_steps: int = 6, size: tuple[int, int] | None = None
) -> Array:
    """An upper bound of the norm of the convolution with `kernel`, zero or circular padding, on images of any size.

    The convolution on the infinite plane has the norm  sup_w ||K(w)||  over the frequencies w, with the matrices
    K(w) = sum_p kernel_p exp(-i <w, p>). Circular padding sees some of these frequencies, zero padding is a part of the
    infinite operator; neither can be larger. Here K is taken at `num_frequencies` per axis. Between them, a
    trigonometric polynomial of degree d that is largest at w is at least cos(d |w - v|) times as large at v (M. Riesz
    1914), so with d = (kernel size - 1) / 2 along each axis and N frequencies

        sup_w ||K(w)|| <= max_v ||K(v)|| / (cos(pi d_1 / N) cos(pi d_2 / N)).

    Args:
        kernel: `(height, width, in_channels, out_channels)`, real.
        num_frequencies: N, more than the kernel is wide; by default 6 times its size, for a factor of 1.02 to 1.06.
        num_steps: of `spectral_bound`, which bounds every ||K(v)||.
        size: the (height, width) of the images, if they are known and padding is circular: then these frequencies are
            all there are, and no factor is needed.

    Returns:
        `()`, in single precision or wider.

    Raises:
        ValueError: if `kernel` has no four axes, or there are too few frequencies.

    >>> mean = jnp.full((3, 3, 1, 1), 1 / 9)
    >>> round(float(conv_spectral_bound(mean)), 3)
    1.031
    >>> round(float(conv_spectral_bound(mean, size=(8, 8))), 3)
    1.0
    """
    if jnp.ndim(kernel) != 4 or not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(
            "`kernel` must be real and have shape (height, width, in_channels, out_channels), "
            f"got {jnp.shape(kernel)} of type {jnp.result_type(kernel)}."
        )
    check_count("num_steps", num_steps)
    height, width = kernel.shape[:2]
    if size is not None:
        grid, factor = size, 1.0
    else:
        num_frequencies = 6 * max(height, width) if num_frequencies is None else num_frequencies
        check_count("num_frequencies", num_frequencies)
        if num_frequencies < max(height, width):
            raise ValueError(
                f"`num_frequencies` must be at least the size of the kernel, {max(height, width)}, "
                f"got {num_frequencies}."
            )
        grid = (num_frequencies, num_frequencies)
        angles = [math.pi * (side - 1) / (2 * num_frequencies) for side in (height, width)]
        factor = 1 / (math.cos(angles[0]) * math.cos(angles[1]))
    kernel = kernel.astype(wide(kernel.dtype))
    values = _frequencies(kernel, grid)
    largest = jnp.max(jax.vmap(lambda matrix: _gram_bound(matrix, num_steps))(values))
    # the transform has height * width summands, cosines that are off by a few digits, and complex products
    entries = jnp.sum(jax.vmap(_frobenius)(kernel.reshape(height * width, *kernel.shape[2:])))
    return factor * (largest + _rounding(kernel.dtype, 4 * height * width) * entries)


def _frequencies(kernel: Array, grid: tuple[int, int]) -> Array:
    """The transfer matrices K(w) at the frequencies of a grid, without conjugate ones: `(num, in, out)`, complex."""

    def waves(num_positions: int, num: int, size: int) -> Array:
        # whole numbers are reduced first: exact angles of at most one turn
        turns = jnp.outer(jnp.arange(num), jnp.arange(num_positions)) % size
        angle = turns.astype(kernel.dtype) * (-2 * math.pi / size)
        return jax.lax.complex(jnp.cos(angle), jnp.sin(angle))

    height, width = kernel.shape[:2]
    rows, columns = waves(height, grid[0], grid[0]), waves(width, grid[1] // 2 + 1, grid[1])
    values = jnp.einsum("ap,bq,pqio->abio", rows, columns, kernel, precision="highest")
    return values.reshape(-1, *kernel.shape[2:])


def _gram_bound(matrix: Array, num_steps: int) -> Array:
    matrix = matrix.astype(wide(matrix.dtype))
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    # eps times the length bounds the rounding of a sum of products; complex ones have 4 parts
    length = max(matrix.shape) * (4 if jnp.iscomplexobj(matrix) else 1)
    norms = []
    for _ in range(num_steps):
        norm = _frobenius(matrix)
        norms.append(norm)
        matrix = matrix / jnp.where(norm == 0, 1, norm).astype(matrix.dtype)
        matrix = _product(matrix.conj().T, matrix)
    bound = _frobenius(matrix)
    rounding = _rounding(bound.dtype, length)
    for norm in reversed(norms):
        bound = norm * jnp.sqrt(bound + rounding)
    return _with_rounding(bound, min(matrix.shape))


def _with_rounding(bound: Array, size: int) -> Array:
    """`bound` with room for the rounding of its last steps, and of the division of the matrix by it."""
    return bound * (1 + 4 * math.sqrt(size) * float(jnp.finfo(bound.dtype).eps))


def _rounding(dtype: Any, length: int) -> float:
    return (length + 8) * float(jnp.finfo(dtype).eps)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")  # other precisions round by more than eps


def _frobenius(matrix: Array) -> Array:
    """The Frobenius norm: with derivative 0 at 0, and no overflow or underflow of squares."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), initial=0))
    size = jnp.where(size == 0, 1, size)
    scaled = matrix / size.astype(matrix.dtype)
    squares = jnp.sum(jnp.real(scaled * jnp.conj(scaled)))
    is_zero = squares == 0
    return jnp.where(is_zero, 0, size * jnp.sqrt(jnp.where(is_zero, 1, squares)))


def _check_matrix(matrix: Array) -> None:
    if jnp.ndim(matrix) != 2 or not jnp.issubdtype(jnp.result_type(matrix), jnp.inexact):
        raise ValueError(
            f"`matrix` must have shape (m, n) and a floating-point or complex type, got {jnp.shape(matrix)} of type "
            f"{jnp.result_type(matrix)}. Map over a batch by jax.vmap."
        )

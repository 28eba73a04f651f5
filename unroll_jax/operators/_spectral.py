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
    check_inexact_matrix(matrix)
    check_count("num_steps", num_steps)
    return gram_bound(matrix, num_steps)


def conv_spectral_bound(
    kernel: Array,
    *,
    num_frequencies: int | None = None,
    num_steps: int = 6,
    size: tuple[int, int] | None = None,
    stride: int = 1,
) -> Array:
    """An upper bound of the norm of the convolution with `kernel`, zero or circular padding, on images of any size.

    The convolution on the infinite plane has the norm  sup_w ||K(w)||  over the frequencies w, with the matrices
    K(w) = sum_p kernel_p exp(-i <w, p>). Circular padding sees some of these frequencies, zero padding is a part of the
    infinite operator; neither can be larger. Here K is taken at `num_frequencies` per axis. Between them, a
    trigonometric polynomial of degree d that is largest at w is at least cos(d |w - v|) times as large at v (M. Riesz
    1914), so with d = (kernel size - 1) / 2 along each axis and N frequencies

        sup_w ||K(w)|| <= max_v ||K(v)|| / (cos(pi d_1 / N) cos(pi d_2 / N)).

    Where only every s-th row and column is kept, the s^2 frequencies w + 2 pi (j, k) / s become one: K(w) stands for
    their matrices beside each other, divided by s.

    Args:
        kernel: `(height, width, in_channels, out_channels)`, real.
        num_frequencies: N, more than the kernel is wide; by default 6 times its size, for a factor of 1.02 to 1.06.
        num_steps: of `spectral_bound`, which bounds every ||K(v)||.
        size: the (height, width) of the images, if they are known and padding is circular: then these frequencies are
            all there are, and no factor is needed.
        stride: s, which must divide `size`.

    Returns:
        `()`, in single precision or wider.

    Raises:
        ValueError: if `kernel` has no four axes, there are too few frequencies, or `stride` does not divide `size`.

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
    check_count("stride", stride)
    height, width = kernel.shape[:2]
    if size is not None:
        if size[0] % stride or size[1] % stride:
            raise ValueError(f"`stride` must divide the `size` of the images, got {stride} and {size}.")
        grid, factor = size, 1.0
    else:
        num_frequencies = 6 * max(height, width) if num_frequencies is None else num_frequencies
        check_count("num_frequencies", num_frequencies)
        if num_frequencies < max(height, width):
            raise ValueError(
                f"`num_frequencies` must be at least the size of the kernel, {max(height, width)}, "
                f"got {num_frequencies}."
            )
        num_frequencies = -(-num_frequencies // stride) * stride
        grid = (num_frequencies, num_frequencies)
        factor = _factor_between((height, width), num_frequencies)
    kernel = kernel.astype(wide(kernel.dtype))
    values = frequencies(kernel, grid, whole=stride > 1)
    if stride > 1:
        num_rows, num_columns = grid[0] // stride, grid[1] // stride
        values = values.reshape(stride, num_rows, stride, num_columns, *kernel.shape[2:])
        values = jnp.moveaxis(values, (0, 2), (2, 3)) / stride
    # one matrix from all that comes in, the aliases too
    values = values.reshape(-1, stride * stride * kernel.shape[2], kernel.shape[3])
    largest = jnp.max(jax.vmap(lambda matrix: gram_bound(matrix, num_steps))(values))
    # the transform has height * width summands, cosines that are off by a few digits, and complex products
    entries = jnp.sum(jax.vmap(frobenius)(kernel.reshape(height * width, *kernel.shape[2:])))
    return factor * (largest + rounding(kernel.dtype, 4 * height * width) * entries)


def bank_spectral_bound(bank: Array, *, num_frequencies: int) -> Array:
    """`conv_spectral_bound` of a kernel with one input channel, at a fraction of its time and memory.

    There K(w) is a vector, whose norm needs no Gram iteration. The frequencies are taken row by row, and only the
    largest norm is differentiated.

    Args:
        bank: `(height, width, out_channels)`, real.
        num_frequencies: N; 48 times the size of the kernel make a factor of 1.001.

    Returns:
        `()`, in single precision or wider.
    """
    height, width, _ = bank.shape
    bank = bank.astype(wide(bank.dtype))

    def waves(indices: Array, num_positions: int) -> tuple[Array, Array]:
        angle = _angles(indices, jnp.arange(num_positions), num_frequencies, bank.dtype)
        return jnp.cos(angle), jnp.sin(angle)

    def values(row: Array, columns: Array) -> tuple[Array, Array]:
        """The real and imaginary parts of K: `(num_columns, out_channels)` each."""
        cosine, sine = waves(columns, width)
        real, imaginary = (jnp.tensordot(wave, bank, 1, precision="highest") for wave in waves(row, height))
        return product(cosine, real) - product(sine, imaginary), product(sine, real) + product(cosine, imaginary)

    def squared_norms(row: Array) -> Array:
        real, imaginary = values(row, jnp.arange(num_frequencies // 2 + 1))  # the others are conjugate to these
        return jnp.sum(real**2 + imaginary**2, 1)

    found = jax.lax.map(squared_norms, jnp.arange(num_frequencies))
    row, column = jnp.unravel_index(jnp.argmax(found), found.shape)
    largest = frobenius(jnp.stack(values(row, column[None])))
    # sums along both axes, of cosines that are off by a few digits, and squares: in `largest`, and in what chose it
    entries = jnp.sum(jax.vmap(frobenius)(bank.reshape(height * width, -1)))
    room = rounding(bank.dtype, 8 * (height + width) + 2 * bank.shape[2])
    return _factor_between((height, width), num_frequencies) * (largest + room * entries)


def frequencies(
    kernel: Array, grid: tuple[int, int], *, whole: bool = False, origin: tuple[int, int] = (0, 0)
) -> Array:
    """The transfer matrices of `kernel` at the frequencies of a grid: `(rows, columns, in, out)`, complex.

    K(w) = sum_p kernel_p exp(-i <w, p - origin>)  with w = 2 pi (a / grid[0], b / grid[1]); without the columns that
    are conjugate to others, unless `whole`.
    """

    def waves(num_positions: int, num: int, size: int, start: int) -> Array:
        angle = -_angles(jnp.arange(num), jnp.arange(num_positions) - start, size, kernel.dtype)
        return jax.lax.complex(jnp.cos(angle), jnp.sin(angle))

    height, width = kernel.shape[:2]
    rows = waves(height, grid[0], grid[0], origin[0])
    columns = waves(width, grid[1] if whole else grid[1] // 2 + 1, grid[1], origin[1])
    return jnp.einsum("ap,bq,pqio->abio", rows, columns, kernel, precision="highest")


def _angles(indices: Array, positions: Array, num_frequencies: int, dtype: Any) -> Array:
    """2 pi / num_frequencies times the products of both; whole numbers are reduced first, to at most one turn."""
    turns = jnp.multiply.outer(indices, positions) % num_frequencies
    return turns.astype(dtype) * (2 * math.pi / num_frequencies)


def _factor_between(size: tuple[int, int], num_frequencies: int) -> float:
    """How much larger the norm can be between the sampled frequencies, see `conv_spectral_bound`."""
    rows, columns = (math.cos(math.pi * (side - 1) / (2 * num_frequencies)) for side in size)
    return 1 / (rows * columns)


def gram_bound(matrix: Array, num_steps: int) -> Array:
    """`spectral_bound` without its checks."""
    matrix = matrix.astype(wide(matrix.dtype))
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    # eps times the length bounds the rounding of a sum of products; complex ones have 4 parts
    length = max(matrix.shape) * (4 if jnp.iscomplexobj(matrix) else 1)
    if min(matrix.shape) == 1:  # a vector
        return frobenius(matrix) * (1 + rounding(matrix.real.dtype, length))
    norms = []
    for _ in range(num_steps):
        norm = frobenius(matrix)
        norms.append(norm)
        matrix = matrix / jnp.where(norm == 0, 1, norm).astype(matrix.dtype)
        matrix = product(matrix.conj().T, matrix)
    bound = frobenius(matrix)
    room = rounding(bound.dtype, length)
    for norm in reversed(norms):
        bound = norm * jnp.sqrt(bound + room)
    return with_rounding(bound, min(matrix.shape))


def with_rounding(bound: Array, size: int) -> Array:
    """`bound` with room for the rounding of its last steps, and of the division of the matrix by it."""
    return bound * (1 + 4 * math.sqrt(size) * float(jnp.finfo(bound.dtype).eps))


def rounding(dtype: Any, length: int) -> float:
    """What a sum of so many products is off by at most, relative to the products of the norms."""
    return (length + 8) * float(jnp.finfo(dtype).eps)


def product(a: Array, b: Array) -> Array:
    """`a @ b`, rounded as its type says on every device."""
    return jnp.matmul(a, b, precision="highest")  # other precisions round by more than eps


def frobenius(matrix: Array) -> Array:
    """The Frobenius norm: with derivative 0 at 0, and no overflow or underflow of squares."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), initial=0))
    size = jnp.where(size == 0, 1, size)
    scaled = matrix / size.astype(matrix.dtype)
    squares = jnp.sum(jnp.real(scaled * jnp.conj(scaled)))
    is_zero = squares == 0
    return jnp.where(is_zero, 0, size * jnp.sqrt(jnp.where(is_zero, 1, squares)))


def check_inexact_matrix(matrix: Array) -> None:
    """Raise unless `matrix` has two axes and a floating-point or complex type."""
    if jnp.ndim(matrix) != 2 or not jnp.issubdtype(jnp.result_type(matrix), jnp.inexact):
        raise ValueError(
            f"`matrix` must have shape (m, n) and a floating-point or complex type, got {jnp.shape(matrix)} of type "
            f"{jnp.result_type(matrix)}. Map over a batch by jax.vmap."
        )


def wide(dtype: Any) -> Any:
    """The type to compute in: half precision would not resolve a bound."""
    return jnp.promote_types(dtype, jnp.float32)

"""Matrices of spectral norm 1, in floating point too; the bounds that see to it are those of operators."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.operators._spectral import (
    check_inexact_matrix,
    frobenius,
    gram_bound,
    product,
    rounding,
    wide,
    with_rounding,
)
from unroll_jax.operators._spectral import conv_spectral_bound as conv_spectral_bound
from unroll_jax.operators._spectral import spectral_bound as spectral_bound


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
    check_inexact_matrix(matrix)
    check_count("num_iterations", num_iterations)
    dtype = matrix.dtype
    wider = matrix.astype(wide(dtype))
    tall = wider if matrix.shape[0] >= matrix.shape[1] else wider.T
    # few steps: this bound need not be tight
    tall = tall / jnp.maximum(gram_bound(tall, 4), jnp.finfo(tall.dtype).tiny)

    def iteration(w: Array, _: None) -> tuple[Array, None]:
        return 1.5 * w - 0.5 * product(w, product(w.T, w)), None

    tall, _ = jax.lax.scan(iteration, tall, length=num_iterations)
    size = tall.shape[1]
    defect = frobenius(product(tall.T, tall) - jnp.eye(size, dtype=tall.dtype))
    room = rounding(tall.dtype, tall.shape[0]) * jnp.sum(tall**2)
    bound = jnp.minimum(jnp.sqrt(1 + defect + room), gram_bound(tall, 8))
    tall = tall / jnp.maximum(with_rounding(bound, size), 1)
    return (tall if matrix.shape[0] >= matrix.shape[1] else tall.T).astype(dtype)

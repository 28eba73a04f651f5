"""Encoders that need no training: the matrix least coherent with a dictionary."""

import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.algorithms._encoders import check_dense
from unroll_jax.operators import Dense


def analytic_encoder(operator: Dense) -> Array:
    """The encoder that least confuses the dictionary's atoms with each other: `(n, m)`.

    The minimizer over W, the rows w_i of which are an encoder's, of  ||W A||_F^2  subject to  w_i a_i = 1  for every
    column a_i of A (Liu et al. 2019). Row by row that is a quadratic problem with one linear constraint,
    solved by  w_i = a_i* G^-1 / (a_i* G^-1 a_i),  G = A A*: the rows of the pseudo-inverse, each scaled to meet its
    constraint. Without full row rank it is the solution of least norm.

    Args:
        operator: `Dense`, with a matrix `(m, n)` without a column of zeros.

    Raises:
        ValueError: for an operator without a matrix.

    >>> analytic_encoder(Dense(jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))).round(3)
    Array([[ 1. , -0.5],
           [-0.5,  1. ],
           [ 0.5,  0.5]], dtype=float32)
    """
    check_dense(operator)
    matrix = operator.matrix
    inverse = jnp.linalg.pinv(matrix)
    return inverse / jnp.sum(inverse * matrix.T, axis=1, keepdims=True)


def coherence(encoder: Array, operator: Dense) -> Array:
    """The largest modulus of w_i a_j over i != j, for rows w_i of an encoder and columns a_j of a dictionary: `()`.

    The generalized mutual coherence (Liu et al. 2019) where w_i a_i = 1; with `encoder = matrix.T.conj()` of a
    dictionary with unit columns it is the mutual coherence. The smaller, the fewer layers ALISTA needs.

    >>> coherence(jnp.array([[1.0, -0.5], [0.0, 1.0]]), Dense(jnp.array([[1.0, 0.6], [0.0, 0.8]]))).round(3)
    Array(0.2, dtype=float32)
    """
    check_dense(operator)
    products = jnp.abs(encoder @ operator.matrix)
    return jnp.max(jnp.where(jnp.eye(len(products), dtype=bool), 0, products))

"""Operators given by a matrix or by its diagonal."""

import dataclasses

import jax
import jax.numpy as jnp

from unroll_jax._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """The operator x -> matrix @ x.

    Attributes:
        matrix: `(m, n)`, real or complex. A batch of operators is `jax.vmap(Dense)(matrices)`.

    >>> operator = Dense(jnp.array([[1.0, 2.0, 3.0]]))
    >>> operator(jnp.ones(3)), operator.adjoint(jnp.ones(1))
    (Array([6.], dtype=float32), Array([1., 2., 3.], dtype=float32))
    """

    matrix: Array

    def __call__(self, x: Array) -> Array:
        """`matrix @ x`: from `(n,)` to `(m,)`."""
        _check_vector("x", x, self.matrix, axis=1)
        return self.matrix @ x

    def adjoint(self, y: Array) -> Array:
        """The conjugate transpose of the matrix applied to `y`: from `(m,)` to `(n,)`."""
        _check_vector("y", y, self.matrix, axis=0)
        return self.matrix.T.conj() @ y


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal:
    """The operator x -> diagonal * x; with zeros and ones on the diagonal, a mask.

    Attributes:
        diagonal: any shape, real or complex; the shape of the estimate.

    >>> Diagonal(jnp.array([1.0, 0.0]))(jnp.array([3.0, 4.0]))
    Array([3., 0.], dtype=float32)
    """

    diagonal: Array

    def __call__(self, x: Array) -> Array:
        """`diagonal * x`, the same shape."""
        self._check_shape("x", x)
        return self.diagonal * x

    def adjoint(self, y: Array) -> Array:
        """`conj(diagonal) * y`, the same shape."""
        self._check_shape("y", y)
        return self.diagonal.conj() * y

    def _check_shape(self, name: str, x: Array) -> None:
        if jnp.shape(x) != jnp.shape(self.diagonal):
            raise ValueError(
                f"`{name}` must have the shape {jnp.shape(self.diagonal)} of the operator's diagonal, "
                f"got {jnp.shape(x)}. Pass one example per call and take batches by jax.vmap."
            )


def check_matrix(matrix: Array) -> None:
    """Raise unless `matrix` has two axes."""
    if jnp.ndim(matrix) != 2:
        raise ValueError(
            f"`matrix` of a Dense operator must have shape (m, n), got {jnp.shape(matrix)}. "
            "Map over a batch of operators by jax.vmap."
        )


def _check_vector(name: str, x: Array, matrix: Array, axis: int) -> None:
    check_matrix(matrix)
    size = jnp.shape(matrix)[axis]
    if jnp.shape(x) != (size,):
        raise ValueError(
            f"`{name}` must have shape ({size},) for a Dense operator with a matrix of shape {jnp.shape(matrix)}, "
            f"got {jnp.shape(x)}. Pass one example per call and take batches by jax.vmap."
        )

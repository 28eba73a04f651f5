"""Operators given by a matrix or by its diagonal."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unroll_jax._checks import check_array, check_binary, check_inexact
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

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x by a Cholesky factor of the smaller one of A* A and A A*: from `(n,)` to `(n,)`.

        With fewer rows than columns it is  x - strength A* (I + strength A A*)^-1 A x  (Woodbury).
        """
        _check_vector("x", x, self.matrix, axis=1)
        rows, columns = self.matrix.shape
        adjoint = self.matrix.T.conj()
        if rows < columns:
            return x - strength * (adjoint @ _solve(strength * (self.matrix @ adjoint), self.matrix @ x))
        return _solve(strength * (adjoint @ self.matrix), x)

    def norm_bound(self) -> Array:
        """The largest singular value, with room for rounding: `()`."""
        check_matrix(self.matrix)
        return _with_room(jnp.linalg.norm(self.matrix, ord=2), self.matrix)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FactoredDense(Dense):
    """A `Dense` operator whose `gram_resolvent` costs two products, for any strength; `factored` makes one.

    Attributes:
        matrix: `(m, n)`, real or complex.
        singular_values: `(k,)`, those of the matrix, k = min(m, n).
        right_vectors: `(k, n)`, the conjugate transposes of its right singular vectors.
    """

    singular_values: Array
    right_vectors: Array

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x, in the right singular vectors' coordinates: from `(n,)` to `(n,)`."""
        _check_vector("x", x, self.matrix, axis=1)
        adjoint = self.right_vectors.T.conj()
        shrunk = strength * self.singular_values**2
        if adjoint.shape[0] == adjoint.shape[1]:
            return adjoint @ ((self.right_vectors @ x) / (1 + shrunk))
        # what is orthogonal to all right singular vectors stays
        return x - adjoint @ ((self.right_vectors @ x) * (shrunk / (1 + shrunk)))

    def norm_bound(self) -> Array:
        """The largest singular value, with room for rounding: `()`."""
        return _with_room(jnp.max(self.singular_values), self.matrix)


def factored(matrix: Array) -> FactoredDense:
    """The operator x -> matrix @ x with the singular value decomposition of the matrix at hand.

    Methods that solve a system with I + strength A* A in every iteration (ADMM, Douglas-Rachford, half-quadratic
    splitting, ...) then need two products for it, in place of a Cholesky factor. A training in which the matrix changes
    needs `Dense`. Derivatives in the matrix pass through the decomposition, and its singular values must differ.

    Args:
        matrix: `(m, n)`, real or complex. A batch of operators is `jax.vmap(factored)(matrices)`.

    Raises:
        ValueError: for another shape, or integers.

    >>> gram_resolvent = factored(jnp.array([[1.0, 0.0], [0.0, 3.0]])).gram_resolvent
    >>> gram_resolvent(jnp.ones(2), 1.0), gram_resolvent(jnp.ones(2), 1 / 3)
    (Array([0.5, 0.1], dtype=float32), Array([0.75, 0.25], dtype=float32))
    """
    check_inexact("matrix", matrix)
    matrix = jnp.asarray(matrix)
    check_matrix(matrix)
    _, singular_values, right_vectors = jnp.linalg.svd(matrix, full_matrices=False)
    return FactoredDense(matrix, singular_values, right_vectors)


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

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """Every entry divided by 1 + strength |diagonal|^2: the same shape."""
        self._check_shape("x", x)
        return x / (1 + strength * jnp.real(self.diagonal * self.diagonal.conj()))

    def norm_bound(self) -> Array:
        """The largest modulus on the diagonal, with room for rounding where it is complex: `()`."""
        largest = jnp.max(jnp.abs(self.diagonal))
        return largest * (1 + 4 * float(jnp.finfo(largest.dtype).eps)) if jnp.iscomplexobj(self.diagonal) else largest

    def _check_shape(self, name: str, x: Array) -> None:
        check_array(name, x)
        if jnp.shape(x) != jnp.shape(self.diagonal):
            raise ValueError(
                f"`{name}` must have the shape {jnp.shape(self.diagonal)} of the operator's diagonal, "
                f"got {jnp.shape(x)}. Pass one example per call and take batches by jax.vmap."
            )


def mask(keep: ArrayLike, dtype: Any = jnp.float32) -> Diagonal:
    """The operator that keeps the entries where `keep` holds, and sets all others to zero.

    Args:
        keep: of truth values, or zeros and ones; the shape of the estimate.
        dtype: of the diagonal. Single precision is exact, and takes the precision of wider estimates.

    Raises:
        ValueError: for anything but truth values, zeros and ones.

    >>> mask(jnp.array([True, False]))(jnp.array([3.0, 4.0]))
    Array([3., 0.], dtype=float32)
    """
    keep = jnp.asarray(keep)
    check_binary("keep", keep)
    return Diagonal(keep.astype(dtype))


def check_matrix(matrix: Array) -> None:
    """Raise unless `matrix` has two axes."""
    if jnp.ndim(matrix) != 2:
        raise ValueError(
            f"`matrix` of a Dense operator must have shape (m, n), got {jnp.shape(matrix)}. "
            "Map over a batch of operators by jax.vmap."
        )


def _with_room(norm: Array, matrix: Array) -> Array:
    return norm * (1 + (sum(matrix.shape) + 8) * float(jnp.finfo(norm.dtype).eps))


def _solve(gram: Array, x: Array) -> Array:
    """(I + gram)^-1 x for a positive semidefinite matrix."""
    dtype = jnp.result_type(gram, x)
    factor = jax.scipy.linalg.cho_factor((gram + jnp.eye(len(gram), dtype=gram.dtype)).astype(dtype))
    return jax.scipy.linalg.cho_solve(factor, x.astype(dtype))


def _check_vector(name: str, x: Array, matrix: Array, axis: int) -> None:
    check_matrix(matrix)
    check_array(name, x)
    size = jnp.shape(matrix)[axis]
    if jnp.shape(x) != (size,):
        raise ValueError(
            f"`{name}` must have shape ({size},) for a Dense operator with a matrix of shape {jnp.shape(matrix)}, "
            f"got {jnp.shape(x)}. Pass one example per call and take batches by jax.vmap."
        )

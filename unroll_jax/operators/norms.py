"""Norms of operators."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_adjoint_shape, check_count, check_inexact, check_key, check_operator
from unroll_jax._tree import tree_norm
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.operators.algebra import Adjoint, Composed, Identity, Scaled, Stacked, Sum
from unroll_jax.operators.blur import CircularBlur
from unroll_jax.operators.convolution import Convolution
from unroll_jax.operators.differences import FiniteDifferences
from unroll_jax.operators.matrix import Dense, Diagonal, check_matrix
from unroll_jax.operators.resampling import Downsampling

# whose norm depends on the size of the image, and is known
_ON_A_GRID = (CircularBlur, Downsampling, FiniteDifferences)


def operator_norm(
    operator: LinearOperator, like: PyTree = None, *, num_steps: int = 100, key: Array | None = None
) -> Array:
    """The spectral norm of `operator`, its largest singular value: `()`.

    Exact up to rounding for matrices and diagonals, and with `like` for blur, downsampling and finite differences; for
    multiples and adjoints of these too. For any other one, power iteration on A* A, whose value approaches the norm
    **from below** (Golub and Van Loan, section 8.2): take `norm_bound` where a bound is needed.

    Args:
        operator: a linear operator.
        like: what the operator takes, as arrays or `jax.ShapeDtypeStruct`; not needed for `Dense` and `Diagonal`.
        num_steps: power iterations, at least 1.
        key: where power iteration starts; `jax.random.key(0)` if None.

    Raises:
        ValueError: for what is no operator; if power iteration is needed and `like` is missing or no array, `num_steps`
            is below 1, or `key` is no random key.

    >>> from unroll_jax.operators import Dense
    >>> operator_norm(Dense(jnp.diag(jnp.array([1.0, 3.0]))))
    Array(3., dtype=float32)
    """
    check_operator("operator", operator)
    exact = _exact_norm(operator, like)
    if exact is not None:
        return exact
    if like is None:
        raise ValueError(
            f"`like` must show what the operator {type(operator).__name__} takes (an array or a "
            "jax.ShapeDtypeStruct), because its norm is found by power iteration; got None."
        )
    check_count("num_steps", num_steps)
    check_inexact("like", like, "an array or jax.ShapeDtypeStruct")
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    start = structure.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )

    def normalized(x: PyTree) -> PyTree:
        norm = tree_norm(x)
        return jax.tree.map(lambda a: a / jnp.where(norm == 0, 1, norm).astype(norm.dtype), x)

    def power_step(_: int, x: PyTree) -> PyTree:
        back = operator.adjoint(operator(x))
        check_adjoint_shape(x, back)
        return normalized(back)

    return tree_norm(operator(jax.lax.fori_loop(0, num_steps, power_step, normalized(start))))


def norm_bound(operator: LinearOperator, like: PyTree = None) -> Array:
    """An upper bound of the spectral norm of `operator`, with room for the rounding of the bound itself: `()`.

    It comes from the operator's own method `norm_bound()`, which all of this library have where a bound is known, and
    for operators made of others from theirs:

        ||A B|| <= ||A|| ||B||,  ||A + B|| <= ||A|| + ||B||,  ||(A, B)||^2 <= ||A||^2 + ||B||^2,  ||c A|| = |c| ||A||.

    A chain of convolutions with zeros outside shows why it takes a rule: the norm of its merged kernel is no bound, an
    image that lives at the border can pass it (by 15 % in the published weights of a ridge regularizer).

    Args:
        operator: a linear operator.
        like: what the operator takes, as an array or `jax.ShapeDtypeStruct`: bounds of operators on images become tight
            where their size is known.

    Raises:
        ValueError: for what is no operator, and where no bound is known.

    >>> from unroll_jax.operators import Diagonal, FiniteDifferences, compose
    >>> round(float(norm_bound(FiniteDifferences())) ** 2, 3)
    8.0
    >>> round(float(norm_bound(compose(FiniteDifferences(), Diagonal(jnp.full((8, 8), 0.5))))) ** 2, 3)
    2.0
    """
    check_operator("operator", operator)
    if isinstance(operator, Convolution | CircularBlur | Downsampling | FiniteDifferences):
        return operator.norm_bound(like)
    if isinstance(operator, Adjoint):
        return norm_bound(operator.operator, None if like is None else jax.eval_shape(operator, like))
    if isinstance(operator, Scaled):
        return _up(jnp.abs(operator.factor) * norm_bound(operator.operator, like), 4)
    if isinstance(operator, Sum):
        bounds = [norm_bound(each, like) for each in operator.operators]
        return _up(functools.reduce(jnp.add, bounds), len(bounds))
    if isinstance(operator, Stacked):
        # largest first out of the root, so that no square overflows
        bounds = jnp.stack([norm_bound(each, like) for each in operator.operators])
        largest = jnp.max(bounds)
        ratios = bounds / jnp.where(largest == 0, 1, largest)
        return _up(largest * jnp.sqrt(jnp.sum(ratios**2)), len(bounds) + 4)
    if isinstance(operator, Composed):
        bound = jnp.ones((), jnp.float32)
        for each in reversed(operator.operators):
            bound = bound * norm_bound(each, like)
            like = None if like is None else jax.eval_shape(each, like)
        return _up(bound, len(operator.operators))
    own: Callable[[], Array] | None = getattr(operator, "norm_bound", None)
    if own is None:
        raise ValueError(
            f"`operator` must have a known bound of its norm, got {type(operator).__name__}, which has no method "
            "`norm_bound()`. Give it one, or take `operator_norm`, which comes from below, with a margin."
        )
    return own()


def _exact_norm(operator: LinearOperator, like: PyTree) -> Array | None:
    if isinstance(operator, Dense):
        check_matrix(operator.matrix)
        return jnp.linalg.norm(operator.matrix, ord=2)
    if isinstance(operator, Diagonal):
        return jnp.max(jnp.abs(operator.diagonal))
    if isinstance(operator, Identity):
        return operator.norm_bound()
    if isinstance(operator, _ON_A_GRID):
        return None if like is None else operator.norm_bound(like)
    if isinstance(operator, Adjoint):
        return _exact_norm(operator.operator, None if like is None else jax.eval_shape(operator, like))
    if isinstance(operator, Scaled):
        inner = _exact_norm(operator.operator, like)
        return None if inner is None else jnp.abs(operator.factor) * inner
    return None


def _up(bound: Any, num_operations: int) -> Array:
    """`bound` with room for the rounding of the operations that made it."""
    return bound * (1 + num_operations * float(jnp.finfo(bound.dtype).eps))

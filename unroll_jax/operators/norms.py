"""Norms of operators."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_key, check_operator
from unroll_jax._tree import tree_norm
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.operators.algebra import Adjoint
from unroll_jax.operators.matrix import Dense, Diagonal, check_matrix


def operator_norm(
    operator: LinearOperator, like: PyTree = None, *, num_steps: int = 100, key: Array | None = None
) -> Array:
    """The spectral norm of `operator`, its largest singular value: `()`.

    Exact for `Dense` and `Diagonal` operators. For any other one, power iteration on A* A, whose value
    approaches the norm **from below** (Golub and Van Loan, section 8.2): keep a margin where a bound is
    needed.

    Args:
        operator: a linear operator.
        like: what the operator takes, as arrays or `jax.ShapeDtypeStruct`; needed for power iteration only.
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
    if isinstance(operator, Adjoint) and isinstance(operator.operator, Dense | Diagonal):
        operator = operator.operator
    if isinstance(operator, Dense):
        check_matrix(operator.matrix)
        return jnp.linalg.norm(operator.matrix, ord=2)
    if isinstance(operator, Diagonal):
        return jnp.max(jnp.abs(operator.diagonal))
    if like is None:
        raise ValueError(
            f"`like` must show what the operator {type(operator).__name__} takes (an array or a "
            "jax.ShapeDtypeStruct), because its norm is found by power iteration; got None."
        )
    check_count("num_steps", num_steps)
    leaves, structure = jax.tree.flatten(like)
    for leaf in leaves:
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            raise ValueError(
                "`like` must be an array of a floating-point or complex type, or its jax.ShapeDtypeStruct, "
                f"got {getattr(leaf, 'dtype', type(leaf).__name__)}."
            )
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    keys = jax.random.split(key, len(leaves))
    start = structure.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )

    def normalized(x: PyTree) -> PyTree:
        norm = tree_norm(x)
        return jax.tree.map(lambda a: a / jnp.where(norm == 0, 1, norm).astype(norm.dtype), x)

    def power_step(_: int, x: PyTree) -> PyTree:
        return normalized(operator.adjoint(operator(x)))

    return tree_norm(operator(jax.lax.fori_loop(0, num_steps, power_step, normalized(start))))

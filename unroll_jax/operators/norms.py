"""Norms of operators."""

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count
from unroll_jax._tree import tree_norm
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.operators.algebra import Adjoint
from unroll_jax.operators.matrix import Dense, Diagonal


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
        ValueError: if power iteration is needed and `like` is missing, or `num_steps` is below 1.

    >>> from unroll_jax.operators import Dense
    >>> operator_norm(Dense(jnp.diag(jnp.array([1.0, 3.0]))))
    Array(3., dtype=float32)
    """
    if isinstance(operator, Adjoint) and isinstance(operator.operator, Dense | Diagonal):
        operator = operator.operator
    if isinstance(operator, Dense):
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
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(leaves))
    start = structure.unflatten(
        [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )

    def normalized(x: PyTree) -> PyTree:
        norm = tree_norm(x)
        return jax.tree.map(lambda a: a / jnp.where(norm == 0, 1, norm).astype(norm.dtype), x)

    def power_step(_: int, x: PyTree) -> PyTree:
        return normalized(operator.adjoint(operator(x)))

    return tree_norm(operator(jax.lax.fori_loop(0, num_steps, power_step, normalized(start))))

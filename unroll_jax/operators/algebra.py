"""Operators made of operators."""

import dataclasses
from typing import Any

import jax

from unroll_jax._types import LinearOperator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """The operator x -> operators[0](operators[1](... (x)))."""

    operators: tuple[LinearOperator, ...]

    def __call__(self, x: Any) -> Any:
        """Every operator applied in turn, the last one first."""
        for operator in reversed(self.operators):
            x = operator(x)
        return x

    def adjoint(self, y: Any) -> Any:
        """Every adjoint applied in turn, the first one first."""
        for operator in self.operators:
            y = operator.adjoint(y)
        return y


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint of an operator, as an operator."""

    operator: LinearOperator

    def __call__(self, x: Any) -> Any:
        """The wrapped operator's adjoint applied to `x`."""
        return self.operator.adjoint(x)

    def adjoint(self, y: Any) -> Any:
        """The wrapped operator applied to `y`."""
        return self.operator(y)


def compose(*operators: LinearOperator) -> LinearOperator:
    """The product of `operators`, as in mathematics: `compose(a, b)(x)` is `a(b(x))`.

    Raises:
        ValueError: without any operator.

    >>> import jax.numpy as jnp
    >>> from unroll_jax.operators import Dense, Diagonal
    >>> masked = compose(Diagonal(jnp.array([1.0, 0.0])), Dense(jnp.eye(2)))
    >>> masked(jnp.array([3.0, 4.0]))
    Array([3., 0.], dtype=float32)
    """
    if not operators:
        raise ValueError("`operators` needs at least one operator to compose, got none.")
    return operators[0] if len(operators) == 1 else Composed(operators)


def adjoint(operator: LinearOperator) -> LinearOperator:
    """The adjoint of `operator` as an operator; of an adjoint, the operator it came from.

    >>> import jax.numpy as jnp
    >>> from unroll_jax.operators import Dense
    >>> adjoint(Dense(jnp.array([[1.0, 2.0]])))(jnp.ones(1))
    Array([1., 2.], dtype=float32)
    """
    return operator.operator if isinstance(operator, Adjoint) else Adjoint(operator)

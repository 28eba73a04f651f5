"""Operators made of operators."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_operator
from unroll_jax._types import LinearOperator
from unroll_jax.operators.matrix import Dense


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """The operator x -> operators[0](operators[1](... (x)))."""

    operators: tuple[LinearOperator, ...]

    def __call__(self, x: Any) -> Any:
        """Every operator applied in turn, the last one first."""
        for index, operator in reversed(list(enumerate(self.operators))):
            x = _applied(operator, x, index)
        return x

    def adjoint(self, y: Any) -> Any:
        """Every adjoint applied in turn, the first one first."""
        for index, operator in enumerate(self.operators):
            y = _applied(operator.adjoint, y, index)
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
        ValueError: without any operator, for what is none, and for matrices whose sizes do not fit.

    >>> from unroll_jax.operators import Dense, Diagonal
    >>> masked = compose(Diagonal(jnp.array([1.0, 0.0])), Dense(jnp.eye(2)))
    >>> masked(jnp.array([3.0, 4.0]))
    Array([3., 0.], dtype=float32)
    """
    if not operators:
        raise ValueError("`operators` needs at least one operator to compose, got none.")
    for index, operator in enumerate(operators):
        check_operator(f"operators[{index}]", operator)
    for index, (left, right) in enumerate(itertools.pairwise(operators)):
        shapes = [jnp.shape(each.matrix) for each in (left, right) if isinstance(each, Dense)]
        # a batch of matrices is for jax.vmap, and not known yet
        if len(shapes) == 2 and [len(shape) for shape in shapes] == [2, 2] and shapes[0][1] != shapes[1][0]:
            raise ValueError(
                f"`operators` must fit each other, the last one first: operators[{index + 1}] with a matrix of shape "
                f"{shapes[1]} cannot go into operators[{index}] with one of shape {shapes[0]}. Change their order, or "
                "take the adjoint of one."
            )
    return operators[0] if len(operators) == 1 else Composed(operators)


def adjoint(operator: LinearOperator) -> LinearOperator:
    """The adjoint of `operator` as an operator; of an adjoint, the operator it came from.

    Raises:
        ValueError: for what is no operator.

    >>> from unroll_jax.operators import Dense
    >>> adjoint(Dense(jnp.array([[1.0, 2.0]])))(jnp.ones(1))
    Array([1., 2.], dtype=float32)
    """
    check_operator("operator", operator)
    return operator.operator if isinstance(operator, Adjoint) else Adjoint(operator)


def _applied(function: Callable[[Any], Any], x: Any, index: int) -> Any:
    try:
        return function(x)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"This came up in operators[{index}] of those given to `compose`, for what has shape "
            f"{jax.tree.map(jnp.shape, x)}."
        )
        raise

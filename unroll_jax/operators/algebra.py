"""Operators made of operators."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_operator, check_scalar
from unroll_jax._tree import strong_type
from unroll_jax._types import Array, LinearOperator
from unroll_jax.operators.matrix import Dense


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
    """The operator x -> x, for what is measured directly, as in denoising.

    >>> Identity()(jnp.array([3.0, 4.0]))
    Array([3., 4.], dtype=float32)
    """

    def __call__(self, x: Any) -> Any:
        """`x`."""
        return x

    def adjoint(self, y: Any) -> Any:
        """`y`."""
        return y

    def gram_resolvent(self, x: Any, strength: Array | float) -> Any:
        """Every entry divided by 1 + strength: the same shape."""
        return jax.tree.map(lambda leaf: leaf / (1 + strength), x)

    def norm_bound(self) -> Array:
        """One: `()`."""
        return jnp.ones((), jnp.float32)  # exact, and takes the precision of wider bounds


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """The operator x -> operators[0](x) + operators[1](x) + ..."""

    operators: tuple[LinearOperator, ...]

    def __call__(self, x: Any) -> Any:
        """What the operators make of `x`, added."""
        return _added([operator(x) for operator in self.operators], "operators")

    def adjoint(self, y: Any) -> Any:
        """What the adjoints make of `y`, added."""
        return _added([operator.adjoint(y) for operator in self.operators], "adjoints")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """The operator x -> (operators[0](x), operators[1](x), ...), a tuple of what each of them makes."""

    operators: tuple[LinearOperator, ...]

    def __call__(self, x: Any) -> tuple[Any, ...]:
        """What each operator makes of `x`."""
        return tuple(operator(x) for operator in self.operators)

    def adjoint(self, y: tuple[Any, ...]) -> Any:
        """What each adjoint makes of its own part of `y`, added."""
        if not isinstance(y, tuple | list) or len(y) != len(self.operators):
            got = f"{len(y)} of them" if isinstance(y, tuple | list) else type(y).__name__
            raise ValueError(f"`y` must be a tuple of {len(self.operators)}, one part per stacked operator, got {got}.")
        return _added([operator.adjoint(part) for operator, part in zip(self.operators, y, strict=True)], "adjoints")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """The operator x -> factor * operator(x).

    Attributes:
        operator: any linear operator.
        factor: `()`, real or complex.
    """

    operator: LinearOperator
    factor: Array

    def __call__(self, x: Any) -> Any:
        """What the operator makes of `x`, times the factor."""
        return _times(self.factor, self.operator(x))

    def adjoint(self, y: Any) -> Any:
        """What the adjoint makes of `y`, times the conjugate of the factor."""
        return _times(jnp.conj(self.factor), self.operator.adjoint(y))


def compose(*operators: LinearOperator) -> LinearOperator:
    """The product of `operators`, as in mathematics: `compose(a, b)(x)` is `a(b(x))`.

    Raises:
        ValueError: without any operator, for what is none, and for matrices whose sizes do not fit.

    >>> from unroll_jax.operators import Dense, Diagonal
    >>> masked = compose(Diagonal(jnp.array([1.0, 0.0])), Dense(jnp.eye(2)))
    >>> masked(jnp.array([3.0, 4.0]))
    Array([3., 0.], dtype=float32)
    """
    _check_operators(operators, "compose")
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


def add(*operators: LinearOperator) -> LinearOperator:
    """The sum of `operators`, which take the same shape and return the same shape.

    Raises:
        ValueError: without any operator, or for what is none; from the sum itself, where shapes differ.

    >>> from unroll_jax.operators import Dense, Diagonal
    >>> add(Dense(jnp.ones((2, 2))), Diagonal(jnp.array([1.0, -1.0])))(jnp.array([3.0, 4.0]))
    Array([10.,  3.], dtype=float32)
    """
    _check_operators(operators, "add")
    return operators[0] if len(operators) == 1 else Sum(operators)


def stack(*operators: LinearOperator) -> Stacked:
    """The operator that gives the tuple of what all `operators` make of one `x`; its adjoint adds theirs.

    Raises:
        ValueError: without any operator, or for what is none.

    >>> from unroll_jax.operators import Dense, Diagonal
    >>> stacked = stack(Dense(jnp.ones((1, 2))), Diagonal(jnp.array([1.0, -1.0])))
    >>> stacked(jnp.array([3.0, 4.0]))
    (Array([7.], dtype=float32), Array([ 3., -4.], dtype=float32))
    """
    _check_operators(operators, "stack")
    return Stacked(operators)


def scale(operator: LinearOperator, factor: Array | complex) -> Scaled:
    """The product of the number `factor` and `operator`.

    Args:
        operator: any linear operator.
        factor: `()`, real or complex; as an array it can be learned.

    Raises:
        ValueError: for what is no operator, or a factor that is no single number.

    >>> from unroll_jax.operators import Diagonal
    >>> scale(Diagonal(jnp.array([1.0, -1.0])), 2.0)(jnp.array([3.0, 4.0]))
    Array([ 6., -8.], dtype=float32)
    """
    check_operator("operator", operator)
    check_scalar("factor", factor)
    return Scaled(operator, strong_type(factor))


def _check_operators(operators: tuple[Any, ...], verb: str) -> None:
    if not operators:
        raise ValueError(f"`operators` needs at least one operator to {verb}, got none.")
    for index, operator in enumerate(operators):
        check_operator(f"operators[{index}]", operator)


def _added(parts: list[Any], makers: str) -> Any:
    shapes = [jax.tree.map(jnp.shape, part) for part in parts]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"`operators` can be added where their results have one shape, got {shapes[0]} from the first and "
                f"{shape} from number {index} of the {makers}."
            )
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)


def _times(factor: Array, tree: Any) -> Any:
    # a complex factor makes a real image complex; beyond that, the image decides on the type
    def scaled(leaf: Array) -> Array:
        dtype = jnp.result_type(leaf)
        is_complex = jnp.iscomplexobj(factor) and not jnp.issubdtype(dtype, jnp.complexfloating)
        return jnp.asarray(factor, jnp.promote_types(dtype, jnp.complex64) if is_complex else dtype) * leaf

    return jax.tree.map(scaled, tree)


def _applied(function: Callable[[Any], Any], x: Any, index: int) -> Any:
    try:
        return function(x)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"This came up in operators[{index}] of those given to `compose`, for what has shape "
            f"{jax.tree.map(jnp.shape, x)}."
        )
        raise

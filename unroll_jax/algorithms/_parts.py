"""What splitting methods have in common: their scalars, their default parts, and the conjugate's step."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_function, check_non_negative, check_operator
from unroll_jax._types import Array, Estimate, LinearOperator, Problem, PyTree
from unroll_jax.algorithms._defaults import real_dtype
from unroll_jax.prox import soft_threshold

ProxOfProblem: TypeAlias = Callable[[Any, Any, Problem], Any]
"""`(x, strength, problem) -> x`."""


def problem_prox(x: Estimate, strength: Array, problem: Problem) -> Estimate:
    """The proximal operator that the problem itself has, at `x`."""
    check_attributes("problem", problem, ("prox",), "LeastSquares(operator, measurement), or a `prox_data` of your own")
    return problem.prox(x, strength)


def problem_operator(problem: Problem) -> LinearOperator:
    """The operator that the problem itself has."""
    check_attributes("problem", problem, ("operator",), "LeastSquares(operator, measurement), say")
    return problem.operator


def thresholded(x: Array, strength: Array, problem: Problem) -> Array:
    """`soft_threshold`, whatever the problem."""
    del problem
    return soft_threshold(x, strength)


def unchanged(x: Any, strength: Any, problem: Problem) -> Any:
    """`x`: the proximal operator of nothing, whatever the problem."""
    del strength, problem
    return x


def called(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`: for parameters that are themselves what is applied, such as an nnx module."""
    return function(*args)


def floats(*values: PyTree) -> list[PyTree]:
    """`values` as arrays that are not weakly typed, in the floating-point type that they have or in the default one."""

    def convert(leaf: Any) -> Array:
        dtype = getattr(leaf, "dtype", None)
        return jnp.asarray(leaf, dtype if dtype is not None and jnp.issubdtype(dtype, jnp.inexact) else float)

    return [jax.tree.map(convert, value) for value in values]


def check_strength(name: str, strength: PyTree) -> None:
    """Raise unless every leaf of `strength` is real and >= 0."""
    for leaf in jax.tree.leaves(strength):
        check_non_negative(name, leaf)


def scalars_like(x: Estimate, *values: PyTree) -> list[PyTree]:
    """`values` in the real type of `x`: a parameter of higher precision would raise the state's."""
    dtype = real_dtype(x)
    return [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), value) for value in values]


def times(factor: Array, strength: PyTree) -> PyTree:
    """`factor * strength` for a strength that may be a pytree: one number for each term of a sum."""
    return jax.tree.map(lambda leaf: factor * leaf, strength)


def dual_step(prox: ProxOfProblem, y: Any, step_size: Array, strength: PyTree, problem: Problem) -> Any:
    """The proximal operator of step_size * (strength * g)* at `y`, from that of g, by Moreau's identity.

    y - step_size * prox(y / step_size, strength / step_size)
    """
    inner = prox(jax.tree.map(lambda a: a / step_size.astype(a.dtype), y), times(1 / step_size, strength), problem)
    return jax.tree.map(lambda a, b: a - step_size.astype(a.dtype) * b, y, inner)


def checked_operator(operator: Callable[[Problem], LinearOperator], problem: Problem) -> LinearOperator:
    """The operator that a method takes from its problem."""
    found = operator(problem)
    check_operator("operator(problem)", found)
    return found


def check_operator_function(operator: Any) -> None:
    """Raise unless `operator` is a function of the problem, and not an operator itself."""
    check_function("operator", operator, "lambda problem: problem.operator")
    if hasattr(operator, "adjoint"):
        raise ValueError(
            f"`operator` must be a function of the problem, got the operator {type(operator).__name__} itself. "
            "Write `lambda problem: operator`."
        )


def zeros_of(operator: LinearOperator, x: Estimate) -> Any:
    """Zeros in the shape of operator(x)."""
    shape = jax.eval_shape(operator.__call__, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)


def check_shape(name: str, found: Any, like: Any) -> None:
    """Raise unless what the function `name` returned has the structure and shapes of `like`."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (found, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`{name}` must return what has the shape {shapes[1]}, got {shapes[0]}. "
            "It sees one example per call, without a batch axis."
        )

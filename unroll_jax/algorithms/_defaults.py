"""What algorithms do unless they are told otherwise, and small things that they share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes
from unroll_jax._tree import strong_type
from unroll_jax._types import Array, Estimate, Problem


def problem_gradient(x: Estimate, problem: Problem) -> Estimate:
    """The problem's own gradient at `x`."""
    check_attributes("problem", problem, ("gradient",), "LeastSquares(operator, measurement), say, or a `gradient`")
    return problem.gradient(x)


def slope_at(gradient: Callable[[Estimate, Problem], Estimate], x: Estimate, problem: Problem) -> Estimate:
    """What `gradient` returns at `x`.

    Raises:
        ValueError: if it has another structure than `x`.
    """
    slope = gradient(x, problem)
    structures = [jax.tree.structure(tree) for tree in (x, slope)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"`gradient` must return the structure of the estimate, {structures[0]}, got {structures[1]}. "
            "Let `start` and `gradient` agree."
        )
    return slope


def problem_value(x: Estimate, problem: Problem) -> Array:
    """The problem's own objective at `x`: `()`."""
    check_attributes("problem", problem, ("value",), "LeastSquares(operator, measurement), say, or a `value`")
    return problem.value(x)


def no_penalty(x: Estimate, strength: Array) -> Estimate:
    """`x`: the proximal operator of nothing."""
    del strength
    return x


def real_dtype(x: Estimate) -> Any:
    """The real floating-point type of the entries of `x`."""
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).dtype


def as_float(value: Array | float) -> Array:
    """`value` as an array of floating-point type that is not weakly typed: a 1 is a parameter as well as 1.0."""
    return strong_type(1.0 * value)

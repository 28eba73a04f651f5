"""What the LISTA family's layers have in common: their encoders, residuals and classical starts."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_positive
from unroll_jax._types import Array, Problem
from unroll_jax.operators import Dense, operator_norm

Start: TypeAlias = Callable[[Problem], Array]
"""`problem -> x`, the code before the first layer."""


def check_dense(operator: Any) -> None:
    """Raise unless `operator` is a `Dense` operator."""
    if not isinstance(operator, Dense):
        raise ValueError(
            f"`operator` must be a Dense operator, got {type(operator).__name__}: "
            "the layers' matrices start from its own."
        )


def check_layer(params: Any, fields: tuple[str, ...], made_by: str, x: Array, measurement: Array) -> None:
    """Raise unless `params` has its fields, and an encoder from measurements to codes like `x`."""
    check_attributes("params", params, fields, f"what {made_by} makes")
    wanted = (*jnp.shape(x), *jnp.shape(measurement))
    if jnp.shape(params.encoder) != wanted:
        raise ValueError(
            f"`encoder` must have shape {wanted} for a code of shape {jnp.shape(x)} and a measurement of shape "
            f"{jnp.shape(measurement)}, got {jnp.shape(params.encoder)}. "
            "Make the params of one layer, for this problem's operator."
        )


def residual(x: Array, problem: Problem) -> Array:
    """What `x` does not explain, measurement - operator(x): the shape of the measurement."""
    return problem.measurement - problem.operator(x)


def ista_step_and_threshold(operator: Dense, l1_weight: Array | float) -> tuple[Array, Array]:
    """ISTA's step size 1 / ||operator||^2, and its threshold step_size * l1_weight: both `()`."""
    check_dense(operator)
    check_positive("l1_weight", l1_weight)
    step_size = 1 / operator_norm(operator) ** 2
    return step_size, step_size * jnp.asarray(l1_weight, step_size.dtype)


def log_of_positive(name: str, value: Array | float, dtype: Any) -> Array:
    """The logarithm of a parameter that must be positive, in `dtype`."""
    check_positive(name, value)
    return jnp.log(jnp.asarray(value, dtype))


def real_dtype_of(operator: Dense) -> Any:
    """The real floating-point type of the entries of the operator's matrix."""
    return jnp.finfo(operator.matrix.dtype).dtype


def first_layer() -> Array:
    """The count of layers before the first: `()`."""
    return jnp.zeros((), jnp.int32)

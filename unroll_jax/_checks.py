"""Checks of arguments at the public doors. A value that is being traced is not known yet, and passes."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def check_rate(rate: Any) -> None:
    """Raise unless `rate` lies in [0, 1)."""
    if _is_wrong(lambda: (rate >= 0) & (rate < 1)):
        raise ValueError(
            f"`rate` must lie in [0, 1), got {rate}: a layer lowers its measure by the factor 1 - rate, "
            "so 0.05 asks for 5 % per layer."
        )


def check_non_negative(name: str, value: Any) -> None:
    """Raise unless all of `value` is >= 0; NaN is not."""
    if _is_wrong(lambda: value >= 0):
        raise ValueError(f"`{name}` must be non-negative, got {value}.")


def check_positive(name: str, value: Any) -> None:
    """Raise unless all of `value` is > 0; NaN is not."""
    if _is_wrong(lambda: value > 0):
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_count(name: str, value: Any) -> None:
    """Raise unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def check_floating(name: str, dtype: Any) -> None:
    """Raise unless `dtype` is None or a real floating-point type."""
    try:
        is_right = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        is_right = False
    if not is_right:
        raise ValueError(f"`{name}` must be a floating-point type such as jnp.bfloat16, or None, got {dtype!r}.")


def _is_wrong(condition: Callable[[], Any]) -> bool:
    try:
        with jax.ensure_compile_time_eval():  # a known value inside a traced function is known all the same
            return not bool(jnp.all(condition()))
    except jax.errors.ConcretizationTypeError:
        return False

"""Checks of arguments at the public doors. A value that is being traced is not known yet, and passes."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def check_rate(rate: Any) -> None:
    """Raise unless `rate` lies in [0, 1)."""
    if is_known_false(lambda: (rate >= 0) & (rate < 1)):
        raise ValueError(
            f"`rate` must lie in [0, 1), got {rate}: a layer lowers its measure by the factor 1 - rate, "
            "so 0.05 asks for 5 % per layer."
        )


def check_non_negative(name: str, value: Any) -> None:
    """Raise unless all of `value` is real and >= 0; NaN is not."""
    _check_real(name, value)
    if is_known_false(lambda: value >= 0):
        raise ValueError(f"`{name}` must be non-negative, got {value}.")


def check_positive(name: str, value: Any) -> None:
    """Raise unless all of `value` is real and > 0; NaN is not."""
    _check_real(name, value)
    if is_known_false(lambda: value > 0):
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_inside(name: str, value: Any, lower: float, upper: float) -> None:
    """Raise unless all of `value` is real and strictly between `lower` and `upper`; NaN is not."""
    _check_real(name, value)
    if is_known_false(lambda: (value > lower) & (value < upper)):
        raise ValueError(f"`{name}` must lie strictly between {lower} and {upper}, got {value}.")


def check_array(name: str, value: Any) -> None:
    """Raise unless `value` is one array, one number, or a list of numbers."""
    if not (hasattr(value, "shape") or isinstance(value, numbers.Number | list)):
        raise ValueError(f"`{name}` must be one array or number, got {_kind(value)}.")


def check_scalar(name: str, value: Any) -> None:
    """Raise unless `value` has shape `()`."""
    check_array(name, value)
    if jnp.shape(value) != ():
        raise ValueError(f"`{name}` must have shape (), got {jnp.shape(value)}. Map over several by jax.vmap.")


def check_inexact(name: str, tree: Any, what: str = "an array") -> None:
    """Raise unless every leaf of `tree` is `what`, of a floating-point or complex type."""
    for leaf in jax.tree.leaves(tree):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            raise ValueError(
                f"`{name}` must be {what} of a floating-point or complex type, or several, "
                f"got {getattr(leaf, 'dtype', type(leaf).__name__)}."
            )


def check_adjoint_shape(x: Any, back: Any) -> None:
    """Raise unless `back`, what an operator's adjoint gave, has the structure and the shapes of `x`, what it takes."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (x, back)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`operator.adjoint` must return the shape of what the operator takes, {shapes[0]}, got {shapes[1]}. "
            "Make `adjoint` the conjugate transpose of the operator, or let `from_function` make it."
        )


def check_takes(name: str, operator: Any, back: Any) -> None:
    """Raise unless an operator takes `back`, the shape that its adjoint returns."""
    try:
        jax.eval_shape(operator.__call__, back)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}.adjoint` must return what the operator takes, which {jax.tree.map(jnp.shape, back)} is not: "
            f"{error} Make `adjoint` the conjugate transpose of the operator, or let `from_function` make it."
        ) from error


def check_binary(name: str, value: Any) -> None:
    """Raise unless all of `value` is 0 or 1, or a truth value."""
    if is_known_false(lambda: (value == 0) | (value == 1)):
        raise ValueError(f"`{name}` must consist of truth values, or of zeros and ones, got other numbers.")


def check_vanishes(name: str, make: Callable[[], Any]) -> None:
    """Raise if an entry of the arrays that `make()` gives is another number than zero."""
    if is_known_false(lambda: jnp.stack([jnp.all(~(jnp.abs(leaf) > 0)) for leaf in jax.tree.leaves(make())])):
        raise ValueError(f"`{name}` must be zero, which it is not: a linear function adds no constant.")


def check_probability(name: str, value: Any) -> None:
    """Raise unless all of `value` is real and in [0, 1]; NaN is not."""
    _check_real(name, value)
    if is_known_false(lambda: (value >= 0) & (value <= 1)):
        raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")


def check_signs(name: str, value: Any) -> None:
    """Raise unless all of `value` is -1 or 1."""
    if is_known_false(lambda: (value == 1) | (value == -1)):
        raise ValueError(f"`{name}` must be -1 or 1, got {value}.")


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


def check_ordered(lower_name: str, lower: Any, upper_name: str, upper: Any) -> None:
    """Raise unless `lower <= upper` everywhere."""
    if is_known_false(lambda: lower <= upper):
        raise ValueError(f"`{lower_name}` must be nowhere above `{upper_name}`, got {lower} and {upper}.")


def check_fits(name: str, value: Any, x: Any) -> None:
    """Raise unless `value` broadcasts to the shape of `x`."""
    check_array(name, value)
    shape = jnp.shape(x)
    try:
        fits = jnp.broadcast_shapes(jnp.shape(value), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"`{name}` must have shape () or that of `x`, {shape}, got {jnp.shape(value)}.")


def check_real_array(name: str, x: Any) -> None:
    """Raise if `x` is of a complex type."""
    if jnp.iscomplexobj(x):
        raise ValueError(
            f"`{name}` must be real, got {jnp.result_type(x)}: complex numbers have no order. "
            "Take its real and its imaginary part each by itself."
        )


def check_function(name: str, value: Any, form: str) -> None:
    """Raise unless `value` can be called; `form` shows such a function."""
    if not callable(value):
        raise ValueError(f"`{name}` must be a function such as `{form}`, got {_kind(value)}.")


def check_attributes(name: str, value: Any, attributes: tuple[str, ...], like: str) -> None:
    """Raise unless `value` has the attributes, which `like` has."""
    if not all(hasattr(value, attribute) for attribute in attributes):
        wanted = " and ".join(f"`.{attribute}`" for attribute in attributes)
        raise ValueError(f"`{name}` must have {wanted}, got {_kind(value)}. Give {like}.")


def check_algorithm(algorithm: Any) -> None:
    """Raise unless `algorithm` has `init` and `step`."""
    if not all(callable(getattr(algorithm, name, None)) for name in ("init", "step")):
        made_by = getattr(algorithm, "__name__", None)
        hint = f" Call it: {made_by}()." if callable(algorithm) and made_by else ""
        raise ValueError(f"`algorithm` must be an Algorithm(init, step), got {_kind(algorithm)}.{hint}")


def check_operator(name: str, operator: Any) -> None:
    """Raise unless `operator` can be called and has `adjoint`."""
    if not (callable(operator) and callable(getattr(operator, "adjoint", None))):
        raise ValueError(
            f"`{name}` must be a linear operator, which can be called and has a method `adjoint`, "
            f"got {_kind(operator)}. A matrix becomes one by Dense(matrix)."
        )


def check_key(name: str, key: Any) -> None:
    """Raise unless `key` is one random key, of either kind that JAX has."""
    dtype = getattr(key, "dtype", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_typed and dtype != jnp.uint32:
        raise ValueError(f"`{name}` must be a random key, got {_kind(key)}. Make one by jax.random.key(seed).")
    if jnp.ndim(key) != (0 if is_typed else 1):
        raise ValueError(f"`{name}` must be one random key, got shape {jnp.shape(key)}. Map over keys by jax.vmap.")


def check_state(state: Any, new_state: Any) -> None:
    """Raise unless a step kept the structure, shapes and dtypes of its state."""
    old, new = jax.tree.structure(state), jax.tree.structure(new_state)
    if old != new:
        raise ValueError(
            f"`step` must keep the structure of its state: it got {old} and returned {new}. "
            "Let `init` return what `step` returns."
        )
    after = [jax.typeof(leaf) for leaf in jax.tree.leaves(new_state)]
    for (path, leaf), b in zip(jax.tree_util.tree_leaves_with_path(state), after, strict=True):
        a = jax.typeof(leaf)
        # the loops of JAX give what is weakly typed the dtype that comes back
        if a.shape != b.shape or (a.dtype != b.dtype and not a.weak_type):
            raise ValueError(
                f"`step` must keep the shapes and dtypes of its state, but it turned "
                f"`state{jax.tree_util.keystr(path)}` from {a.dtype}{list(a.shape)} into {b.dtype}{list(b.shape)}. "
                "Make `init` and `step` agree; a batch of problems goes through jax.vmap."
            )


def is_known_false(condition: Callable[[], Any]) -> bool:
    """Whether `condition()` is known, though perhaps inside a traced function, and not true of all entries."""
    try:
        with jax.ensure_compile_time_eval():  # a known value inside a traced function is known all the same
            found = condition()
            return not bool(found.all() if hasattr(found, "all") else found)
    except jax.errors.ConcretizationTypeError:
        return False
    except TypeError:  # None, a text: no number at all
        return True


def _check_real(name: str, value: Any) -> None:
    if isinstance(value, complex) or jnp.issubdtype(getattr(value, "dtype", float), jnp.complexfloating):
        raise ValueError(f"`{name}` must be real, got {value}.")


def _kind(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array ({type(value).__name__}) of type {value.dtype} and shape {value.shape}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, str | int | float) else type(value).__name__

"""Proximal operators made of proximal operators, and Moreau envelopes.

A combinator takes `prox(x, strength)` and returns one. Bind other parameters first, with `functools.partial`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_fits, check_function, check_non_negative, check_operator, check_positive
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.prox._arguments import in_type_of, inexact, number, of_entries

Prox: TypeAlias = Callable[[Any, Any], Any]

_FORM = "prox(x, strength)"


def conjugate(prox: Prox) -> Prox:
    """The proximal operator of the convex conjugate g*: x - strength * prox(x / strength, 1 / strength).

    Moreau's decomposition: `prox` at strength 1 and its conjugate sum to `x`. Only for convex g.

    Args:
        prox: of g.

    Returns:
        `(x, strength) -> z`, for a positive strength.

    Raises:
        ValueError: for what is no function; when called, for a known strength that is not positive.

    >>> from unroll_jax.prox import l1
    >>> conjugate(l1)(jnp.array([-3.0, 0.5]), 1.0)  # the box [-1, 1]
    Array([-1. ,  0.5], dtype=float32)
    """
    check_function("prox", prox, _FORM)

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        strength = of_entries("strength", strength, x, check_positive)
        return x - strength * prox(x / strength, 1 / strength)

    return apply


def scaled(prox: Prox, scale: Array | float) -> Prox:
    """The proximal operator of z -> g(scale * z): prox(scale * x, scale^2 * strength) / scale.

    Args:
        prox: of g.
        scale: `()`, not zero; also the shape of `x` for a separable g.

    >>> from unroll_jax.prox import l1
    >>> scaled(l1, 2.0)(jnp.array([-3.0, 0.5]), 1.0)
    Array([-1.,  0.], dtype=float32)
    """
    check_function("prox", prox, _FORM)

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        factor = of_entries("scale", scale, x)
        strength = of_entries("strength", strength, x, check_non_negative)
        return prox(factor * x, factor**2 * strength) / factor

    return apply


def translated(prox: Prox, shift: Array | float) -> Prox:
    """The proximal operator of z -> g(z - shift): shift + prox(x - shift, strength).

    Args:
        prox: of g.
        shift: `()` or the shape of `x`, same unit.

    >>> from unroll_jax.prox import l2_ball
    >>> translated(l2_ball, jnp.array([1.0, 0.0]))(jnp.array([4.0, 0.0]), 1.0)
    Array([2., 0.], dtype=float32)
    """
    check_function("prox", prox, _FORM)

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        moved = _array("shift", shift, x)
        return moved + prox(x - moved, strength)

    return apply


def with_quadratic(prox: Prox, *, curvature: Array | float = 0.0, linear: Array | float = 0.0) -> Prox:
    """The proximal operator of g(z) + curvature ||z||^2 / 2 + <linear, z>.

    prox((x - strength * linear) / c, strength / c) with c = 1 + strength * curvature (Parikh and Boyd 2014,
    section 2.2): the elastic net of l1, the distance to a measurement added to a set.

    Args:
        prox: of g.
        curvature: `()`, non-negative; also the shape of `x` for a separable g.
        linear: `()` or the shape of `x`, in the unit of `x` / strength.

    >>> from unroll_jax.prox import l1
    >>> with_quadratic(l1, curvature=1.0)(jnp.array([-3.0, 0.5]), 1.0)
    Array([-1.,  0.], dtype=float32)
    """
    check_function("prox", prox, _FORM)
    if not isinstance(curvature, jax.Array):
        check_non_negative("curvature", curvature)

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        strength = of_entries("strength", strength, x, check_non_negative)
        factor = 1 + strength * of_entries("curvature", curvature, x)
        moved = x - strength * _array("linear", linear, x)
        return prox(moved / factor, strength / factor)

    return apply


def through(operator: LinearOperator, prox: Prox, *, gram: Array | float = 1.0) -> Prox:
    """The proximal operator of z -> g(A z) for an operator with A A* = gram I.

    x + A*(prox(A x, gram * strength) - A x) / gram (Combettes and Pesquet 2007): exact for orthonormal transforms such
    as wavelets, and for those whose rows are orthogonal and of equal norm, such as sampling or the synthesis with a
    tight frame. With another operator it is not the proximal operator: a redundant analysis has A* A = I instead.

    Args:
        operator: a linear operator with A A* = gram I.
        prox: of g; it gets what the operator makes.
        gram: `()`, positive.

    Raises:
        ValueError: for what is no operator or no function, or a known `gram` that is not positive.

    >>> from unroll_jax.operators import Dense
    >>> from unroll_jax.prox import l1
    >>> haar = Dense(jnp.array([[1.0, 1.0], [1.0, -1.0]]))
    >>> through(haar, l1, gram=2.0)(jnp.array([3.0, 2.0]), 1.0)
    Array([1.5, 1.5], dtype=float32)
    """
    check_operator("operator", operator)
    check_function("prox", prox, _FORM)
    if not isinstance(gram, jax.Array):
        check_positive("gram", gram)

    def apply(x: Any, strength: Array | float) -> Any:
        analysed = operator(x)
        change = jax.tree.map(jnp.subtract, prox(analysed, strength * gram), analysed)
        return jax.tree.map(
            lambda a, b: a + b / jnp.asarray(gram, jnp.finfo(b.dtype).dtype), x, operator.adjoint(change)
        )

    return apply


def separable_sum(proxes: PyTree) -> Prox:
    """The proximal operator of a sum over the leaves of a pytree, each with its own: `proxes` has its structure.

    Args:
        proxes: a pytree of functions `prox(x, strength)`, in the structure of the estimate.

    Returns:
        `(x, strength) -> z` on pytrees; one strength for all leaves, or a pytree of strengths like `proxes`.

    Raises:
        ValueError: for a leaf that is no function; when called, for an `x` or a strength of another structure.

    >>> from unroll_jax.prox import l1, non_negative
    >>> both = separable_sum({"code": l1, "image": non_negative})
    >>> both({"code": jnp.array([3.0]), "image": jnp.array([-1.0])}, 1.0)
    {'code': Array([2.], dtype=float32), 'image': Array([0.], dtype=float32)}
    """
    functions, structure = jax.tree.flatten(proxes)
    for function in functions:
        check_function("proxes", function, _FORM)

    def leaves_of(name: str, tree: PyTree) -> list[Any]:
        try:
            return structure.flatten_up_to(tree)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must have the structure of `proxes`, {structure}: {error}") from None

    def apply(x: PyTree, strength: PyTree) -> PyTree:
        is_one = jax.tree.structure(strength) == jax.tree.structure(0)
        strengths = [strength] * len(functions) if is_one else leaves_of("strength", strength)
        parts = zip(functions, leaves_of("x", x), strengths, strict=True)
        return structure.unflatten([function(leaf, own) for function, leaf, own in parts])

    return apply


def envelope(prox: Prox, value: Callable[[Any], Array]) -> Callable[[Array, Array | float], Array]:
    """The Moreau envelope: the minimum over z of g(z) + ||z - x||^2 / (2 strength), smooth for convex g.

    Args:
        prox: of g.
        value: g itself, `z -> ()`, such as `l1_value`.

    Returns:
        `(x, strength) -> ()`, for a positive strength. Its gradient is `envelope_gradient(prox)`.

    Raises:
        ValueError: for what is no function; when called, for a known strength that is not positive.

    >>> from unroll_jax.prox import l1, l1_value
    >>> envelope(l1, l1_value)(jnp.array([-3.0, 0.5]), 1.0)  # the Huber function
    Array(2.625, dtype=float32)
    """
    check_function("prox", prox, _FORM)
    check_function("value", value, "value(x)")

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        strength = number("strength", strength, x, check_positive)
        z = prox(x, strength)
        return value(z) + jnp.sum(jnp.real((z - x) * jnp.conj(z - x))) / (2 * strength)

    return apply


def envelope_gradient(prox: Prox) -> Callable[[Array, Array | float], Array]:
    """The gradient of the Moreau envelope, (x - prox(x, strength)) / strength, with Lipschitz constant 1 / strength.

    For complex `x` it is the direction of steepest ascent, the conjugate of what `jax.grad` gives.

    Args:
        prox: of a convex g.

    Returns:
        `(x, strength) -> gradient`, the shape of `x`, for a positive strength.

    >>> from unroll_jax.prox import l1
    >>> envelope_gradient(l1)(jnp.array([-3.0, 0.5]), 1.0)
    Array([-1. ,  0.5], dtype=float32)
    """
    check_function("prox", prox, _FORM)

    def apply(x: Array, strength: Array | float) -> Array:
        x = inexact(x)
        strength = number("strength", strength, x, check_positive)
        return (x - prox(x, strength)) / strength

    return apply


def _array(name: str, value: Any, x: Array) -> Array:
    check_fits(name, value, x)
    return jnp.broadcast_to(in_type_of(x, value), x.shape)

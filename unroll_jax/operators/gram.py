"""The resolvent of A* A, which proximal operators of least squares and Newton steps are made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unroll_jax._checks import (
    check_adjoint_shape,
    check_count,
    check_inexact,
    check_non_negative,
    check_operator,
    check_scalar,
)
from unroll_jax._tree import tree_add_scaled
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.operators.algebra import Adjoint, Scaled
from unroll_jax.operators.matrix import Dense


def gram_resolvent(
    operator: LinearOperator,
    x: PyTree,
    strength: Array | float,
    *,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> PyTree:
    """(I + strength A* A)^-1 x for the operator A, the minimizer over z of  strength ||A z||^2 / 2 + ||z - x||^2 / 2.

    An operator with a method `gram_resolvent(x, strength)` has a closed form, which is taken: `Dense`, `Diagonal` and
    their adjoints, and the operators that the fast Fourier transform makes diagonal. For every other one, conjugate
    gradients stop where the residual is `tolerance` times the norm of `x`; so far at most is the result from the exact
    one, because no eigenvalue of I + strength A* A is below 1. Where one matrix is met again and again, `factored` has
    its factors at hand.

    Derivatives in `x`, `strength` and the arrays of the operator, of any order and both modes, come from the linear
    system itself, solved to the same tolerance: no iteration is stored or differentiated.

    Args:
        operator: the linear operator A.
        x: what A takes; floating-point or complex.
        strength: `()`, non-negative; the unit of 1 / ||A||^2.
        tolerance: of conjugate gradients, relative to the norm of `x`; a closed form needs none.
        max_steps: of conjugate gradients, each of which applies A and its adjoint once. They need about
            sqrt(strength) ||A|| log(2 / tolerance) / 2.

    Returns:
        The shape of `x`.

    Raises:
        ValueError: for what is no operator or whose adjoint does not return the shape of `x`, an `x` of integers,
            a strength that is negative or no single number, and fewer than one step.

    >>> from unroll_jax.operators import Diagonal
    >>> gram_resolvent(Diagonal(jnp.array([1.0, 3.0])), jnp.ones(2), 1.0)
    Array([0.5, 0.1], dtype=float32)
    """
    check_operator("operator", operator)
    check_inexact("x", x)
    check_scalar("strength", strength)
    check_non_negative("strength", strength)
    check_count("max_steps", max_steps)
    # the precision of the strength must not decide on that of the result
    strength = jnp.asarray(strength, jnp.finfo(jnp.result_type(*jax.tree.leaves(x))).dtype)
    closed_form = _closed_form(operator)
    return _by_cg(operator, x, strength, tolerance, max_steps) if closed_form is None else closed_form(x, strength)


def _closed_form(operator: LinearOperator) -> Callable[[PyTree, Array], PyTree] | None:
    """(x, strength) -> the resolvent, where one is known; of an operator made of others, where theirs is."""
    if isinstance(operator, Adjoint) and type(operator.operator) is Dense:
        return Dense(operator.operator.matrix.T.conj()).gram_resolvent
    if not isinstance(operator, Adjoint | Scaled):
        own = getattr(operator, "gram_resolvent", None)
        return own if callable(own) else None
    inner = _closed_form(operator.operator)
    if inner is None:
        return None
    if isinstance(operator, Scaled):
        factor = operator.factor
        return lambda x, strength: inner(x, strength * jnp.real(factor * jnp.conj(factor)).astype(strength.dtype))
    wrapped = operator.operator
    # (I + s A A*)^-1 = I - s A (I + s A* A)^-1 A*
    return lambda y, strength: tree_add_scaled(y, -strength, wrapped(inner(wrapped.adjoint(y), strength)))


def _by_cg(operator: LinearOperator, x: PyTree, strength: Array, tolerance: float, max_steps: int) -> PyTree:
    back = jax.eval_shape(lambda z: operator.adjoint(operator(z)), x)
    check_adjoint_shape(x, back)
    # a complex operator makes real estimates complex, and the loop must keep its types
    x = jax.tree.map(lambda a, b: a.astype(jnp.promote_types(a.dtype, b.dtype)), x, back)

    def apply(z: PyTree) -> PyTree:
        return tree_add_scaled(z, strength, operator.adjoint(operator(z)))

    # by its full name it is loaded where it is used, not with the library
    solution, _ = jax.scipy.sparse.linalg.cg(apply, x, tol=tolerance, maxiter=max_steps)
    return solution

"""The check of operators."""

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._checks import check_inexact, check_operator
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.testing._trees import check_same_kind, conjugate, draw_like, key_or_default, norm, tolerance_for, vdot


def check_adjoint(
    operator: LinearOperator, like: PyTree, *, key: Array | None = None, tolerance: float | None = None
) -> None:
    """Raise unless `operator` is linear and `operator.adjoint` its adjoint: <A x, y> = <x, A* y> for random x and y.

    Where only one side is complex, as in a Fourier transform of real images, the real parts have to agree.

    Args:
        operator: a linear operator.
        like: what it takes, as arrays or `jax.ShapeDtypeStruct`.
        key: for the draws; `jax.random.key(0)` if None.
        tolerance: of <A x, y> - <x, A* y>, relative to ||A x|| ||y|| and ||x|| ||A* y||; by default 1e-5 in single and
            1e-11 in double precision.

    Raises:
        AssertionError: if it is not linear, or `adjoint` not its adjoint, or of another shape or type.
        ValueError: for what is no operator, no array, or no key.

    >>> from unroll_jax.operators import Dense
    >>> check_adjoint(Dense(jnp.array([[1.0, 2.0], [3.0, 4.0]])), jnp.zeros(2))
    """
    check_operator("operator", operator)
    check_inexact("like", like)
    keys = jax.random.split(key_or_default(key), 3)
    tolerance = tolerance_for(tolerance, like, 1e-5, 1e-11)
    x, other = draw_like(keys[0], like), draw_like(keys[1], like)
    image = operator(x)
    y = draw_like(keys[2], image)
    back = operator.adjoint(y)
    check_same_kind("operator.adjoint(y)", back, "what the operator takes", like)
    left, right = vdot(image, y), vdot(x, back)
    scale = max(norm(image) * norm(y), norm(x) * norm(back))
    are_complex = [any(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(tree)) for tree in (x, y)]
    difference = (lambda a, b: abs(a - b)) if all(are_complex) else (lambda a, b: abs(a.real - b.real))
    if not difference(left, right) <= tolerance * scale:
        hints = []
        transposed = vdot(x, conjugate(operator.adjoint(conjugate(y))))
        if any(are_complex) and difference(left, transposed) <= tolerance * scale:
            hints.append("`adjoint` seems to be the transpose, without the complex conjugate.")
        elif right != 0 and difference(left, (ratio := (left / right).real) * right) <= tolerance * scale:
            hints.append(f"They differ by the factor {ratio:.6g}.")
        raise AssertionError(
            " ".join([f"`adjoint` is not the adjoint: <A x, y> is {left:.6g}, but <x, A* y> is {right:.6g}.", *hints])
        )
    # a rotation in the complex plane is what maps that are linear over the real numbers only fail at
    factor = 0.6 + 0.8j if all(are_complex) else -1.7
    combined = jax.tree.map(lambda a, b: a * jnp.asarray(factor, a.dtype) + b, x, other)
    parts = jax.tree.map(lambda a, b: a * jnp.asarray(factor, a.dtype) + b, image, operator(other))
    apart = norm(jax.tree.map(jnp.subtract, operator(combined), parts))
    if not apart <= tolerance * (norm(parts) + norm(image)):
        raise AssertionError(
            f"`operator` is not linear: A(a x + z) differs from a A x + A z by {apart:.3g}, their norm being "
            f"{norm(parts):.3g}, for a = {factor}."
        )

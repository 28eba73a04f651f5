"""Arithmetic on pytrees of arrays."""

import jax
import jax.numpy as jnp

from unroll_jax._types import Array, PyTree


def tree_add_scaled(x: PyTree, scale: Array | float, y: PyTree) -> PyTree:
    """`x + scale * y`, leaf by leaf, in the dtypes of `x`."""
    return jax.tree.map(lambda a, b: a + jnp.asarray(scale).astype(a.dtype) * b, x, y)


def tree_sub(x: PyTree, y: PyTree) -> PyTree:
    """`x - y`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, x, y)


def tree_where(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    """`x` where the scalar `condition` holds, else `y`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def tree_real_vdot(x: PyTree, y: PyTree) -> Array:
    """The real part of the inner product of `x` and `y` over all leaves: `()`."""
    products = jax.tree.map(lambda a, b: jnp.vdot(a, b).real, x, y)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def tree_norm(x: PyTree) -> Array:
    """The Euclidean norm of `x` over all leaves: `()`. Its gradient at zero is zero, not NaN."""
    square = tree_real_vdot(x, x)
    is_zero = square == 0
    # the inner `where` keeps the square root's infinite slope out of the gradient
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))

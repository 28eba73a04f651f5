"""Arithmetic on pytrees of arrays."""

import functools
import operator
from typing import Any

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
    """The real part of the inner product of `x` and `y` over all leaves: `()`, in float32 or wider."""

    def real_vdot(a: Array | float, b: Array | float) -> Array:
        dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)  # half precision would overflow
        return jnp.vdot(jnp.asarray(a, dtype), jnp.asarray(b, dtype)).real

    products = jax.tree.leaves(jax.tree.map(real_vdot, x, y))
    return functools.reduce(operator.add, products) if products else jnp.zeros(())


def tree_norm(x: PyTree) -> Array:
    """The Euclidean norm of `x` over all leaves: `()`. Its gradient at zero is zero, not NaN."""
    square = tree_real_vdot(x, x)
    is_zero = square == 0
    # the inner `where` keeps the square root's infinite slope out of the gradient
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def tree_largest(x: PyTree) -> Array:
    """The largest modulus of the numbers in `x`, NaN if one is: `()`."""
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)]
    return functools.reduce(jnp.maximum, largest, jnp.zeros(()))


def tree_is_finite(x: PyTree) -> Array:
    """Whether every number in `x` is finite: `()`."""
    leaves = [leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return functools.reduce(operator.and_, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves], jnp.asarray(True))


def strong_type(leaf: Any) -> Array:
    """`leaf` as an array that is not weakly typed: Python numbers make weak ones, which change in the first update."""
    array = jnp.asarray(leaf)
    # arrays of random keys have no weak types
    return jax.lax.convert_element_type(array, array.dtype) if getattr(array, "weak_type", False) else array


def lower(tree: PyTree, dtype: Any) -> PyTree:
    """`tree` with its real floating-point arrays in `dtype`; other leaves as they are."""

    def convert(leaf: Any) -> Any:
        is_real = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if is_real else leaf

    return jax.tree.map(convert, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """`tree` with its real floating-point arrays in the dtypes of `like`; a tree of another structure as it is."""
    if jax.tree.structure(tree) != jax.tree.structure(like):
        return tree

    def convert(leaf: Any, target: Any) -> Any:
        are_real = all(jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in (leaf, target))
        return jnp.asarray(leaf, target.dtype) if are_real else leaf

    return jax.tree.map(convert, tree, like)

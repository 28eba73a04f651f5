"""Draws, norms and comparisons of pytrees, for the checks; on the host, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._checks import check_key
from unroll_jax._types import Array, PyTree


def key_or_default(key: Array | None) -> Array:
    """`key`, or the default one."""
    key = jax.random.key(0) if key is None else key
    check_key("key", key)
    return key


def tolerance_for(tolerance: float | None, tree: PyTree, single: float, double: float) -> float:
    """`tolerance`, or the default of the lowest precision in `tree`."""
    if tolerance is not None:
        return tolerance
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]
    widths = [jnp.finfo(kind).bits for kind in kinds if jnp.issubdtype(kind, jnp.inexact)]
    return double if widths and min(widths) == 64 else single


def draw_like(key: Array, like: PyTree) -> PyTree:
    """Normal entries in the shapes and types of `like`."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, jnp.shape(leaf), leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def wide(tree: PyTree) -> list[np.ndarray]:
    """The leaves in double precision, on the host: sums there are exact enough in any precision."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [array.astype(complex if np.iscomplexobj(array) else float) for array in arrays]


def vdot(x: PyTree, y: PyTree) -> complex:
    """The inner product over all leaves, conjugate in `x`."""
    return sum((complex(np.vdot(a, b)) for a, b in zip(wide(x), wide(y), strict=True)), 0j)


def norm(x: PyTree) -> float:
    """The Euclidean norm over all leaves."""
    return float(np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in wide(x))))


def conjugate(tree: PyTree) -> PyTree:
    """The complex conjugate of every leaf."""
    return jax.tree.map(jnp.conj, tree)


def is_finite(tree: PyTree) -> bool:
    """Whether every entry is finite."""
    return all(bool(np.all(np.isfinite(leaf))) for leaf in wide(tree))


def check_same_kind(name: str, tree: PyTree, like_name: str, like: PyTree) -> None:
    """Raise unless `tree` has the structure, shapes and types of `like`."""
    kinds = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), each) for each in (tree, like)]
    if kinds[0] != kinds[1]:
        raise AssertionError(f"{name} must have the shape and type of {like_name}, {kinds[1]}, got {kinds[0]}.")


def check_no_weak_types(name: str, tree: PyTree) -> None:
    """Raise if a leaf of `tree` is weakly typed."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.typeof(leaf).weak_type:
            raise AssertionError(
                f"`{name}{jax.tree_util.keystr(path)}` is weakly typed, as Python numbers are and what "
                "jnp.asarray makes of them, and would change its type in the first update, so that everything compiles "
                "again. Give its type: jnp.asarray(0.1, jnp.float32)."
            )


def check_close(what: str, actual: PyTree, expected: PyTree, tolerance: float) -> None:
    """Raise unless states agree up to `tolerance`, relative to the largest entry of each leaf."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(expected)]
    for path, a, b in zip(paths, jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(jnp.asarray(b).dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        (a,), (b,) = wide(a), wide(b)
        difference = np.max(np.abs(a - b), initial=0)
        if a.shape != b.shape or not difference <= tolerance * (np.max(np.abs(b), initial=0) + 1e-30):
            raise AssertionError(f"{what} differs from single steps in `state{path}` by up to {difference:.3g}.")

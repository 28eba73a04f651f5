"""Interpolation between nodes, fast in both directions of differentiation: what every spline here is made of.

Nothing here checks its arguments; the public doors do. Nodes are `Even` or an array `(num_knots,)`, increasing; both
they and the values at them may have a leading axis of channels, which then is the last axis of `x`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from unroll_jax._types import Array

# Entries of a block of the derivative on CPU. Measured there: what passes between the gathers and the histogram of a
# block stays in the cache, which halves the time for millions of entries.
BLOCK_SIZE = 2**15

# Up to so many nodes at any places, comparisons with each are faster on CPU than a binary search. Measured there on a
# million values: 0.3 against 1.0 ms for 3 nodes, 0.7 against 3.0 for 20, 1.1 against 3.1 for 32.
FEW_NODES = 64


class Even(NamedTuple):
    """Nodes at equal distances, static: `num_knots` of them around `center`, `step` apart."""

    center: float
    step: float
    num_knots: int


Nodes: TypeAlias = Even | Array


def interpolate(x: Array, nodes: Nodes, values: Array) -> Array:
    """The piecewise linear function with `values` at the nodes, at `x`; straight on beyond the outer nodes.

    value = v_n + u (v_n+1 - v_n)  with the fraction  u = (x - t_n) / (t_n+1 - t_n)  of cell n. Its derivatives are

        s_n = (v_n+1 - v_n) / (t_n+1 - t_n)   in x, from the right on a node,
        1 - u and u                           in v_n and v_n+1,
        -s_n (1 - u) and -s_n u               in t_n and t_n+1.

    Backward, those in the values and the nodes are histograms over the cells. Reverse mode keeps the arguments and
    nothing else: a cell and a fraction are found again faster than they are stored.

    Args:
        x: `(...)`, or `(..., channels)` where nodes or values have channels; of the type of `values`.
        nodes: `Even`, `(num_knots,)` or `(channels, num_knots)`.
        values: `(num_knots,)` or `(channels, num_knots)`.
    """
    # wide tables also add up their derivatives in a wide type
    values = _widened(values)
    if isinstance(nodes, Even):
        return _interpolate(nodes, x, None, values)
    return _interpolate(None, x, nodes.astype(values.dtype), values)


def locate(x: Array, nodes: Nodes) -> tuple[Array, Array]:
    """The index of the cell that holds each entry of `x`, of type int32, and the fraction of it left of the entry."""
    if isinstance(nodes, Even):
        return _locate(_GATHER, nodes, x, None)
    return _by_platform(lambda method, x, nodes: _locate(method, None, x, nodes), x, nodes.astype(wide(x.dtype)))


def neighbours(table: Array, index: Array) -> tuple[Array, Array]:
    """The entries of `table` at `index` and at `index + 1`; where the table has channels, of each entry's own."""
    return _by_platform(lambda method, table, index: method.neighbours(table, index), table, index)


def wide(dtype: Any) -> Any:
    """The type to compute in: in half precision neither a cell nor a fraction of it is known."""
    return jnp.promote_types(dtype, jnp.float32)


def rebuilt(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which reverse mode keeps nothing but the arguments."""
    return jax.checkpoint(function, prevent_cse=False)


# --- values and tangents ---


class _Method(NamedTuple):
    """How tables are read.

    Attributes:
        neighbours: `(table, index) -> (table[index], table[index + 1])`.
        search: `(x, nodes) -> index` of the cell that holds x.
    """

    neighbours: Callable[[Array, Array], tuple[Array, Array]]
    search: Callable[[Array, Array], Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)  # once compiled, calls outside jax.jit are fast too
def _interpolate(even: Even | None, x: Array, nodes: Array | None, values: Array) -> Array:
    return _by_platform(lambda method, *args: _value(method, even, *args), x, nodes, values)


@functools.partial(_interpolate.defjvp, symbolic_zeros=True)
def _(even: Even | None, primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, nodes, values = primals
    dx, dnodes, dvalues = (None if isinstance(tangent, SymbolicZero) else tangent for tangent in tangents)
    return _interpolate(even, x, nodes, values), _all_tangents(even, (x, dx), (nodes, dnodes, values, dvalues))


@functools.partial(jax.jit, static_argnums=0)
def _all_tangents(even: Even | None, entries: Any, tables: Any) -> Array:
    return _by_platform(
        lambda method, *args: _tangent(method, even, *args),
        entries,
        tables,
        cpu=functools.partial(_tangent_in_blocks, even),
    )


def _value(method: _Method, even: Even | None, x: Array, nodes: Array | None, values: Array) -> Array:
    if method is _GATHER and nodes is not None and nodes.shape[-1] <= FEW_NODES:
        return _value_by_comparison(x, nodes, values)
    index, fraction = _locate(method, even, x, nodes)
    left, right = method.neighbours(values, index)
    return (left + fraction * (right - left)).astype(x.dtype)


def _value_by_comparison(x: Array, nodes: Array, values: Array) -> Array:
    # of every cell its first node, the value there and its slope
    rises, widths = jnp.broadcast_arrays(jnp.diff(values), jnp.diff(nodes))
    cells = (nodes, values, rises / widths)
    found = _of_cell(cells, 0, x)
    for index in range(1, nodes.shape[-1] - 1):
        cell = _of_cell(cells, index, x)
        found = [jnp.where(_widened(x) >= cell[0], new, old) for new, old in zip(cell, found, strict=True)]
    node, value, slope = found
    return (value + slope * (_widened(x) - node)).astype(x.dtype)


def _of_cell(tables: Any, index: int, x: Array) -> list[Array]:
    return [jnp.broadcast_to(table[..., index], x.shape) for table in tables]


def _tangent(method: _Method, even: Even | None, entries: Any, tables: Any) -> Array:
    """The tangent of the value, linear in the tangents among the arguments; None is a tangent of zero."""
    (x, dx), (nodes, dnodes, values, dvalues) = entries, tables
    index, fraction = _locate(method, even, x, nodes)

    def between(table: Array) -> tuple[Array, Array]:
        left, right = method.neighbours(table, index)
        return left + fraction * (right - left), right - left

    tangents = []
    if dx is not None or dnodes is not None:
        moved = jnp.zeros_like(fraction) if dx is None else _widened(dx)  # relative to the nodes
        moved = moved if dnodes is None else moved - between(dnodes)[0]
        tangents.append(between(values)[1] * (moved * (1 / even.step) if even else moved / between(nodes)[1]))
    if dvalues is not None:
        tangents.append(between(dvalues)[0])
    return sum(tangents[1:], tangents[0]).astype(x.dtype)


def _tangent_in_blocks(even: Even | None, entries: Any, tables: Any) -> Array:
    shape = entries[0].shape
    has_channels = any(table.ndim == 2 for table in jax.tree.leaves(tables))
    channels = shape[-1:] if has_channels else ()
    num_blocks = _num_blocks(math.prod(shape), math.prod(shape[:-1]) if has_channels else math.prod(shape))
    tangent = lambda entries: _tangent(_GATHER, even, entries, tables)
    if num_blocks == 1:
        return tangent(entries)
    blocks = jax.tree.map(lambda entry: entry.reshape(num_blocks, -1, *channels), entries)
    return lax.map(rebuilt(tangent), blocks).reshape(shape)


def _num_blocks(size: int, divisible: int) -> int:
    """Into how many equal blocks of about BLOCK_SIZE entries `divisible` rows with `size` entries in all are cut."""
    wanted = size // BLOCK_SIZE
    return next((count for count in range(wanted, 4 * wanted) if divisible % count == 0), 1) if wanted > 1 else 1


def _locate(method: _Method, even: Even | None, x: Array, nodes: Array | None) -> tuple[Array, Array]:
    x = _widened(x)
    if even is not None:
        position = (x - even.center) * (1 / even.step) + (even.num_knots - 1) / 2
        # toward zero is down where it is not clipped
        index = jnp.clip(position.astype(jnp.int32), 0, even.num_knots - 2)
        return index, position - index.astype(x.dtype)
    assert nodes is not None
    index = method.search(lax.stop_gradient(x), lax.stop_gradient(nodes))
    left, right = method.neighbours(nodes, index)
    return index, (x - left) / (right - left)


def _widened(x: Array) -> Array:
    return x.astype(wide(x.dtype))


# --- tables, by platform ---


def _by_platform(function: Callable[..., Any], *args: Any, cpu: Callable[..., Any] | None = None) -> Any:
    # each branch by itself too, or it would keep what the others need
    gather, product = (rebuilt(functools.partial(function, method)) for method in (_GATHER, _PRODUCT))
    branches = {"cpu": rebuilt(cpu) if cpu else gather, "tpu": product, "default": gather}
    return rebuilt(lambda *args: lax.platform_dependent(*args, **branches))(*args)


def _gather_neighbours(table: Array, index: Array) -> tuple[Array, Array]:
    table, index = _flat(table, index)
    # two gathers, whose transposes are two scatters: on CPU they run side by side, and faster than one of pairs
    return _entry(table, index), _entry(table, index + 1)


def _search(x: Array, nodes: Array) -> Array:
    # how many inner nodes are not above x
    inner = nodes[..., 1:-1]
    if nodes.shape[-1] > FEW_NODES:
        return _binary_search(x, inner)
    is_right = (_of_cell((inner,), index, x)[0] <= x for index in range(inner.shape[-1]))
    return sum((each.astype(jnp.int32) for each in is_right), jnp.zeros(x.shape, jnp.int32))


def _binary_search(x: Array, inner: Array) -> Array:
    # what pads the nodes to a power of two is above everything
    num_halvings = inner.shape[-1].bit_length()
    padding = [(0, 0)] * (inner.ndim - 1) + [(0, 2**num_halvings - inner.shape[-1])]
    inner = jnp.pad(inner, padding, constant_values=jnp.inf)
    count = jnp.zeros(x.shape, jnp.int32)
    for halving in reversed(range(num_halvings)):
        size = 2**halving
        if halving == num_halvings - 1:  # the same for all: no gather, which XLA would fold
            node = jnp.broadcast_to(inner[..., size - 1], x.shape)
        else:
            node = _entry(*_flat(inner, count + (size - 1)))
        count += (node <= x).astype(jnp.int32) * size
    return count


def _flat(table: Array, index: Array) -> tuple[Array, Array]:
    # an index of one number per entry is many times faster on CPU than one of two
    if table.ndim == 1:
        return table, index
    channel = lax.broadcasted_iota(jnp.int32, index.shape, index.ndim - 1)
    return table.reshape(-1), index + channel * table.shape[1]


def _entry(table: Array, index: Array) -> Array:
    return table.at[index].get(mode="promise_in_bounds")


def _product_neighbours(table: Array, index: Array) -> tuple[Array, Array]:
    pairs = jnp.stack([table[..., :-1], table[..., 1:]], axis=-1)
    cells = jax.nn.one_hot(index, pairs.shape[-2], dtype=table.dtype)
    subscripts = "...n,nk->...k" if table.ndim == 1 else "...cn,cnk->...ck"
    found = jnp.einsum(subscripts, cells, pairs, precision=lax.Precision.HIGHEST)
    return found[..., 0], found[..., 1]


def _linear_search(x: Array, nodes: Array) -> Array:
    inner = jnp.broadcast_to(nodes[..., 1:-1], (*x.shape, nodes.shape[-1] - 2))
    return jnp.sum((inner <= x[..., None]).astype(jnp.int32), axis=-1, dtype=jnp.int32)


_GATHER = _Method(_gather_neighbours, _search)
# gathers and scatters are slow on TPU, products of matrices are fast
_PRODUCT = _Method(_product_neighbours, _linear_search)

"""Layers in one scan: what `unroll` is made of, as pure functions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_state
from unroll_jax._tree import strong_type
from unroll_jax._types import Array, Params, Problem, PyTree, State

Remat: TypeAlias = Literal["layer", "nested"] | None


def stack_layers(layers: Sequence[Params]) -> Params:
    """The parameters of several layers as one pytree with a leading axis `(num_layers, ...)` on every leaf.

    Args:
        layers: one pytree per layer, of the same structure and shapes; nnx modules are fine.

    Raises:
        ValueError: without layers, or where they differ in structure or shape.

    >>> stack_layers([{"step_size": jnp.ones(())}, {"step_size": jnp.zeros(())}])
    {'step_size': Array([1., 0.], dtype=float32)}
    """
    if not layers:
        raise ValueError("`layers` needs at least one layer's parameters, got none.")
    first = jax.tree.structure(layers[0])
    for index, layer in enumerate(layers[1:], start=1):
        if jax.tree.structure(layer) != first:
            raise ValueError(
                f"`layers` must share one structure: layer 0 has {first}, "
                f"layer {index} has {jax.tree.structure(layer)}."
            )

    def stack(path: Any, *leaves: Array) -> Array:
        shapes = {jnp.shape(leaf) for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(f"`layers` must share their shapes, but {_name(path)} has {sorted(shapes)}.")
        return jnp.stack(leaves)

    return jax.tree_util.tree_map_with_path(stack, *layers)


def scan_layers(
    step: Callable[[Params, State, Problem], State],
    params: Params,
    state: State,
    problem: Problem,
    *,
    num_layers: int,
    layer_axes: PyTree = 0,
    record: Callable[[State], PyTree] | None = None,
    remat: Remat = None,
    layers_per_iteration: int = 1,
) -> tuple[State, PyTree]:
    """`num_layers` steps from `state`, and what `record` keeps of the state after each.

    One `jax.lax.scan`: the step is traced once, and the program has the same size, whatever the depth.

    Args:
        step: `(params, state, problem) -> state`, one layer; it keeps the state's structure, shapes and dtypes.
        params: a pytree; leaves with layer axis 0 have shape `(num_layers, ...)`, the others are shared.
        state: the state before the first layer.
        problem: one problem, seen by all layers.
        num_layers: at least 1.
        layer_axes: 0 (own value per layer), None (shared by all layers), or a prefix tree of `params` that mixes both;
            it reads like `in_axes` of `jax.vmap`.
        record: `state -> pytree`, stacked on a leading axis `(num_layers, ...)`; None keeps nothing.
        remat: what is computed again in the backward pass to save memory. None keeps every layer's intermediate
            values, "layer" keeps one state per layer, "nested" about 2 * sqrt(num_layers) states for one more
            forward pass.
        layers_per_iteration: of the loop. `num_layers` leaves no loop, which on a CPU trains 1.1 to 1.4 times faster
            (LISTA with 10 layers), but the program grows with the depth; numbers in between gain nothing.

    Returns:
        The final state, and the records (None where `record` is None).

    Raises:
        ValueError: for parameters that are not stacked as `layer_axes` says, or a step that changes its state.
    """
    check_count("num_layers", num_layers)
    check_remat(remat)
    check_layers_per_iteration(layers_per_iteration, num_layers)
    leaves, structure = jax.tree.flatten(params)
    axes = axes_of_leaves(params, layer_axes)
    check_stacked(params, axes, num_layers)
    per_layer = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]

    def body(state: State, layer_leaves: list[Array]) -> tuple[State, PyTree]:
        own = iter(layer_leaves)
        layer = structure.unflatten([next(own) if axis == 0 else leaf for leaf, axis in zip(leaves, axes, strict=True)])
        try:
            new_state = jax.tree.map(strong_type, step(layer, state, problem))
            check_state(state, new_state)
        except (TypeError, ValueError) as error:
            error.add_note(
                f"This came up in `step`, called with one layer's params of shapes {jax.tree.map(jnp.shape, layer)}. "
                "`unroll` takes the params of one layer and stacks them itself; `Unrolled` and `scan_layers` take them "
                "stacked; every call takes one problem, and batches go through jax.vmap."
            )
            raise
        return new_state, None if record is None else record(new_state)

    return _scan(body, jax.tree.map(strong_type, state), per_layer, num_layers, remat, layers_per_iteration)


def check_layers_per_iteration(layers_per_iteration: Any, num_layers: int) -> None:
    """Raise unless `layers_per_iteration` is a count of at most `num_layers`."""
    check_count("layers_per_iteration", layers_per_iteration)
    if layers_per_iteration > num_layers:
        raise ValueError(
            f"`layers_per_iteration` must be at most the number of layers, {num_layers}, got {layers_per_iteration}."
        )


def check_remat(remat: Any) -> None:
    """Raise unless `remat` is one of the words that `scan_layers` knows."""
    if remat not in (None, "layer", "nested"):
        raise ValueError(f'`remat` must be None, "layer" or "nested", got {remat!r}.')


def axes_of_leaves(params: Params, layer_axes: PyTree) -> tuple[int | None, ...]:
    """The layer axis of every leaf of `params`, from the prefix tree `layer_axes`."""

    def is_none(node: Any) -> bool:
        return node is None

    axes: list[int | None] = []

    def give(axis: Any, part: Params) -> None:
        axes.extend([axis] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(give, layer_axes, params, is_leaf=is_none)
    except ValueError as error:
        raise ValueError(
            f"`layer_axes` must be 0, None or a prefix tree of `params`, got {layer_axes!r} for params of structure "
            f"{jax.tree.structure(params)}."
        ) from error
    for axis in axes:
        if axis is not None and axis != 0:
            raise ValueError(
                f"`layer_axes` takes 0 (own value per layer) and None (shared by all layers), got {axis!r}."
            )
    return tuple(axes)


def check_stacked(params: Params, axes: tuple[int | None, ...], num_layers: int) -> None:
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), axis in zip(named, axes, strict=True):
        if axis == 0 and jnp.shape(leaf)[:1] != (num_layers,):
            raise ValueError(
                f"`params` must be stacked: {_name(path)} needs a leading axis of {num_layers} layers, got shape "
                f"{jnp.shape(leaf)}. Stack the layers with stack_layers, let unroll copy one layer's params, or give "
                "this leaf the layer axis None to share it."
            )


def _scan(
    body: Callable[[State, list[Array]], tuple[State, PyTree]],
    state: State,
    per_layer: list[Array],
    num_layers: int,
    remat: Remat,
    layers_per_iteration: int,
) -> tuple[State, PyTree]:
    if remat is None:
        return jax.lax.scan(body, state, per_layer, length=num_layers, unroll=layers_per_iteration)
    # inside a scan the loop itself keeps the compiler from merging the two forward passes
    body = jax.checkpoint(body, prevent_cse=layers_per_iteration > 1)
    if remat == "layer":
        return jax.lax.scan(body, state, per_layer, length=num_layers, unroll=layers_per_iteration)

    chunk = max(1, math.isqrt(num_layers))
    num_chunks, num_rest = divmod(num_layers, chunk)
    num_whole = num_chunks * chunk
    chunked = [leaf[:num_whole].reshape(num_chunks, chunk, *leaf.shape[1:]) for leaf in per_layer]

    def run_chunk(state: State, leaves: list[Array]) -> tuple[State, PyTree]:
        return jax.lax.scan(body, state, leaves, length=chunk, unroll=min(layers_per_iteration, chunk))

    state, records = jax.lax.scan(jax.checkpoint(run_chunk, prevent_cse=False), state, chunked, length=num_chunks)
    records = jax.tree.map(lambda a: a.reshape(num_whole, *a.shape[2:]), records)
    if num_rest:
        state, rest = jax.lax.scan(body, state, [leaf[num_whole:] for leaf in per_layer], length=num_rest)
        records = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), records, rest)
    return state, records


def _name(path: Any) -> str:
    return f"`params{jax.tree_util.keystr(path)}`"

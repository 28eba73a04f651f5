"""The `unroll` transform: an algorithm's first iterations as the layers of a network, in one scan."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_count
from unroll_jax._tree import strong_type
from unroll_jax._types import Algorithm, Array, Params, Problem, PyTree, State

Remat: TypeAlias = Literal["layer", "nested"] | None
Prepare: TypeAlias = Callable[[Params, Problem], Params]


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
) -> tuple[State, PyTree]:
    """`num_layers` steps from `state`, and what `record` keeps of the state after each.

    One `jax.lax.scan`: the program has the same size and is traced once, whatever the depth.

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

    Returns:
        The final state, and the records (None where `record` is None).

    Raises:
        ValueError: for parameters that are not stacked as `layer_axes` says, or a step that changes its state.
    """
    check_count("num_layers", num_layers)
    if remat not in (None, "layer", "nested"):
        raise ValueError(f'`remat` must be None, "layer" or "nested", got {remat!r}.')
    leaves, structure = jax.tree.flatten(params)
    axes = _axes_of_leaves(params, layer_axes)
    _check_stacked(params, axes, num_layers)
    per_layer = [leaf for leaf, axis in zip(leaves, axes, strict=True) if axis == 0]

    def body(state: State, layer_leaves: list[Array]) -> tuple[State, PyTree]:
        own = iter(layer_leaves)
        layer = structure.unflatten([next(own) if axis == 0 else leaf for leaf, axis in zip(leaves, axes, strict=True)])
        try:
            new_state = jax.tree.map(strong_type, step(layer, state, problem))
            _check_state(state, new_state)
        except (TypeError, ValueError) as error:
            error.add_note(
                f"This came up in `step`, called with one layer's params of shapes {jax.tree.map(jnp.shape, layer)}. "
                "`unroll` takes the params of one layer and stacks them itself; `Unrolled` and `scan_layers` take them "
                "stacked; every call takes one problem, and batches go through jax.vmap."
            )
            raise
        return new_state, None if record is None else record(new_state)

    return _scan(body, jax.tree.map(strong_type, state), per_layer, num_layers, remat)


class Unrolled(nnx.Module):
    """An iterative algorithm unrolled into a network of `num_layers` layers: a pytree and an nnx module.

    `unroll` builds one from the parameters of one layer; this constructor takes them stacked, for layers that start
    out different.

    Attributes:
        params: the stacked parameters. Arrays of floating-point or complex type have become `nnx.Param`, which
            `primal_dual` trains; wrap an array in another `nnx.Variable` to keep it fixed. nnx modules stay as they
            are.

    Args:
        algorithm: what is unrolled.
        num_layers: at least 1.
        params: a pytree whose leaves with layer axis 0 have shape `(num_layers, ...)`.
        layer_axes: as in `scan_layers`.
        prepare: `(params, problem) -> params`, run once before the scan on one layer's parameters, and mapped over
            the layers that have their own: for feasible parameters, filter normalization, noise-level scaling.
        remat: as in `scan_layers`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        num_layers: int,
        params: Params,
        *,
        layer_axes: PyTree = 0,
        prepare: Prepare | None = None,
        remat: Remat = None,
    ):
        check_count("num_layers", num_layers)
        self.algorithm = algorithm
        self.num_layers = num_layers
        self.prepare = prepare
        self.remat: Remat = remat
        # a static attribute must hash, so the prefix tree is kept as one axis per leaf
        self._axes = _axes_of_leaves(_unwrap(params), layer_axes)
        _check_stacked(_unwrap(params), self._axes, num_layers)
        self.params = nnx.data(_wrap(params))

    def __call__(self, problem: Problem) -> State:
        """The state after the last layer, for one problem; nothing else is stored."""
        return self._run(problem, record=None)[1]

    def trajectory(self, problem: Problem, record: Callable[[State], PyTree] = lambda state: state) -> PyTree:
        """What `record` keeps of the start and of the state after each layer: leading axis `num_layers + 1`."""
        start, _, records = self._run(problem, record)
        return jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), record(start), records)

    def with_algorithm(self, algorithm: Algorithm) -> "Unrolled":
        """A network with these parameters and settings that runs `algorithm`: the same layers under noise, say."""
        structure = jax.tree.structure(_unwrap(self.params))
        return Unrolled(
            algorithm,
            self.num_layers,
            self.params,
            layer_axes=structure.unflatten(self._axes),
            prepare=self.prepare,
            remat=self.remat,
        )

    def _run(self, problem: Problem, record: Callable[[State], PyTree] | None) -> tuple[State, State, PyTree]:
        params = _unwrap(self.params)
        axes = jax.tree.structure(params).unflatten(self._axes)
        if self.prepare is not None:
            if all(axis is None for axis in self._axes):
                params, axes = self.prepare(params, problem), None
            else:
                params, axes = jax.vmap(self.prepare, in_axes=(axes, None))(params, problem), 0
        start = jax.tree.map(strong_type, self.algorithm.init(problem))
        final, records = scan_layers(
            self.algorithm.step,
            params,
            start,
            problem,
            num_layers=self.num_layers,
            layer_axes=axes,
            record=record,
            remat=self.remat,
        )
        return start, final, records


def unroll(
    algorithm: Algorithm,
    num_layers: int,
    params: Params,
    *,
    layer_axes: PyTree = 0,
    prepare: Prepare | None = None,
    remat: Remat = None,
) -> Unrolled:
    """The first `num_layers` iterations of `algorithm` as a network whose layers all start from `params`.

    Args:
        algorithm: `Algorithm(init, step)`.
        num_layers: at least 1.
        params: **one** layer's parameters, any pytree; nnx modules are fine. They are copied for every layer where
            `layer_axes` is 0. For layers that start out different, pass `stack_layers(...)` to `Unrolled`.
        layer_axes: as in `scan_layers`.
        prepare: as in `Unrolled`.
        remat: as in `scan_layers`.

    >>> halving = Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)
    >>> network = unroll(halving, 3, jnp.array(0.5))
    >>> network(jnp.array(8.0)), network.trajectory(jnp.array(8.0))
    (Array(1., dtype=float32), Array([8., 4., 2., 1.], dtype=float32))
    """
    check_count("num_layers", num_layers)
    leaves, structure = jax.tree.flatten(params)
    axes = _axes_of_leaves(params, layer_axes)
    stacked = structure.unflatten(
        [
            jnp.repeat(strong_type(leaf)[None], num_layers, axis=0) if axis == 0 else leaf
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
    )
    return Unrolled(algorithm, num_layers, stacked, layer_axes=layer_axes, prepare=prepare, remat=remat)


def _scan(
    body: Callable[[State, list[Array]], tuple[State, PyTree]],
    state: State,
    per_layer: list[Array],
    num_layers: int,
    remat: Remat,
) -> tuple[State, PyTree]:
    if remat is None:
        return jax.lax.scan(body, state, per_layer, length=num_layers)
    # inside a scan the loop itself keeps the compiler from merging the two forward passes
    body = jax.checkpoint(body, prevent_cse=False)
    if remat == "layer":
        return jax.lax.scan(body, state, per_layer, length=num_layers)

    chunk = max(1, math.isqrt(num_layers))
    num_chunks, num_rest = divmod(num_layers, chunk)
    num_whole = num_chunks * chunk
    chunked = [leaf[:num_whole].reshape(num_chunks, chunk, *leaf.shape[1:]) for leaf in per_layer]

    def run_chunk(state: State, leaves: list[Array]) -> tuple[State, PyTree]:
        return jax.lax.scan(body, state, leaves, length=chunk)

    state, records = jax.lax.scan(jax.checkpoint(run_chunk, prevent_cse=False), state, chunked, length=num_chunks)
    records = jax.tree.map(lambda a: a.reshape(num_whole, *a.shape[2:]), records)
    if num_rest:
        state, rest = jax.lax.scan(body, state, [leaf[num_whole:] for leaf in per_layer], length=num_rest)
        records = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), records, rest)
    return state, records


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _is_module_or_variable(node: Any) -> bool:
    return isinstance(node, nnx.Module | nnx.Variable)


def _wrap(params: Params) -> Params:
    """`params` with its bare arrays as nnx variables: `nnx.Param` where they can be differentiated."""

    def wrap(leaf: Any) -> Any:
        if _is_module_or_variable(leaf):
            return leaf
        array = strong_type(leaf)
        return nnx.Param(array) if jnp.issubdtype(array.dtype, jnp.inexact) else nnx.Variable(array)

    return jax.tree.map(wrap, params, is_leaf=_is_module_or_variable)


def _unwrap(params: Params) -> Params:
    """`params` as the step sees it: bare arrays for the variables that stand outside modules."""

    def unwrap(leaf: Any) -> Any:
        return leaf[...] if _is_variable(leaf) else leaf

    return jax.tree.map(unwrap, params, is_leaf=_is_module_or_variable)


def _axes_of_leaves(params: Params, layer_axes: PyTree) -> tuple[int | None, ...]:
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


def _check_stacked(params: Params, axes: tuple[int | None, ...], num_layers: int) -> None:
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), axis in zip(named, axes, strict=True):
        if axis == 0 and jnp.shape(leaf)[:1] != (num_layers,):
            raise ValueError(
                f"`params` must be stacked: {_name(path)} needs a leading axis of {num_layers} layers, got shape "
                f"{jnp.shape(leaf)}. Stack the layers with stack_layers, let unroll copy one layer's params, or give "
                "this leaf the layer axis None to share it."
            )


def _check_state(state: State, new_state: State) -> None:
    old, new = jax.tree.structure(state), jax.tree.structure(new_state)
    if old != new:
        raise ValueError(
            f"`step` must keep the structure of its state: it got {old} and returned {new}. "
            "Let `init` return what `step` returns."
        )
    after = jax.tree.leaves(new_state)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(state), after, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise ValueError(
                f"`step` must keep the shapes and dtypes of its state, but it turned {_name(path, 'state')} from "
                f"{a.dtype}{list(a.shape)} into {b.dtype}{list(b.shape)}. Make `init` and `step` agree; "
                "a batch of problems goes through jax.vmap."
            )


def _name(path: Any, root: str = "params") -> str:
    return f"`{root}{jax.tree_util.keystr(path)}`"

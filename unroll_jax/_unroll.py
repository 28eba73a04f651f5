"""The `unroll` transform: an algorithm's first iterations as the layers of a network."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_algorithm, check_count, check_floating
from unroll_jax._scan import (
    Remat,
    axes_of_leaves,
    check_layers_per_iteration,
    check_remat,
    check_stacked,
    scan_layers,
)
from unroll_jax._tree import cast_like, lower, strong_type
from unroll_jax._types import Algorithm, Params, Problem, PyTree, State

Prepare: TypeAlias = Callable[[Params, Problem], Params]


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
        layers_per_iteration: as in `scan_layers`.
        compute_dtype: what the layers compute in, such as `jnp.bfloat16`; by default what params and problems have.
            Parameters stay what they are, `prepare` and `record` work in full precision, and states come back in it:
            so losses, constraints and multipliers keep float32. Complex numbers are not lowered.
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
        layers_per_iteration: int = 1,
        compute_dtype: Any = None,
    ):
        check_algorithm(algorithm)
        check_count("num_layers", num_layers)
        check_remat(remat)
        check_layers_per_iteration(layers_per_iteration, num_layers)
        check_floating("compute_dtype", compute_dtype)
        self.algorithm = algorithm
        self.num_layers = num_layers
        self.prepare = prepare
        self.remat: Remat = remat
        self.layers_per_iteration = layers_per_iteration
        self.compute_dtype = None if compute_dtype is None else jnp.dtype(compute_dtype)
        # a static attribute must hash, so the prefix tree is kept as one axis per leaf
        self._axes = axes_of_leaves(_unwrap(params), layer_axes)
        check_stacked(_unwrap(params), self._axes, num_layers)
        self.params = nnx.data(_wrap(params))

    def __call__(self, problem: Problem) -> State:
        """The state after the last layer, for one problem; nothing else is stored."""
        return self._run(problem, record=None)[1]

    def trajectory(self, problem: Problem, record: Callable[[State], PyTree] = lambda state: state) -> PyTree:
        """What `record` keeps of the start and of the state after each layer: leading axis `num_layers + 1`."""
        return self.run(problem, record)[1]

    def run(self, problem: Problem, record: Callable[[State], PyTree]) -> tuple[State, PyTree]:
        """The state after the last layer, and what `record` keeps of the start and of the state after each layer.

        For losses on the last estimate under constraints on all: a `record` that measures stores one number a layer,
        where one that returns the estimate stores them all, and training takes longer (see `descent_violation`).

        >>> halve = Algorithm(lambda problem: problem, lambda weight, x, problem: weight * x)
        >>> x, squares = unroll(halve, 3, jnp.asarray(0.5)).run(jnp.asarray(8.0), record=lambda x: x**2)
        >>> x, squares
        (Array(1., dtype=float32), Array([64., 16.,  4.,  1.], dtype=float32))
        """
        start, final, records = self._run(problem, record)
        joined = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), record(start), records)
        return final, joined

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
            layers_per_iteration=self.layers_per_iteration,
            compute_dtype=self.compute_dtype,
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
        step, first = self.algorithm.step, start
        if self.compute_dtype is not None:
            params, first, problem = lower((params, start, problem), self.compute_dtype)
            step, record = _between_precisions(step, record, low=first, full=start)
        final, records = scan_layers(
            step,
            params,
            first,
            problem,
            num_layers=self.num_layers,
            layer_axes=axes,
            record=record,
            remat=self.remat,
            layers_per_iteration=self.layers_per_iteration,
        )
        return start, cast_like(final, start), records


def unroll(
    algorithm: Algorithm,
    num_layers: int,
    params: Params,
    *,
    layer_axes: PyTree = 0,
    prepare: Prepare | None = None,
    remat: Remat = None,
    layers_per_iteration: int = 1,
    compute_dtype: Any = None,
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
        layers_per_iteration: as in `scan_layers`.
        compute_dtype: as in `Unrolled`.

    >>> halving = Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)
    >>> network = unroll(halving, 3, jnp.array(0.5))
    >>> network(jnp.array(8.0)), network.trajectory(jnp.array(8.0))
    (Array(1., dtype=float32), Array([8., 4., 2., 1.], dtype=float32))
    """
    check_count("num_layers", num_layers)
    leaves, structure = jax.tree.flatten(params)
    axes = axes_of_leaves(params, layer_axes)
    stacked = structure.unflatten(
        [
            jnp.repeat(strong_type(leaf)[None], num_layers, axis=0) if axis == 0 else leaf
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
    )
    return Unrolled(
        algorithm,
        num_layers,
        stacked,
        layer_axes=layer_axes,
        prepare=prepare,
        remat=remat,
        layers_per_iteration=layers_per_iteration,
        compute_dtype=compute_dtype,
    )


def _between_precisions(
    step: Callable[[Params, State, Problem], State],
    record: Callable[[State], PyTree] | None,
    *,
    low: State,
    full: State,
) -> tuple[Callable[[Params, State, Problem], State], Callable[[State], PyTree] | None]:
    """`step` that returns states in the dtypes of `low`, and `record` that sees them in those of `full`."""

    def low_step(params: Params, state: State, problem: Problem) -> State:
        # a constant of full precision inside the step would raise the state's
        return cast_like(step(params, state, problem), low)

    return low_step, None if record is None else lambda state: record(cast_like(state, full))


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


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _is_module_or_variable(node: Any) -> bool:
    return isinstance(node, nnx.Module | nnx.Variable)

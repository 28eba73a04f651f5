"""Batches as functions of the step, so that a run can be resumed at any step without a cursor to keep."""

import functools
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from unroll_jax._checks import check_count
from unroll_jax._types import PyTree

Batches: TypeAlias = Callable[[int], Any]
"""`step -> batch`: the same step gives the same batch. A `grain.MapDataset` is one: `dataset.__getitem__`."""


class Minibatches:
    """Random batches of the examples in `arrays`, epoch after epoch: `minibatches(step) -> batch`.

    Each epoch is a permutation of its own, of the seed and the epoch's number, and every example is used once in it;
    a batch may begin in one epoch and end in the next. Nothing is kept between calls, so any step can be asked for.

    Args:
        arrays: a pytree of arrays with the examples along their leading axes; NumPy arrays, memory maps included, are
            read by rows and stay where they are.
        batch_size: of the whole batch, over all processes.
        seed: a whole number of at least 0; another seed, another order.
        process_index: which part of each batch this process takes; by default its own, `jax.process_index()`.
        process_count: among how many processes each batch is divided evenly; by default all, `jax.process_count()`.

    Attributes:
        num_examples: how many examples there are.
        steps_per_epoch: steps after which each example was used once, rounded up.

    Raises:
        ValueError: for leading axes that differ, fewer examples than one batch, or a batch that the processes do not
            divide.

    >>> batches = Minibatches({"x": np.arange(6)}, batch_size=3, seed=0)
    >>> sorted([*batches(0)["x"], *batches(1)["x"]]) == list(range(6)), batches.steps_per_epoch
    (True, 2)
    """

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        *,
        seed: int = 0,
        process_index: int | None = None,
        process_count: int | None = None,
    ):
        process_index = jax.process_index() if process_index is None else process_index
        process_count = jax.process_count() if process_count is None else process_count
        check_count("batch_size", batch_size)
        check_count("process_count", process_count)
        if not 0 <= process_index < process_count:
            raise ValueError(f"`process_index` must lie in [0, {process_count}), got {process_index}.")
        if not isinstance(seed, numbers.Integral) or seed < 0:
            raise ValueError(f"`seed` must be a whole number of at least 0, got {seed!r}.")
        if batch_size % process_count:
            raise ValueError(
                f"`batch_size` must be a multiple of the {process_count} processes, got {batch_size}: "
                "each process feeds an equal part."
            )
        leaves = jax.tree_util.tree_leaves_with_path(arrays)
        sizes = {jax.tree_util.keystr(path) or "itself": np.shape(leaf)[:1] for path, leaf in leaves}
        if len(set(sizes.values())) != 1 or () in sizes.values():
            raise ValueError(f"`arrays` must share a leading axis of examples, got the leading axes {sizes}.")
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed
        self.process_index = process_index
        self.process_count = process_count
        self.num_examples: int = next(iter(sizes.values()))[0]
        if self.num_examples < batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of examples, {self.num_examples}, got {batch_size}."
            )
        self.steps_per_epoch = -(-self.num_examples // batch_size)

    def __call__(self, step: int) -> Any:
        """The batch of this step, or this process's part of it: leading axis `batch_size / process_count`."""
        epoch, start = divmod(step * self.batch_size, self.num_examples)
        order = _permutation(self.seed, epoch, self.num_examples)[start : start + self.batch_size]
        if missing := self.batch_size - len(order):
            order = np.concatenate([order, _permutation(self.seed, epoch + 1, self.num_examples)[:missing]])
        part = self.batch_size // self.process_count
        index = order[self.process_index * part : (self.process_index + 1) * part]
        return jax.tree.map(lambda array: array[index], self.arrays)


# a permutation of a million examples takes longer than a training step, and each serves a whole epoch
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def stack_batches(batches: Batches, start: int, stop: int) -> Any:
    """The batches of the steps from `start` to `stop`, stacked along a new leading axis on the host."""
    parts = [batches(step) for step in range(start, stop)]
    structure = jax.tree.structure(parts[0])
    for step, part in enumerate(parts, start):
        if jax.tree.structure(part) != structure:
            raise ValueError(
                f"`batches` must give the same structure at every step: step {start} gave {structure}, "
                f"step {step} {jax.tree.structure(part)}."
            )
    try:
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *parts)
    except ValueError as error:
        shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(part)] for part in parts]
        raise ValueError(
            f"`batches` must give the same shapes at every step, got {shapes} for the steps {start} to {stop - 1}. "
            "Drop or pad the short last batch of an epoch."
        ) from error

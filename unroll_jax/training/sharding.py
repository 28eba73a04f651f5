"""Training on many devices: the batch divided among them, the model copied to each or divided too.

The same step runs; only where the arrays lie changes, and XLA inserts the communication. Results equal those of one
device up to the order of summation.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unroll_jax._types import Array, PyTree


class DataParallel(NamedTuple):
    """How `fit` lays a run out over devices; `data_parallel` makes one.

    Attributes:
        mesh: the devices, in one axis called "batch".
        parameters: "replicated": every device holds the whole state. "sharded": each leaf of the state (the model,
            the multipliers, what the optimizers keep) is divided along its longest axis that the number of devices
            divides, and the model is gathered for each step; for states that fill a device. "layers": the same along
            the leading axis, that of the layers in an unrolled network.
    """

    mesh: Mesh
    parameters: Literal["replicated", "sharded", "layers"] = "replicated"

    def state_shardings(self, state: PyTree) -> PyTree:
        """For every leaf of a training state, where it lies."""
        size = self.mesh.size

        def spec(leaf: Any) -> PartitionSpec:
            axes = range(leaf.ndim) if self.parameters == "sharded" else range(min(leaf.ndim, 1))
            divisible = [axis for axis in axes if leaf.shape[axis] % size == 0 and leaf.shape[axis]]
            if self.parameters == "replicated" or not divisible or _is_key(leaf):
                return PartitionSpec()
            longest = max(divisible, key=lambda axis: leaf.shape[axis])
            return PartitionSpec(*[None] * longest, "batch")

        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, spec(leaf)), state)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def init_state(self, init: Callable[..., PyTree], model: PyTree, batch: PyTree, key: Array) -> PyTree:
        """`init(model, batch, key)` made where it lies, so that no device ever holds the whole of it.

        Raises:
            ValueError: if the processes give different models or keys.
        """
        shapes = jax.eval_shape(lambda: init(model, batch, key))
        make = jax.jit(lambda model, key: init(model, batch, key), out_shardings=self.state_shardings(shapes))
        return make(*self.place_state((model, key)))

    def place_state(self, state: PyTree) -> PyTree:
        """The state on the devices; each process gives the same.

        Raises:
            ValueError: if the processes give different ones.
        """
        devices = set(self.mesh.devices.flat)
        state = jax.tree.map(lambda leaf: leaf if _is_movable(leaf, devices) else _on_host(leaf), state)
        if self.mesh.is_multi_process:
            _check_agreement(state)
        # compiled, so that it works across processes, each of which can only reach its own devices
        return jax.jit(lambda tree: tree, out_shardings=self.state_shardings(state))(state)

    def step(self, step: Callable[..., tuple[Any, Any]], state: Any, batch: PyTree) -> tuple[Any, Any]:
        """`step(state, batch)` inside `jax.jit`, for which the model is gathered, and the state divided again after.

        Left to itself, the compiler would divide the layers' arithmetic as the parameters lie, and gather the batch.
        """
        constrain = jax.lax.with_sharding_constraint
        new, report = step(state._replace(model=constrain(state.model, self.replicated)), batch)
        return constrain(new, self.state_shardings(new)), report

    def local(self, tree: PyTree) -> PyTree:
        """`tree` whole on one device of this process, to be used there; with several, each process must ask for it."""
        if not self.mesh.is_multi_process:
            return jax.device_put(tree, self.mesh.devices.flat[0])
        whole = jax.jit(lambda tree: tree, out_shardings=self.replicated)(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)

    def from_first_process(self, values: np.ndarray) -> np.ndarray:
        """The first process's `values`, in every process."""
        if not self.mesh.is_multi_process:
            return values
        from jax.experimental import multihost_utils

        # as bytes, or float64 would become float32
        return np.asarray(multihost_utils.broadcast_one_to_all(values.view(np.uint8))).view(values.dtype)

    def place_batches(self, batches: PyTree, *, axis: int = 0) -> PyTree:
        """Batches of which each process gives its part, as global arrays divided along the batch's `axis`.

        Raises:
            ValueError: if the devices do not divide the batch.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(*[None] * axis, "batch"))
        num_processes = len({device.process_index for device in self.mesh.devices.flat})
        num_local = self.mesh.size // num_processes

        def place(path: Any, leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            if leaf.ndim <= axis or leaf.shape[axis] % num_local:
                raise ValueError(
                    f"`batches` must have a leading batch axis that the {num_local} devices of a process divide, got "
                    f"{leaf.shape[axis:]} at {jax.tree_util.keystr(path) or 'the batch itself'}. "
                    "Choose another batch size, or fewer devices."
                )
            return jax.make_array_from_process_local_data(sharding, leaf)

        return jax.tree_util.tree_map_with_path(place, batches)


def data_parallel(
    devices: Iterable[Any] | None = None,
    *,
    parameters: Literal["replicated", "sharded", "layers"] = "replicated",
) -> DataParallel:
    """A layout over `devices` (by default all, those of other processes included), for `fit(..., sharding=...)`.

    Args:
        devices: of `jax.devices()`, at least one, as many of each process.
        parameters: as in `DataParallel`.

    Raises:
        ValueError: for devices that cannot be used so, or another word for `parameters`.

    >>> layout = data_parallel(jax.devices()[:1])
    >>> layout.place_batches({"x": np.zeros((4, 3))})["x"].sharding.spec
    P('batch',)
    """
    devices = jax.devices() if devices is None else list(devices) if isinstance(devices, Iterable) else [devices]
    if not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(f"`devices` must be some of `jax.devices()`, got {devices!r}. Leave it out to use all.")
    if not devices:
        raise ValueError("`devices` must hold at least one device, got none. Leave it out to use all.")
    if len(set(devices)) < len(devices):
        raise ValueError(f"`devices` must hold each device once, got {devices}.")
    if parameters not in ("replicated", "sharded", "layers"):
        raise ValueError(f"`parameters` must be 'replicated', 'sharded' or 'layers', got {parameters!r}.")
    counts = dict.fromkeys(range(jax.process_count()), 0)
    for device in devices:
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"`devices` must hold as many devices of each process, got {counts} by process. Leave it out to use all."
        )
    # in the order of the processes, so that a process's part of the batch lies on its own devices
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return DataParallel(Mesh(np.array(ordered), ("batch",)), parameters)


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_movable(leaf: Any, devices: set[Any]) -> bool:
    """Whether `jax.jit` may move `leaf` to `devices`, or it is there already."""
    if not isinstance(leaf, jax.Array) or not leaf.committed:
        return True
    return leaf.sharding.device_set == devices


def _on_host(leaf: Any) -> Any:
    if _is_key(leaf):
        data = np.asarray(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(jax.numpy.asarray(data), impl=jax.random.key_impl(leaf))
    return np.asarray(leaf)


def _check_agreement(tree: PyTree) -> None:
    """Raise unless every process has the same numbers, which JAX takes for granted."""
    from jax.experimental import multihost_utils

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            digest.update(np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf).tobytes())
    digests = multihost_utils.process_allgather(np.frombuffer(digest.digest(), np.uint8))
    if len(np.unique(digests, axis=0)) > 1:
        raise ValueError(
            "`model` and `key` must be the same in every process, these differ. "
            "Make them from the same seeds, or load the same file."
        )

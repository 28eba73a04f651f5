"""Training on many devices: the batch divided among them, the model copied to each or divided too.

The same step runs; only where the arrays lie changes, and XLA inserts the communication. Results equal those of one
device up to the order of summation.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unroll_jax._types import PyTree


class DataParallel(NamedTuple):
    """How `fit` lays a run out over devices; `data_parallel` makes one.

    Attributes:
        mesh: the devices, in one axis called "batch".
        parameters: "replicated": every device holds the whole state. "sharded": each leaf of the state is divided
            along its longest axis that the number of devices divides, and gathered where it is used; for models and
            optimizer states that do not fit on one device. "layers": the same along the leading axis, that of the
            layers in an unrolled network.
    """

    mesh: Mesh
    parameters: Literal["replicated", "sharded", "layers"] = "replicated"

    def state_shardings(self, state: PyTree) -> PyTree:
        """For every leaf of a training state, where it lies."""
        size = self.mesh.size

        def spec(leaf: Any) -> PartitionSpec:
            axes = range(leaf.ndim) if self.parameters == "sharded" else range(min(leaf.ndim, 1))
            divisible = [axis for axis in axes if leaf.shape[axis] % size == 0 and leaf.shape[axis]]
            is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            if self.parameters == "replicated" or not divisible or is_key:
                return PartitionSpec()
            longest = max(divisible, key=lambda axis: leaf.shape[axis])
            return PartitionSpec(*[None] * longest, "batch")

        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, spec(leaf)), state)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def place_state(self, state: PyTree) -> PyTree:
        """The state on the devices. With several processes, each must give the same."""
        # compiled, so that it works across processes, each of which can only reach its own devices
        return jax.jit(lambda tree: tree, out_shardings=self.state_shardings(state))(state)

    def local(self, tree: PyTree) -> PyTree:
        """`tree` as this process can use it alone: with several processes, whole on its first device."""
        if self.mesh.is_multi_process:
            whole = jax.jit(lambda tree: tree, out_shardings=self.replicated)(tree)
            return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)
        return tree

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
    devices: Sequence[Any] | None = None,
    *,
    parameters: Literal["replicated", "sharded", "layers"] = "replicated",
) -> DataParallel:
    """A layout over `devices` (by default all, those of other processes included), for `fit(..., sharding=...)`.

    Args:
        devices: of `jax.devices()`, at least one; each process must contribute as many as any other.
        parameters: as in `DataParallel`.

    Raises:
        ValueError: for no devices, or another word for `parameters`.

    >>> layout = data_parallel(jax.devices()[:1])
    >>> layout.place_batches({"x": np.zeros((4, 3))})["x"].sharding.spec
    P('batch',)
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("`devices` must hold at least one device, got none. Leave it out to use all.")
    if parameters not in ("replicated", "sharded", "layers"):
        raise ValueError(f"`parameters` must be 'replicated', 'sharded' or 'layers', got {parameters!r}.")
    counts = {d.process_index: 0 for d in devices}
    for device in devices:
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"`devices` must hold as many devices of each process, got {counts} by process. Leave it out to use all."
        )
    # in the order of the processes, so that a process's part of the batch lies on its own devices
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return DataParallel(Mesh(np.array(ordered), ("batch",)), parameters)

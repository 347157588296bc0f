"""Data parallelism: the only module that says `pmap`.

State and metrics carry no device axis (`in_axes=(None, 0, None), out_axes=None`): they are truly
replicated, so checkpoints save directly and nothing is ever indexed by device. Every process
passes its own rows with a leading axis of its local devices.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ralm_jax.errors import UserError

AXIS = "data"


def parallelize(step, devices=None):
    """`step(state, batch, key) -> (state, metrics)` on every device; the state is donated.

    Batch leaves have a leading device axis. Inside, use `psum`, `all_gather` and `device_key`.
    devices: others than those that are here, to compile for.
    """
    axes = {"in_axes": (None, 0, None), "out_axes": None}
    return jax.pmap(step, axis_name=AXIS, **axes, donate_argnums=0, devices=devices)


def gathered(function):
    """`function(params, rows) -> rows'`, each device its share; every process gets all the rows.

    Leaves of `rows` are [local devices, n, ...]; the result is [devices * n, ...]. For embedding.
    """
    return jax.pmap(
        lambda params, rows: all_gather(function(params, rows)),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
    )


def shared_out(function, devices):
    """`function(tree, rows) -> found` on some of this process's devices, each its share of the rows.

    Leaves of `rows` are [devices, n, ...], as `on_each` makes them; `found` must be the same on all of them.
    """
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def on_each(shards: Sequence[jax.Array], devices: Sequence[jax.Device]) -> jax.Array:
    """One array [1, ...] on each of the devices -> [devices, ...], where they are."""
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
    shape = (len(devices), *shards[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, list(shards))


def replicate(tree, devices=None):
    """Places a tree on this process's devices, where a pmapped step leaves it: else it compiles twice.

    devices: some of them only.
    """
    devices = jax.local_devices() if devices is None else devices
    return jax.device_put(jax.tree.map(_own, tree), _replicated(devices))


def shared(tree):
    """The same on every process -> arrays that span all processes, as checkpoints want them."""
    if jax.process_count() == 1:
        return tree
    sharding = _replicated(jax.devices())

    def one(x):
        if not isinstance(x, jax.Array):
            return x
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(one, tree)


def _replicated(devices) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())


def _own(x):
    """What this process has of an array that is the same on all."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x
    shards = [shard.data for shard in x.addressable_shards]
    devices = [shard.device for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, _replicated(devices), shards)


def device_key(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The run's key folded with the step and this device: no key is ever carried."""
    return jax.random.fold_in(jax.random.fold_in(key, step), jax.lax.axis_index(AXIS))


def psum(tree):
    return jax.lax.psum(tree, AXIS)


def all_gather(x: jax.Array) -> jax.Array:
    """[B, ...] on each device -> [global B, ...]; gradients flow to every device's rows."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def first_row(rows: int) -> jax.Array:
    """Where this device's `rows` begin in what `all_gather` returns."""
    return jax.lax.axis_index(AXIS) * rows


def check_batch(size: int) -> None:
    """Raises UserError unless a global batch divides evenly over all devices."""
    if size <= 0 or size % jax.device_count():
        raise UserError(
            f"batch of {size} does not divide over {jax.device_count()} devices: "
            f"choose a multiple of {jax.device_count()}"
        )


def local_rows(size: int) -> slice:
    """The rows of a global batch that this process supplies."""
    share = size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def shard(tree):
    """This process's rows [b, ...] -> [local devices, b / local devices, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), tree)


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """This process's rows [b, ...] -> those of all processes, in order [b * processes, ...]."""
    if jax.process_count() == 1:
        return rows
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def over_hosts(function, tree):
    """`function(*leaves [processes, ...])` of what all processes have, the same on each; queued.

    tree: a tuple of what this process has, of equal shapes on all.
    """
    run = _on_hosts(function, PartitionSpec())
    return jax.tree.map(lambda x: x.addressable_data(0), run(*jax.tree.map(_of_each, tree)))


def scatter_rows(rows: np.ndarray) -> np.ndarray:
    """What this process has for each, [processes, ...] -> the sum of what all have for it, [...]."""
    if jax.process_count() == 1:
        return rows[0]
    return np.asarray(_on_hosts(_summed, PartitionSpec(AXIS))(_of_each(rows)).addressable_data(0))[
        0
    ]


@functools.lru_cache(maxsize=8)
def _hosts() -> Mesh:
    """The first device of each process."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([first[process] for process in sorted(first)]), (AXIS,))


@functools.lru_cache(maxsize=32)
def _on_hosts(function, out: PartitionSpec):
    return jax.jit(function, out_shardings=NamedSharding(_hosts(), out))


def _of_each(x):
    """This process's [...] -> [processes, ...], on the first device of each."""
    device = _hosts().local_devices[0]
    own = jax.device_put(x.addressable_data(0) if isinstance(x, jax.Array) else x, device)[None]
    sharding = NamedSharding(_hosts(), PartitionSpec(AXIS))
    return jax.make_array_from_single_device_arrays(
        (jax.process_count(), *own.shape[1:]), sharding, [own]
    )


def _summed(rows: jax.Array) -> jax.Array:
    return rows.sum(0)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them must ask."""
    return bool(gather_rows(np.array([flag])).any())

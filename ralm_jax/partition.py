"""Data parallelism: the only module that says `pmap`.

State and metrics carry no device axis (`in_axes=(None, 0, None), out_axes=None`): they are truly
replicated, so checkpoints save directly and nothing is ever indexed by device. Every process
passes its own rows with a leading axis of its local devices.
"""

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
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    return jax.device_put(jax.tree.map(_own, tree), sharding)


def shared(tree):
    """The same on every process -> arrays that span all processes, as checkpoints want them."""
    if jax.process_count() == 1:
        return tree
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())

    def one(x):
        if not isinstance(x, jax.Array):
            return x
        return jax.make_array_from_process_local_data(sharding, np.asarray(x))

    return jax.tree.map(one, tree)


def _own(x):
    return np.asarray(x) if isinstance(x, jax.Array) and not x.is_fully_addressable else x


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


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them must ask."""
    return bool(gather_rows(np.array([flag])).any())

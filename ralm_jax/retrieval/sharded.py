"""Vectors spread over the devices of this process, and the greatest inner products among them.

A process answers all queries from the vectors that it holds: all, or the slice that is its own. A device
takes whole blocks, in order, and so few that they fit one stay on one. Work is queued there like any other,
so the host does not wait.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import partition
from ralm_jax.errors import UserError

# Vectors scored at a time, which bounds the scores in memory to [B, BLOCK].
BLOCK = 1 << 14
# Scores of which the greatest is found first. So a CPU's search for 8 passages took 0.6 to 0.7 of its time,
# with 16 to 512 queries, for 32 passages 0.7 to 0.8, and for 64 as long.
GROUP = 64
# Of the best that a TPU looks for, the share it is to find.
APPROXIMATELY = 0.98
# Of a device's memory, what a table may take before anything else is there.
MOST = 0.9


class Layout(NamedTuple):
    """How N vectors lie: on so many devices, on each so many blocks of so many rows."""

    devices: int
    blocks: int
    block: int

    @property
    def rows(self) -> int:
        """Of a device."""
        return self.blocks * self.block


class Table(NamedTuple):
    """Blocks [devices, blocks, block, E] in order, rows of padding at the end; N of them are passages.

    A block is scored as one of `scored` rows: scores of products of other shapes differ in their last bits.
    """

    blocks: jax.Array
    passages: int
    devices: tuple[Any, ...]
    scored: int


def layout(passages: int, devices: int) -> Layout:
    """No device without a passage: fewer devices than there are, where blocks are few."""
    block = min(BLOCK, passages)
    blocks = -(-passages // block)
    each = -(-blocks // devices)
    return Layout(-(-blocks // each), each, block)


def check_room(passages: int, width: int, dtype: Any, tables: int) -> None:
    """Raises UserError where so many tables of [passages, width] do not fit this process's devices."""
    devices = jax.local_devices()
    # A CPU does not say.
    room = (devices[0].memory_stats() or {}).get("bytes_limit")
    need = tables * device_bytes(passages, width, jnp.dtype(dtype).itemsize, len(devices))
    if room is not None and need > MOST * room:
        raise UserError(
            f"exact search: {passages:,} passages of {width} numbers take {need / 1e9:.1f} GB of each of "
            f"{len(devices)} devices of {room / 1e9:.1f} GB: set INDEX = 'scann', or take more devices"
        )


def device_bytes(passages: int, width: int, itemsize: int, devices: int) -> int:
    """Of a table, on each device."""
    return layout(passages, devices).rows * width * itemsize


def placed(
    vectors: np.ndarray,
    dtype: Any,
    watch: Callable[[int, jax.Array], None] | None = None,
    whole: int = 0,
) -> Table:
    """Vectors [N,E] float32, which may be mapped, as a table; only a block at a time is copied on the host.

    Args:
      whole: passages of which these are a slice: they get the very scores that they get among all.
      watch: called with the first row of each block and the block [block,E] float32, on its device.
    """
    passages, width = vectors.shape
    at = layout(passages, jax.local_device_count())
    devices = tuple(jax.local_devices()[: at.devices])
    shape = (1, at.blocks, at.block, width)
    shards = [jnp.zeros(shape, dtype, device=device) for device in devices]
    # A block to each device in turn, so that they are filled at the same time.
    for place in range(at.blocks):
        for number, device in enumerate(devices):
            first = number * at.rows + place * at.block
            rows = vectors[first : first + at.block]
            if not len(rows):
                continue
            if len(rows) < at.block:
                rows = np.pad(rows, ((0, at.block - len(rows)), (0, 0)))
            # What was given is the caller's, who may change it.
            block = jax.device_put(rows, device, may_alias=False)
            if watch:
                watch(first, block)
            shards[number] = _with_block(shards[number], block, np.int32(place))
    scored = min(BLOCK, max(whole, passages))
    return Table(partition.on_each(shards, devices), passages, devices, scored)


@functools.partial(jax.jit, donate_argnums=0)
def _with_block(shard: jax.Array, block: jax.Array, place: jax.Array) -> jax.Array:
    """Shard [1,blocks,block,E] with a block [block,E] in its place, rounded as the shard is."""
    block = block.astype(shard.dtype)[None, None]
    return jax.lax.dynamic_update_slice(shard, block, (0, place, 0, 0))


def search(
    table: Table, queries: jax.Array | np.ndarray, k: int, *, approximate: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The k greatest inner products of queries [B,E]; of equal ones the lower id comes first.

    Args:
      approximate: by `approx_max_k`, which on a TPU is part of the product and misses a few.

    Returns:
      ids [B,k] int32 (-1 where there are fewer than k passages), scores [B,k] float32; on their way.
    """
    search = searching(k, table.devices, approximate, table.scored)
    asked = partition.replicate((queries, np.int32(table.passages)), table.devices)
    ids, scores = search(asked, table.blocks)
    ids.copy_to_host_async()
    scores.copy_to_host_async()
    return ids, scores


@functools.lru_cache(maxsize=32)
def searching(k: int, devices: tuple[Any, ...], approximate: bool, scored: int):
    """`search((queries [B,E], passages), blocks [devices,blocks,block,E])`, compiled once."""
    among = len(devices) if approximate else 0
    scan = functools.partial(_search, k=k, among=among, scored=scored)
    return partition.shared_out(scan, devices)


def _search(asked, blocks: jax.Array, *, k: int, among: int, scored: int):
    """What one device finds in its blocks [blocks,block,E], merged with what the others find.

    among: devices, where it is to be found approximately.
    scored: rows that a block is scored as. More than it has: then it is the only one, on one device.
    """
    queries, passages = asked
    number, block, _ = blocks.shape
    first = partition.first_row(number * block)
    starts = first + block * jnp.arange(number, dtype=jnp.int32)
    seen = functools.partial(merged, k=k, among=among * number * block)

    def scan(best, each):
        start, rows = each
        rows = jnp.pad(rows, ((0, max(0, scored - block)), (0, 0)))
        return seen(best, queries, start, rows, passages), None

    (ids, scores), _ = jax.lax.scan(scan, nothing(len(queries), k), (starts, blocks))
    # The devices stand in the order of their rows, and top_k keeps the order of equals.
    ids, scores = (partition.all_gather(x.T).T for x in (ids, scores))
    if ids.shape[1] == k:
        return ids, scores
    scores, where = jax.lax.top_k(scores, k)
    return jnp.take_along_axis(ids, where, axis=1), scores


def nothing(batch: int, k: int) -> tuple[jax.Array, jax.Array]:
    """The best of no passages: ids [B,k] and scores [B,k]."""
    return jnp.full((batch, k), -1, jnp.int32), jnp.full((batch, k), -jnp.inf, jnp.float32)


def merged(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    first: jax.Array,
    block: jax.Array,
    passages: jax.Array,
    *,
    k: int,
    among: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """The best so far, ids [B,k] and scores [B,k], and those of a block [block,E] that begins at row `first`.

    Products are of the block's precision and summed in float32. Rows from `passages` on are padding.
    With `among`, those of the block are found approximately, as the best of so many rows.
    """
    ids = first + jnp.arange(len(block), dtype=jnp.int32)
    # Full precision: an accelerator's default would round float32 vectors.
    exactly = jax.lax.Precision.HIGHEST if block.dtype == jnp.float32 else None
    how: Any = {"precision": exactly, "preferred_element_type": jnp.float32}
    scores = jnp.einsum("be,ne->bn", queries.astype(block.dtype), block, **how)
    scores = jnp.where((ids < passages)[None, :], scores, -jnp.inf)
    few = min(k, len(block))
    if among:
        how = {"recall_target": APPROXIMATELY, "reduction_input_size_override": among}
        few, where = jax.lax.approx_max_k(scores, few, **how)
    else:
        few, where = greatest(scores, few)
    # The best so far stand first, and top_k keeps the order of equals: so -1 outlasts padding.
    scores = jnp.concatenate([best[1], few], axis=1)
    ids = jnp.concatenate([best[0], ids[where]], axis=1)
    scores, where = jax.lax.top_k(scores, k)
    return jnp.take_along_axis(ids, where, axis=1), scores


def greatest(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """What `top_k` finds in scores [B,n], values and places [B,k]; of equal ones the first come first.

    Whatever is among the k best is in one of the k groups whose greatest are best: of each group that comes
    before its own, the greatest comes before it as well.
    """
    batch, n = scores.shape
    if n % GROUP or 8 * k * GROUP > n:
        return jax.lax.top_k(scores, k)
    groups = scores.reshape(batch, -1, GROUP)
    # In order again, so that of equals the first stays first.
    best = jnp.sort(jax.lax.top_k(groups.max(-1), k)[1])
    among = jnp.take_along_axis(groups, best[..., None], axis=1).reshape(batch, -1)
    values, where = jax.lax.top_k(among, k)
    return values, jnp.take_along_axis(best, where // GROUP, axis=1) * GROUP + where % GROUP

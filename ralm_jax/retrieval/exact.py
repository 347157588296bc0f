"""Exact search on the device; its work is queued there like any other, so the host does not wait."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.retrieval.index import Version
from ralm_jax.retrieval.searcher import Found, Published

# Vectors scored at a time, which bounds the scores in memory to [B, BLOCK].
BLOCK = 1 << 14


class Exact:
    """The `mips.Searcher` that scores every passage, on the first local device."""

    def __init__(self) -> None:
        self.step = -1
        self._device = jax.local_devices()[0]
        self._served: tuple[jax.Array, int] | None = None
        self._next: tuple[int, jax.Array, int, float] | None = None

    def search(self, queries: jax.Array | np.ndarray, k: int) -> Callable[[], Found]:
        """See `mips.Searcher`; queues device work and returns."""
        if self._served is None:
            raise ValueError("search before the first publish")
        blocks, passages = self._served
        ids, scores = top_k(jax.device_put(queries, self._device), blocks, passages, k=k)
        ids.copy_to_host_async()
        scores.copy_to_host_async()
        return lambda: (np.asarray(ids), np.asarray(scores))

    def build(self, version: Version) -> None:
        """See `mips.Searcher`; the vectors start their way to the device."""
        began = time.perf_counter()
        passages, width = version.vectors.shape
        block = min(BLOCK, passages)
        blocks = np.zeros((-(-passages // block) * block, width), np.float32)
        blocks[:passages] = version.vectors
        on_device = jax.device_put(blocks.reshape(-1, block, width), self._device)
        self._next = version.step, on_device, passages, time.perf_counter() - began

    def publish(self) -> Published:
        """See `mips.Searcher`; recall is 1 by construction."""
        if self._next is None:
            raise ValueError("publish without a build")
        self.step, blocks, passages, seconds = self._next
        self._served, self._next = (blocks, passages), None
        return Published(self.step, 1.0, seconds, 0.0)

    def restore(self, version: Version) -> None:
        """See `mips.Searcher`."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """See `mips.Searcher`."""
        self._served = self._next = None


@functools.partial(jax.jit, static_argnames="k")
def top_k(
    queries: jax.Array, blocks: jax.Array, passages: int | jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k greatest inner products, scored block by block; of equal ones the lower id comes first.

    Args:
      queries: [B, E] float32.
      blocks: [blocks, block, E] float32, the passages in order with rows of padding at the end.
      passages: how many rows are passages.
      k: how many to find.

    Returns:
      ids [B, k] int32 (-1 where there are fewer than k passages), scores [B, k] float32.
    """
    batch, block = len(queries), blocks.shape[1]
    none = jnp.full((batch, k), -1, jnp.int32), jnp.full((batch, k), -jnp.inf, jnp.float32)

    def merge(best, numbered):
        number, vectors = numbered
        ids = number * block + jnp.arange(block, dtype=jnp.int32)
        # Full precision: an accelerator's default would make the search less exact than its name.
        scores = jnp.einsum("be,ne->bn", queries, vectors, precision=jax.lax.Precision.HIGHEST)
        scores = jnp.where((ids < passages)[None, :], scores, -jnp.inf)
        few, where = jax.lax.top_k(scores, min(k, block))
        # The best so far stand first, and top_k keeps the order of equals: so -1 outlasts padding.
        scores = jnp.concatenate([best[1], few], axis=1)
        ids = jnp.concatenate([best[0], ids[where]], axis=1)
        scores, where = jax.lax.top_k(scores, k)
        return (jnp.take_along_axis(ids, where, axis=1), scores), None

    (ids, scores), _ = jax.lax.scan(merge, none, (jnp.arange(len(blocks), dtype=jnp.int32), blocks))
    return ids, scores

"""Search of every passage on the devices: in float32, or in bfloat16 and then in float32 among the best.

On a CPU many vectors of a file are searched where they are mapped: a copy would be the same memory once more.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.arrays import require_whole
from ralm_jax.retrieval import sharded
from ralm_jax.retrieval.index import Version
from ralm_jax.retrieval.searcher import Found, Published, recall

# For each passage asked for, so many are found in bfloat16.
RESCORED = 2
# Queries that recall is measured with.
SAMPLE = 256
# Bytes of mapped vectors from which on a CPU keeps no copy.
MAPPED = 1 << 28


class Exact:
    """The `searcher.Searcher` that scores every passage in float32, on the local devices.

    Args:
      whole: passages of which a slice is searched, to find in it what a search of all finds there.
    """

    def __init__(self, whole: int = 0) -> None:
        self.step, self._whole = -1, whole
        self._served: sharded.Table | np.memmap | None = None
        self._next: tuple[int, sharded.Table | np.memmap, float] | None = None

    def search(self, queries: jax.Array | np.ndarray, k: int) -> Callable[[], Found]:
        """See `searcher.Searcher`; queues device work and returns."""
        ids, scores = self.queue(queries, k)
        return lambda: (np.asarray(ids), np.asarray(scores))

    def queue(self, queries: jax.Array | np.ndarray, k: int) -> tuple[jax.Array, jax.Array]:
        """As `search`, but what is found stays on the devices: ids and scores [B,k] on each.

        Where vectors stay mapped it is there when this returns.
        """
        if self._served is None:
            raise ValueError("search before the first publish")
        if isinstance(self._served, np.memmap):
            return mapped(self._served, queries, k, self._whole)
        return sharded.search(self._served, queries, k)

    def build(self, version: Version) -> None:
        """See `searcher.Searcher`; the vectors start their way to the devices, or stay mapped."""
        began, vectors = time.perf_counter(), version.vectors
        # A slice is searched as the whole would be, so that the scores are the same.
        most = max(self._whole, len(vectors)) * vectors[:1].nbytes
        stays = most >= MAPPED and jax.default_backend() == "cpu" and not vectors.flags.writeable
        table: sharded.Table | np.memmap
        if stays and isinstance(vectors, np.memmap):
            table = vectors
        else:
            table = sharded.placed(vectors, np.float32, whole=self._whole)
        self._next = version.step, table, time.perf_counter() - began

    def publish(self) -> Published:
        """See `searcher.Searcher`; recall is 1 by construction."""
        if self._next is None:
            raise ValueError("publish without a build")
        self.step, self._served, seconds = self._next
        self._next = None
        return Published(self.step, 1.0, seconds, 0.0)

    def restore(self, version: Version) -> None:
        """See `searcher.Searcher`."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """See `searcher.Searcher`."""
        self._served = self._next = None


def mapped(
    vectors: np.memmap, queries: jax.Array | np.ndarray, k: int, whole: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Queries [B,E] and mapped vectors [N,E] -> ids [B,k] and scores [B,k], as `sharded.search` finds them.

    The devices take a block each in turn, and no more than one at a time.
    """
    require_whole(vectors)
    devices, passages, block = jax.local_devices(), np.int32(len(vectors)), sharded.BLOCK
    scored = min(block, max(whole, len(vectors)))
    asked = [jax.device_put(queries, device) for device in devices]
    best = [jax.device_put(sharded.nothing(len(queries), k), device) for device in devices]
    for number, first in enumerate(range(0, len(vectors), block)):
        here = number % len(devices)
        rows = vectors[first : first + block]
        rows = np.pad(rows, ((0, scored - len(rows)), (0, 0))) if len(rows) < scored else rows
        jax.block_until_ready(best[here])
        given = asked[here], np.int32(first), jax.device_put(rows, devices[here]), passages
        best[here] = _merged(best[here], *given, k=k)
    ids, scores = (np.concatenate(each, axis=1) for each in zip(*best, strict=True))
    # Of equal scores the lower id comes first, and what is none comes last.
    order = np.lexsort((ids, -scores))[:, :k]
    best_ids, best_scores = (np.take_along_axis(x, order, axis=1) for x in (ids, scores))
    return jnp.asarray(best_ids), jnp.asarray(best_scores)


class Rounded:
    """The `searcher.Searcher` for accelerators: 2k passages by bfloat16, the k best of them by float32.

    The devices hold half of what `Exact` has there; float32 vectors are read where the version is mapped.
    On a TPU the 2k are found approximately. So recall is measured, with the queries of late.

    Args:
      k: how many passages searches ask for; recall@k is measured.
    """

    def __init__(self, k: int) -> None:
        self.step, self._k = -1, k
        self._approximate = jax.local_devices()[0].platform == "tpu"
        self._asked: jax.Array | np.ndarray | None = None
        self._served: tuple[sharded.Table, np.ndarray] | None = None
        self._next: tuple[Version, sharded.Table, _Wanted, float] | None = None

    def search(self, queries: jax.Array | np.ndarray, k: int) -> Callable[[], Found]:
        """See `searcher.Searcher`; queues device work and returns."""
        if self._served is None:
            raise ValueError("search before the first publish")
        self._asked = queries
        return self._search(queries, k)

    def _search(self, queries: jax.Array | np.ndarray, k: int) -> Callable[[], Found]:
        assert self._served is not None
        table, vectors = self._served
        require_whole(vectors)
        ids, _ = sharded.search(table, queries, RESCORED * k, approximate=self._approximate)
        if isinstance(queries, jax.Array):
            queries.copy_to_host_async()
        return lambda: rescored(np.asarray(queries, np.float32), vectors, np.asarray(ids), k)

    def build(self, version: Version) -> None:
        """See `searcher.Searcher`; the vectors start their way to the devices."""
        began, vectors = time.perf_counter(), version.vectors
        few = min(SAMPLE, max(1, SAMPLE**2 // self._k))
        rows = np.random.default_rng(0).permutation(len(vectors))[:few]
        queries = vectors[np.sort(rows)] if self._asked is None else np.asarray(self._asked)[:few]
        wanted = _Wanted(np.asarray(queries, np.float32), len(vectors), self._k)
        table = sharded.placed(vectors, jnp.bfloat16, wanted.watch)
        self._next = version, table, wanted, time.perf_counter() - began

    def publish(self) -> Published:
        """See `searcher.Searcher`."""
        if self._next is None:
            raise ValueError("publish without a build")
        began = time.perf_counter()
        version, table, wanted, seconds = self._next
        self.step, self._served, self._next = version.step, (table, version.vectors), None
        found, _ = self._search(wanted.queries, self._k)()
        reached = recall(found, wanted.ids())
        return Published(self.step, reached, seconds, time.perf_counter() - began)

    def restore(self, version: Version) -> None:
        """See `searcher.Searcher`."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """See `searcher.Searcher`."""
        self._served = self._next = self._asked = None


def rescored(queries: np.ndarray, vectors: np.ndarray, ids: np.ndarray, k: int) -> Found:
    """Queries [B,E], vectors [N,E] and ids [B,j] of them, -1 for none -> the k best; ties: lower id first."""
    found = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for row, own in enumerate(ids):
        own = np.sort(own[own >= 0])
        fresh = vectors[own] @ queries[row]
        best = np.argsort(-fresh, kind="stable")[:k]
        found[row, : len(best)], scores[row, : len(best)] = own[best], fresh[best]
    return found, scores


class _Wanted:
    """What the vectors say in float32 for some queries [B,E], found while they pass by on their devices."""

    def __init__(self, queries: np.ndarray, passages: int, k: int):
        self.queries, self._passages, self._k = queries, np.int32(passages), k
        self._best: dict[object, tuple[jax.Array, jax.Array]] = {}

    def watch(self, first: int, block: jax.Array) -> None:
        """Block [block,E] whose first row is `first`; of a device, in order."""
        (device,) = block.devices()
        best = self._best.get(device) or sharded.nothing(len(self.queries), self._k)
        given = (best, self.queries, np.int32(first), block, self._passages)
        self._best[device] = _merged(*given, k=self._k)

    def ids(self) -> np.ndarray:
        """Of the best, int32 [B,k]."""
        ids, scores = (np.concatenate(x, axis=1) for x in zip(*self._best.values(), strict=True))
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._k]
        return np.take_along_axis(ids, best, axis=1)


_merged = functools.partial(jax.jit, static_argnames="k")(sharded.merged)

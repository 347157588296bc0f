"""One search over all hosts: each answers from its slice, and the answers are merged.

The queries of a batch are on every host already, for they are gathered where they are embedded. What crosses
is K ids and scores of each query from each host, 8 bytes a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import partition
from ralm_jax.hosts.watch import reached
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.index import Version
from ralm_jax.retrieval.searcher import Found, Published, Searcher

# Behind every passage, in the order of equals.
_LAST = np.iinfo(np.int32).max


class OverHosts:
    """The `searcher.Searcher` of all passages, given that of this host's slice; every host asks the same.

    Args:
      own: searches the slice, by its own rows.
      first: the row of all passages that the slice begins with.
    """

    def __init__(self, own: Searcher, first: int) -> None:
        self._own, self._first, self.step = own, first, own.step

    def search(self, queries: jax.Array | np.ndarray, k: int) -> Callable[[], Found]:
        """See `searcher.Searcher`; queries [B,E] of all hosts.

        What exact search finds is merged on the devices, before a step that is queued next; what another
        finds has to wait for the step.
        """
        if isinstance(self._own, Exact):
            return _fetched(self._merged(*self._own.queue(queries, k), k))
        answer = self._own.search(queries, k)
        return lambda: _fetched(self._merged(*answer(), k))()

    def _merged(self, ids: Any, scores: Any, k: int) -> tuple[jax.Array, jax.Array]:
        first = np.int32(self._first)
        return partition.over_hosts(_merging(k), (ids, scores, first))

    def build(self, version: Version) -> None:
        """See `searcher.Searcher`; of this host's slice."""
        self._own.build(version)

    def publish(self) -> Published:
        """See `searcher.Searcher`: no host goes on before all serve the version.

        Recall is the mean over slices, and seconds are those of the slowest host.
        """
        own = self._own.publish()
        self.step = own.step
        reached()
        told = partition.gather_rows(np.array([[own.step, *own[1:4]]], np.float64))
        if len({int(step) for step in told[:, 0]}) > 1:
            raise RuntimeError(f"hosts serve different versions: {told[:, 0].astype(int).tolist()}")
        return Published(
            own.step, float(told[:, 1].mean()), float(told[:, 2].max()), float(told[:, 3].max())
        )

    def restore(self, version: Version) -> None:
        """See `searcher.Searcher`."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """See `searcher.Searcher`."""
        self._own.close()


def merged(ids: jax.Array, scores: jax.Array, first: jax.Array, *, k: int) -> Any:
    """The k best of what all hosts found; of equal scores the lower row comes first.

    Args:
      ids: int32 [hosts,B,K] by the rows of each slice, -1 for none.
      scores: float32 [hosts,B,K].
      first: int32 [hosts], the row of all passages that each slice begins with.

    Returns:
      ids [B,k], -1 for none, and scores [B,k].
    """
    rows = jnp.where(ids < 0, _LAST, ids + first[:, None, None])
    rows, scores = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1) for x in (rows, scores))
    # By their rows, for `top_k` keeps the order of equals. So it is told 0 from -0 as one host tells them.
    order = jnp.argsort(rows, axis=1)
    rows, scores = (jnp.take_along_axis(x, order, axis=1) for x in (rows, scores))
    scores, where = jax.lax.top_k(scores, k)
    rows = jnp.take_along_axis(rows, where, axis=1)
    return jnp.where(rows == _LAST, -1, rows), scores


@functools.cache
def _merging(k: int) -> Callable[..., Any]:
    """One function for each k, so that it is compiled once."""
    return functools.partial(merged, k=k)


def _fetched(found: tuple[jax.Array, jax.Array]) -> Callable[[], Found]:
    for part in found:
        part.copy_to_host_async()
    ids, scores = found
    return lambda: (np.asarray(ids), np.asarray(scores))

"""One refresh under way: the passages embedded chunk by chunk, on the device and then on disk."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from ralm_jax.hosts.watch import reached
from ralm_jax.retrieval import index

# (params, start, stop) -> [stop - start, E] float32; of numpy where nothing had to be embedded
Embed = Callable[[Any, int, int], jax.Array | np.ndarray]


class Job(Protocol):
    """A refresh under way, whoever does it."""

    step: int
    params: Any

    def queue_until(self, chunks: int) -> None:
        """Queues the embedding of chunks until so many have been."""
        ...

    def fetch(self, leave: int = 0) -> index.Version | None:
        """Gives the version when it is whole, once."""
        ...

    def embed_until(self, chunks: int) -> None:
        """Waits for so many."""
        ...

    def abandon(self) -> None:
        """Nothing will be done with it."""
        ...


class RefreshJob:
    """A refresh under way. Chunks wait on the device until the next step fetches them."""

    def __init__(
        self,
        step: int,
        params: Any,
        embed: Embed,
        chunks: list[tuple[int, int]],
        writer: index.Writer | None,
    ):
        self.step, self.params = step, params
        self._embed, self._chunks = embed, chunks
        # None when the version is with the searcher.
        self._writer = writer
        self._embedded = 0 if writer else len(chunks)
        self._queued: collections.deque[jax.Array | np.ndarray] = collections.deque()

    def queue_until(self, chunks: int) -> None:
        """Queues the embedding of chunks until so many have been."""
        while self._embedded < chunks:
            start, stop = self._chunks[self._embedded]
            vectors = self._embed(self.params, start, stop)
            if not isinstance(vectors, np.ndarray):
                vectors.copy_to_host_async()
            self._queued.append(vectors)
            self._embedded += 1

    def fetch(self, leave: int = 0) -> index.Version | None:
        """Writes queued chunks until `leave` are left. Gives the version when that was the last."""
        if self._writer is None:
            return None
        while len(self._queued) > leave:
            reached()
            self._writer.write(self._writer.rows, np.asarray(self._queued.popleft()))
        if self._writer.rows < self._writer.shape[0]:
            return None
        version, self._writer = self._writer.commit(), None
        return version

    def embed_until(self, chunks: int) -> None:
        """Embeds while waiting, with one chunk on its way while the one before is written."""
        for number in range(self._embedded, chunks):
            self.queue_until(number + 1)
            self.fetch(leave=1)

    def abandon(self) -> None:
        """Removes what was written, unless it is a whole version."""
        if self._writer:
            self._writer.abandon()

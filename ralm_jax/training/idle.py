"""Idle time of the device, by what the host was doing meanwhile."""

import collections
import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor

import jax


class DeviceIdle:
    """Seconds in which the device had nothing to do, by the activity of the host at that time.

    A thread blocks on each step's result and notes when it was ready; the device is idle from then
    until the next step is queued. What it computes in between, such as embeddings for a refresh, is not
    distinguished and counts as idle: the figures are upper bounds.
    """

    def __init__(self) -> None:
        self._watch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device-watch")
        self._doing: list[tuple[str, float, float]] = []
        self._pending: collections.deque = collections.deque()
        self._last: Future[float] | None = None
        self._totals: dict[str, float] = {}

    @contextlib.contextmanager
    def activity(self, name: str):
        """The host does `name` inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._doing.append((name, start, time.perf_counter()))

    def queued(self, result: jax.Array) -> None:
        """A training step has just been queued; `result` is there when it is done."""
        if self._last is not None:
            self._pending.append((self._last, time.perf_counter(), self._doing))
        self._doing = []
        self._last = self._watch.submit(_when_ready, result)

    def totals(self) -> dict[str, float]:
        """Idle seconds by activity since the last call; "other" is the host's remaining work."""
        while self._pending and self._pending[0][0].done():
            ready, queued, doing = self._pending.popleft()
            idle_from = ready.result()
            rest = max(0.0, queued - idle_from)
            for name, start, stop in doing:
                overlap = max(0.0, min(stop, queued) - max(start, idle_from))
                rest -= overlap
                self._totals[name] = self._totals.get(name, 0.0) + overlap
            self._totals["other"] = self._totals.get("other", 0.0) + max(0.0, rest)
        totals, self._totals = self._totals, {}
        return totals

    def close(self) -> None:
        self._watch.shutdown()


def _when_ready(result: jax.Array) -> float:
    # A donated or failed result counts as ready: the loop itself will report the failure.
    with contextlib.suppress(Exception):
        result.block_until_ready()
    return time.perf_counter()

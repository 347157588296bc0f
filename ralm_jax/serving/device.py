"""One thread owns the devices: it gathers what clients ask, in batches, and answers them in turn."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ralm_jax.inference.open_run import OpenRun
from ralm_jax.serving.metrics import Metrics

# Items that are worked on at a time; a request with more is cut into pieces of as many.
BATCH = 32
# Seconds between two looks for a newer corpus while nobody asks, and after a look that failed.
IDLE, AGAIN = 1.0, 10.0

# (run, items) -> a result for each; an exception in the place of one is that item's alone.
Operation = Callable[[OpenRun, list[Any]], list[Any]]


class Work(NamedTuple):
    """A piece of a request: at most BATCH items for one operation on one run."""

    run: str
    operation: Operation
    items: Sequence[Any]
    found: Future[list[Any]]


class DeviceThread(threading.Thread):
    """Works on what is submitted, oldest first, with whatever else that waits for the same operation.

    Nothing waits for a batch to fill: while one is worked on the next one gathers.

    prepare(run, stopping) is called before a run is served; then `is_ready`, or `failed` where all is over.

    Attributes:
      runs: those served, by name; each over the newest version of its corpus.
      ready: set once everything is compiled.
      failure: what ended it, other than `stop`.
    """

    def __init__(
        self,
        runs: Mapping[str, OpenRun],
        metrics: Metrics,
        prepare: Callable[[OpenRun, Callable[[], bool]], None],
        is_ready: Callable[[], object] = lambda: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name="devices", daemon=True)
        self.runs, self.ready = dict(runs), threading.Event()
        self.failure: BaseException | None = None
        self._metrics, self._prepare = metrics, prepare
        self._is_ready, self._failed = is_ready, failed
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._look_again = 0.0

    def submit(self, run: str, operation: Operation, items: Sequence[Any]) -> Future[list[Any]]:
        """Queues at most BATCH items. What is cancelled before its turn is never worked on."""
        assert len(items) <= BATCH
        work = Work(run, operation, items, Future())
        with self._changed:
            if self._stopping:
                work.found.cancel()
                return work.found
            self._waiting.append(work)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify()
        return work.found

    def stop(self) -> None:
        """What waits is cancelled, what is worked on ends; returns when it has."""
        with self._changed:
            self._stopping = True
            for work in self._waiting:
                work.found.cancel()
            self._waiting.clear()
            self._changed.notify()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        try:
            self._serve()
        # Whatever it is, nobody would answer any more.
        except BaseException as error:
            self.failure = error
            self.ready.clear()
            self._failed()

    def _serve(self) -> None:
        for name, opened in self.runs.items():
            self._prepare(opened, lambda: self._stopping)
            self._metrics.serve(name, opened.corpus)
        if not self._stopping:
            self.ready.set()
            self._is_ready()
        while not self._stopping:
            batch = self._next()
            self._renew()
            if batch:
                self._do(batch)

    def _next(self) -> list[Work]:
        """The oldest work, and what can be done with it; none after a while without any."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(IDLE)
            batch, left, count = [], deque(), 0
            for work in self._waiting:
                alike = not batch or (work.run, work.operation) == batch[0][:2]
                if alike and count + len(work.items) <= BATCH:
                    # Nobody waits any more for what was cancelled.
                    if work.found.set_running_or_notify_cancel():
                        batch.append(work)
                        count += len(work.items)
                    else:
                        self._metrics.abandoned.inc()
                else:
                    left.append(work)
            self._waiting = left
            self._metrics.waiting.set(len(left))
        return batch

    def _do(self, batch: list[Work]) -> None:
        began = time.perf_counter()
        items = [item for work in batch for item in work.items]
        try:
            results = batch[0].operation(self.runs[batch[0].run], items)
        except Exception as error:
            self._metrics.log_failure(error)
            for work in batch:
                work.found.set_exception(error)
            return
        given = iter(results)
        for work in batch:
            own = [next(given) for _ in work.items]
            wrong = next((each for each in own if isinstance(each, Exception)), None)
            if wrong is not None:
                work.found.set_exception(wrong)
            else:
                work.found.set_result(own)
        name = batch[0].operation.__name__
        self._metrics.batch(name, len(items), time.perf_counter() - began)

    def _renew(self) -> None:
        """Serves the newest version of each corpus; where it cannot be opened, the one before it."""
        if time.monotonic() < self._look_again:
            return
        try:
            for name, opened in self.runs.items():
                newest = opened.current()
                if newest is not opened:
                    self._prepare(newest, lambda: self._stopping)
                    self.runs[name] = newest
                    self._metrics.serve(name, newest.corpus)
        except Exception as error:
            self._metrics.log_failure(error)
            self._look_again = time.monotonic() + AGAIN

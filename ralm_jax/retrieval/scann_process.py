"""ScaNN in a process of its own, so that searching and building leave the trainer alone.

It is started afresh, not forked, and not through multiprocessing, which would run the main module
again and load jax with it. The two talk over a socket pair, which nobody else can reach: no
address, no key. One thread here talks to it, in order; so a search begun before a publish is
answered by the version served then, and waiting for a device or for ScaNN delays nobody.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.util
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ralm_jax.errors import UserError
from ralm_jax.messages import DamagedMessageError, Message, limit, receive, send
from ralm_jax.retrieval.index import Version, disk_full
from ralm_jax.retrieval.scann_index import ScannConfig
from ralm_jax.retrieval.searcher import Found, Published

# At one request, before the death of the process is taken to be the request's doing.
ATTEMPTS = 3
# Seconds without an answer after which that is said, and after which the process is taken for dead. Every
# request is answered within seconds, builds under way or not, so one that is not answered has hung.
SAID_AFTER, DEAD_AFTER = 30.0, 600.0
_LOG = logging.getLogger(__name__)


def has_scann() -> bool:
    """Whether there is a ScaNN to ask."""
    return importlib.util.find_spec("scann") is not None


class _SilentError(OSError):
    """No answer for too long."""


class ScannProcess:
    """The `searcher.Searcher` that asks a ScaNN process.

    If the process dies, hangs, or sends what nobody can have sent, it is started again, loads what it served
    from disk, and answers the request that was under way; `restarts` counts that. It ends with its parent,
    however the parent ends.
    """

    def __init__(self, config: ScannConfig | None = None):
        if not has_scann():
            raise UserError(
                "ScaNN is not installed (there are wheels for Linux, up to Python 3.13): set INDEX = 'exact'"
            )
        self.step, self.restarts = -1, 0
        self._config = config or ScannConfig()
        self._child: _Child | None = None
        self._served: Version | None = None
        self._next: Version | None = None
        self._building: tuple[Version, concurrent.futures.Future[None]] | None = None
        self._closed = False
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "scann")

    @property
    def pid(self) -> int | None:
        """The process id of the ScaNN process, once it has been needed."""
        return self._child.pid if self._child else None

    def search(self, queries: Any, k: int) -> Callable[[], Found]:
        """See `searcher.Searcher`. Queries still being computed on a device are waited for elsewhere."""
        if self.step < 0:
            raise ValueError("search before the first publish")
        return self._thread.submit(self._search, queries, k).result

    def build(self, version: Version) -> None:
        """See `searcher.Searcher`."""
        self._building = version, self._thread.submit(self._build, version)

    def publish(self) -> Published:
        """See `searcher.Searcher`.

        Raises:
          UserError: the disk was too full to store the searcher. What was served is served on.
        """
        if self._building is None:
            raise ValueError("publish without a build")
        began = time.perf_counter()
        version, building = self._building
        building.result()
        settings = self._thread.submit(self._publish, version).result()
        self._building, self.step = None, version.step
        waited = time.perf_counter() - began
        return Published(self.step, settings["recall"], settings["seconds"], waited)

    def restore(self, version: Version) -> None:
        """See `searcher.Searcher`."""
        self.build(version)
        self.publish()

    def close(self) -> None:
        """Ends the process; searches and builds under way are given up."""
        self._closed = True
        if self._child:
            # Whoever is waiting for its answer learns of it.
            self._child.kill()
        self._thread.shutdown(cancel_futures=True)
        if self._child:
            self._child.end()

    def _search(self, queries: Any, k: int) -> Found:
        queries = np.asarray(queries, np.float32)
        _, (ids, scores) = self._ask({"op": "search", "k": k}, queries)
        return ids, scores

    def _build(self, version: Version) -> None:
        self._next = version
        self._ask(_build_request(version))

    def _publish(self, version: Version) -> dict[str, Any]:
        settings, _ = self._ask(_PUBLISH)
        self._served, self._next = version, None
        return settings

    def _ask(self, header: dict[str, Any], *arrays: np.ndarray) -> Message:
        """One request and its answer, with the process started as often as it takes."""
        last_words = ""
        for _ in range(ATTEMPTS):
            try:
                child = self._child or self._start()
                return self._answered(self._asked(child, header, *arrays))
            except (EOFError, OSError) as error:
                if self._closed or self._child is None:
                    raise
                last_words = self._child.end()
                self._child = None
                self.restarts += 1
                _LOG.warning(f"the ScaNN process {_what_befell(error)}; starting it again")
        raise UserError(
            f"the ScaNN process died {ATTEMPTS} times at one request ({header['op']}): give it more memory, "
            f"or choose exact search; its last output: {' '.join(last_words.split()) or 'none'}"
        )

    def _asked(self, child: _Child, header: dict[str, Any], *arrays: np.ndarray) -> Message:
        """One request and its answer; of a publish, the one that comes when its build is there."""
        while True:
            answer = child.ask(header, *arrays)
            if "building" not in answer[0]:
                return answer

    def _start(self) -> _Child:
        """Starts the process and brings it to where the last one was."""
        self._child = child = _Child(self._config)
        if self._served:
            self._answered(child.ask(_build_request(self._served)))
            self._answered(self._asked(child, _PUBLISH))
        if self._next:
            self._answered(child.ask(_build_request(self._next)))
        return child

    def _answered(self, answer: Message) -> Message:
        header, _ = answer
        if "error" not in header:
            return answer
        if "disk full" in header["notes"] and self._next:
            raise disk_full(self._next.step, self._next.vectors.shape)
        raise RuntimeError(f"the ScaNN process: {header['error']}")


class _Child:
    """One process, from its start to its end."""

    def __init__(self, config: ScannConfig):
        ours, theirs = socket.socketpair()
        package = pathlib.Path(__file__).parents[2]
        threads = str(config.threads)
        environment = os.environ | {
            # Found wherever it was found here, installed or not.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.getenv("PYTHONPATH")])),
            "OPENBLAS_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }
        # ScaNN logs to stderr, across the progress bar; kept apart for when something goes wrong.
        self._log = tempfile.TemporaryFile()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ralm_jax.retrieval.scann_server"),
                    *(str(theirs.fileno()), str(os.getpid())),
                    json.dumps(dataclasses.asdict(config)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
            )
        self._connection = Connection(ours.detach())
        self.pid = self._process.pid
        self.limit()

    def limit(self) -> None:
        """Lets no message, once begun, take longer than an answer may."""
        limit(self._connection.fileno(), DEAD_AFTER)

    def ask(self, header: dict[str, Any], *arrays: np.ndarray) -> Message:
        """Raises EOFError or OSError where no answer comes that is one."""
        said = (
            f"the ScaNN process has not answered for {SAID_AFTER:g} s ({header['op']}); waiting for it, for "
            f"{DEAD_AFTER:g} s at most"
        )
        waiting = threading.Timer(SAID_AFTER, _LOG.warning, [said])
        waiting.daemon = True
        waiting.start()
        try:
            send(self._connection, header, *arrays)
            if not self._connection.poll(DEAD_AFTER):
                raise _SilentError(f"no answer for {DEAD_AFTER:g} s")
            return receive(self._connection)
        finally:
            waiting.cancel()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """Kills the process if it lives still, and gives the last lines that it wrote."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        if self._log.closed:
            return ""
        with self._log:
            self._log.seek(0)
            return self._log.read()[-400:].decode(errors="replace").strip()


_PUBLISH: dict[str, Any] = {"op": "publish"}


def _what_befell(error: Exception) -> str:
    if isinstance(error, _SilentError | BlockingIOError):
        return f"did not answer for {DEAD_AFTER:g} s"
    return "sent a damaged message" if isinstance(error, DamagedMessageError) else "died"


def _build_request(version: Version) -> dict[str, Any]:
    return {"op": "build", "path": str(version.path.resolve())}

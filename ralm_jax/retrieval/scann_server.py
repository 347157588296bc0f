"""The ScaNN process: serves one version while a thread makes the next. Never imports jax.

Started as `python -m ralm_jax.retrieval.scann_server SOCKET PARENT CONFIG` by `scann_process`, with
one end of a socket pair, over which `messages` go; vectors cross as files. Requests are answered in
order, and soon: a search, by what is served when its turn comes.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ralm_jax.messages import Message, receive, send
from ralm_jax.retrieval.scann_index import SAMPLE, ScannConfig, ScannIndex, open_or_build

# Seconds after which a publish that waits for its build is answered: that the process lives.
WAIT = 5.0


class Server:
    """What is served, what is being built, and the queries of late, to measure recall with."""

    def __init__(self, config: ScannConfig):
        self._config = config
        self._recent: collections.deque[np.ndarray] = collections.deque(maxlen=SAMPLE)
        self._builder = concurrent.futures.ThreadPoolExecutor(1)
        self._building: concurrent.futures.Future[ScannIndex] | None = None
        self._served: ScannIndex | None = None

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Message:
        """One request: search, build or publish."""
        match header["op"]:
            case "search" if self._served:
                (queries,) = arrays
                self._recent.extend(queries)
                return {}, list(self._served.search(queries, header["k"]))
            case "build":
                path, queries = pathlib.Path(header["path"]), np.array(self._recent, np.float32)
                self._building = self._builder.submit(open_or_build, path, queries, self._config)
                return {}, []
            case "publish" if self._building:
                if not concurrent.futures.wait([self._building], WAIT).done:
                    return {"building": True}, []
                self._served = self._building.result()
                return dataclasses.asdict(self._served.settings), []
            case operation:
                raise ValueError(f"unexpected request: {operation}")


def serve(connection: Connection, config: ScannConfig) -> None:
    """Answers requests until the other side is gone."""
    server = Server(config)
    while True:
        try:
            request = receive(connection)
        except (EOFError, OSError):
            return
        try:
            header, arrays = server.answer(*request)
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            header, arrays = {"error": f"{type(error).__name__}: {error}", "notes": notes}, []
        send(connection, header, *arrays)


def _end_with(parent: int) -> None:
    # The socket stays open if another child of the parent has inherited it; and a build under way,
    # which nothing else interrupts, is of no use to anybody now.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main(socket: str, parent: str, config: str) -> None:
    """Serves on the inherited file descriptor `socket`."""
    # Ctrl-C, a terminal that is closed and a job that is ended reach the whole group; the trainer decides
    # when this process is no longer needed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    serve(Connection(int(socket)), ScannConfig(**json.loads(config)))


if __name__ == "__main__":
    main(*sys.argv[1:])

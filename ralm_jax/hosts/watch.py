"""One process of a training is lost, hangs or fails: all others end, soon, with one line that names it.

Every second a process says over its link how far it is; process 0 hears all, and passes on what ends them.
It is a thread of its own, for a process that waits for a lost one in a collective waits for ever, and it ends
the process by `os._exit`: JAX would first wait for those that are gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.hosts.meeting import Met, differences, parsed, send
from ralm_jax.terminal import printable

# Seconds between two signs of life.
BEAT = 1.0
# A process that answers but gets nowhere while others wait for it: so many times the patience.
STUCK = 10
# Seconds that process 0 stays, so that the others hear from it why they end.
LAST_WORDS = 2.0

# How far this process is, in parts of a step: what it does between two waits for the others.
_progress = itertools.count(1)
_reached = 0


def reached() -> None:
    """Another part of the work is done. Cheap; of no effect where there is one process."""
    global _reached
    _reached = next(_progress)


def leave(line: str) -> None:
    """Ends this process with one line, whatever its other threads are doing."""
    print(printable(f"ralm: {line}"), file=sys.stderr, flush=True)
    os._exit(2)


class Watch:
    """Listens to the other processes until `close`.

    Args:
      patience: seconds of silence after which a process is lost.
      end: called with the line to end by, in a thread of the watch.
    """

    def __init__(self, met: Met, patience: float, end: Callable[[str], Any] = leave):
        self.place, self.names = met.place, met.names
        self._links, self._patience, self._end = dict(met.links), patience, end
        now = time.monotonic()
        self._heard = dict.fromkeys(self._links, now)
        # How far each is, and since when.
        self._far: dict[int, tuple[int, float]] = {}
        self._finished: set[int] = set()
        self._records: dict[int, list[dict[str, str]]] = {i: [] for i in met.names}
        self._agreeing = threading.Condition()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="hosts", daemon=True)
        self._thread.start()

    def agree(self, about: str, record: Mapping[str, str]) -> None:
        """Waits for the records of all processes. All must ask about the same, in the same order.

        Raises UserError on all of them where one is unlike that of process 0.
        """
        with self._agreeing:
            self._records[self.place.process].append(dict(record))
            number = len(self._records[self.place.process])
        self._say({"about": dict(record), "of": self.place.process})
        with self._agreeing:
            self._agreeing.wait_for(
                lambda: all(len(given) >= number for given in self._records.values())
            )
        first = self._records[0][number - 1]
        for process, given in sorted(self._records.items()):
            if unlike := differences(first, given[number - 1]):
                raise UserError(
                    f"{self.names[process]} has {about} unlike that of {self.names[0]}: {unlike}"
                )

    def failed(self, line: str) -> None:
        """Tells the others that this process ends, and why; it is to end at once then."""
        self._closed.set()
        self._thread.join()
        self._say({"end": f"{self.names[self.place.process]} ended: {line}"})
        # Where process 0 goes, JAX ends the others, who would not have said why.
        deadline = time.monotonic() + (LAST_WORDS if self.place.process == 0 else 0)
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_WR)
            _until_gone(link, deadline)

    def close(self) -> None:
        """This process has finished; its end is no loss."""
        self._say({"finished": self.place.process})
        self._closed.set()
        self._thread.join()
        for link in self._links.values():
            link.close()

    def _say(self, message: Mapping[str, Any], but: int | None = None) -> None:
        """To process 0, or of it to all the others."""
        for process, link in self._links.items():
            # That it is gone is heard elsewhere.
            if process != but:
                with self._sending, contextlib.suppress(OSError):
                    send(link, message)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as ready:
            for process, link in self._links.items():
                # No write waits for longer, for a process that is stopped.
                link.settimeout(self._patience)
                ready.register(link, selectors.EVENT_READ, (process, bytearray()))
            beat = 0.0
            while not self._closed.is_set():
                for key, _ in ready.select(BEAT / 4):
                    link, (process, buffer) = key.fileobj, key.data
                    assert isinstance(link, socket.socket)
                    if not self._read(process, link, buffer):
                        ready.unregister(link)
                if time.monotonic() - beat >= BEAT:
                    beat = time.monotonic()
                    self._say({"at": _reached})
                    self._look_for_lost(beat)

    def _read(self, process: int, link: socket.socket, buffer: bytearray) -> bool:
        """What has come of a process; False where no more will."""
        try:
            part = link.recv(1 << 16)
        except OSError:
            part = b""
        if not part:
            if process not in self._finished and not self._closed.is_set():
                self._over(
                    f"{self.names[process]} is gone: it was killed, or its machine is down", process
                )
            return False
        self._heard[process] = time.monotonic()
        buffer += part
        while (stop := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:stop])
            del buffer[: stop + 1]
            with contextlib.suppress(ConnectionError, KeyError):
                self._take(process, parsed(line))
        return True

    def _take(self, process: int, message: dict[str, Any]) -> None:
        if "at" in message:
            if self._far.get(process, (None,))[0] != message["at"]:
                self._far[process] = message["at"], self._heard[process]
        elif "about" in message:
            if self.place.process == 0:
                self._say(message, but=process)
            with self._agreeing:
                self._records[message["of"]].append(message["about"])
                self._agreeing.notify_all()
        elif "finished" in message:
            self._finished.add(process)
        elif "end" in message:
            self._over(str(message["end"]), process)

    def _look_for_lost(self, now: float) -> None:
        silent = [
            i
            for i, at in self._heard.items()
            if now - at > self._patience and i not in self._finished
        ]
        if silent:
            what = "has not been heard of" if len(silent) == 1 else "have not been heard of"
            names = ", ".join(self.names[process] for process in silent)
            self._over(
                f"{names} {what} for {self._patience:g} s: stopped, cut off, or its machine is down"
            )
        if self.place.process == 0 and self._far:
            self._look_for_stuck(now)

    def _look_for_stuck(self, now: float) -> None:
        """Process 0 hears how far all are: nobody gets any further, and one is behind."""
        if self._far.get(0, (None,))[0] != _reached:
            self._far[0] = _reached, now
        if now - max(since for _, since in self._far.values()) < STUCK * self._patience:
            return
        least = min(far for far, _ in self._far.values())
        behind = [i for i, (far, _) in self._far.items() if far == least]
        if len(behind) < len(self._far):
            names = ", ".join(self.names[process] for process in sorted(behind))
            self._over(
                f"{names} got no further for {STUCK * self._patience:g} s, and the others wait for it"
            )

    def _over(self, line: str, by: int | None = None) -> None:
        """Everything ends: said to all that process 0 reaches, and then here."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self.place.process == 0:
            self._say({"end": line}, but=by)
            deadline = time.monotonic() + LAST_WORDS
            for link in self._links.values():
                _until_gone(link, deadline)
        self._end(line)


def _until_gone(link: socket.socket, deadline: float) -> None:
    """Waits until the other side has closed a link, but no longer than so."""
    with contextlib.suppress(OSError):
        link.settimeout(max(deadline - time.monotonic(), 0.001))
        while link.recv(1 << 16):
            link.settimeout(max(deadline - time.monotonic(), 0.001))

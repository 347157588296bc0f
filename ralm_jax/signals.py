"""Signals that end a run when it is ready to, or a command once it has tidied up."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT or SIGTERM has come; a second one acts at once."""
    came: list[int] = []

    def note(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminated(BaseException):
    """SIGTERM has come. Like KeyboardInterrupt, it is not caught with ordinary errors."""


@contextlib.contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raises Terminated in the main thread at SIGTERM, so that what is half written is removed."""

    def stop(number, frame):
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

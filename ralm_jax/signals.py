"""Signals that end a run when it is ready to, or a command once it has tidied up.

SIGTERM, and SIGHUP of a terminal that is closed. What was told to ignore one of these, or Ctrl-C, when it was
started (`nohup`, a shell's background) goes on ignoring it.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any

_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_on_signal() -> Generator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT, SIGTERM or SIGHUP has come.

    A second SIGINT or SIGTERM acts at once.
    """
    came: list[int] = []

    def note(number, frame):
        came.append(number)
        # A terminal that closes may say so twice: itself, and through its shell.
        if number != signal.SIGHUP:
            signal.signal(number, before[number])

    with handled((signal.SIGINT, *_ENDS), note) as before:
        yield lambda: bool(came)


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come. Like KeyboardInterrupt, it is not caught with ordinary errors."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def raise_on_signal() -> Generator[None]:
    """Raises Terminated in the main thread at SIGTERM and SIGHUP, so that what is half written is removed."""

    def stop(number, frame):
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        raise Terminated(number)

    with handled(_ENDS, stop):
        yield


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[..., None]) -> Generator[dict[int, Any]]:
    """Handles signals inside, those that are not ignored; yields how each was handled before."""
    before = {}
    # Elsewhere signals are not received.
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, former in before.items():
            signal.signal(number, former)

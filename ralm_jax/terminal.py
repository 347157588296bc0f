"""What a terminal is shown: progress bars, sizes in words, and texts of a corpus that cannot steer it."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# Seconds before a bar shows that something goes on.
DELAY = 1.0
# The unit of a bar that counts them.
BYTES = "B"
# Controls of C0 and C1 but for tab and line feed, and those that turn the direction of writing around: a text
# with them could move the cursor, set the title of a window, or show other words than it has.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""A text of the same length, with a mark for every character that would steer a terminal.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(line: str) -> str:
    r"""JSON with an escape for every such character, which stands for the same.

    >>> escaped('"a\x9bb"')
    '"a\\u009bb"'
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def is_styled(stream: TextIO) -> bool:
    """Whether bold type may be written: to a terminal that knows it, unless NO_COLOR asks for none."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def say(line: str, stream: TextIO | None = None) -> None:
    """Prints a line above the bars, at once, to standard output by default.

    Where nobody reads any more, of a pipe that is closed or a terminal that is gone, what is at work goes on
    in silence.
    """
    stream = sys.stdout if stream is None else stream
    try:
        tqdm.write(printable(line), stream)
        stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        silence(stream)


def silence(stream: TextIO) -> None:
    """Whatever is written to a stream from now on goes nowhere."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def bar(what: str, total: int | None = None, unit: str = " passages") -> tqdm:
    """A progress bar with a rate and the time left, on standard error; none where that is no terminal."""
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=unit == BYTES,
        leave=False,
        delay=DELAY,
        dynamic_ncols=True,
        disable=None,
    )


def watched(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = " passages",
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """The items, with a bar that moves on by the size of each once the next is asked for."""
    with bar(what, total, unit) as shown:
        for item in items:
            yield item
            shown.update(size(item))


def in_words(size: int) -> str:
    """Bytes as a person says them.

    >>> in_words(1), in_words(20_480), in_words(3 << 30)
    ('1 B', '20.0 KiB', '3.0 GiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = max(0, (max(size, 1).bit_length() - 1) // 10)
    value = size / 1024**power
    return f"{value:.0f} B" if power == 0 else f"{value:.1f} {units[power]}"

"""The one exception that is the user's to mend, and the name that was meant."""

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

# Characters of the line; of a longer one, those of its beginning and its end.
_MOST, _BEGINNING, _END = 1000, 700, 250


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where and what to do.

    The command line prints the line and exits with code 2; nothing has been lost or half written. What the
    line quotes may be a stranger's and of any length: of a long one the beginning and the end are kept.
    """

    def __init__(self, line: str):
        # As the name of a file may have one.
        line = r"\n".join(str(line).splitlines())
        super().__init__(line if len(line) <= _MOST else f"{line[:_BEGINNING]} ... {line[-_END:]}")


def one_line(error: UserError) -> str:
    r"""What it says, without what gin adds about a call; a line feed is written \n.

    >>> one_line(UserError("no a\nb"))
    'no a\\nb'
    """
    return str(error).partition("\n  In call to configurable")[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a line about a name that nothing has: the known one most like it; "" where none is.

    >>> nearest("prepar", ["prepare", "pretrain"]), nearest("x", ["prepare"])
    ('; did you mean prepare?', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def refusal(error: OSError, where: str | os.PathLike) -> str:
    """What the system says of a file there; of a full disk, whether it lacks bytes or inodes."""
    said = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            place = Path(where).absolute()
            room = os.statvfs(next(p for p in (place, *place.parents) if p.exists()))
            if room.f_files and not room.f_ffree:
                return f"{said}: no inodes are left; remove some files, however small"
    return said

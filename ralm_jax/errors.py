"""The one exception that is the user's to mend, and the name that was meant."""

import difflib
from collections.abc import Iterable

# Characters of the line; of a longer one, those of its beginning and its end.
_MOST, _BEGINNING, _END = 1000, 700, 250


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where and what to do.

    The command line prints the line and exits with code 2; nothing has been lost or half written. What the
    line quotes may be a stranger's and of any length: of a long one the beginning and the end are kept.
    """

    def __init__(self, line: str):
        line = " ".join(str(line).splitlines())
        super().__init__(line if len(line) <= _MOST else f"{line[:_BEGINNING]} ... {line[-_END:]}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a line about a name that nothing has: the known one most like it; "" where none is.

    >>> nearest("prepar", ["prepare", "pretrain"]), nearest("x", ["prepare"])
    ('; did you mean prepare?', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""

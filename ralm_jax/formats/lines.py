"""Files of text, line by line: as they are, or compressed by gzip or bzip2, whatever they are named."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ralm_jax.errors import UserError

# Where a record stands, for messages; and its fields, where it is what it should be.
Records = Iterator[tuple[str, Any]]

# Bytes of a line.
LONGEST = 1 << 30

_MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
# What a repository holds in the place of a large file that was not fetched.
_POINTER = b"version https://git-lfs.github.com/"
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, each with its end.

    Raises UserError where the file cannot be read, or is compressed and damaged.
    """
    number = 0
    try:
        with _opened(path) as file:
            # Not the file itself: a small archive may hold a line that fills the memory.
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if len(line) > LONGEST:
                    raise UserError(
                        f"{path}, line {number}: longer than {LONGEST:,} bytes; put each record on a line of "
                        "its own"
                    )
                yield number, line
    except _DAMAGED as error:
        raise UserError(
            f"{path}, after line {number}: damaged compressed file ({error}); download or copy it again"
        ) from None
    except OSError as error:
        # The bz2 module says what is wrong with its data by an OSError without a number.
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and its text without what surrounds it; blank lines and NULs are passed over.

    Raises UserError as `lines` does, and where a line is not UTF-8.
    """
    for number, line in lines(path):
        where = f"{path}, line {number}"
        text = decoded(line, where).replace("\0", "")
        if text := text.strip("\ufeff \t\r\n\v\f\x1a"):
            yield where, text


def decoded(line: bytes, where: str) -> str:
    """Raises UserError for what is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not encoded in UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None


def first_line(path: Path) -> str:
    """The first line that is not blank; "" where there is none."""
    return next((text for _, text in text_lines(path)), "")


def begins_with(path: Path, size: int = 8) -> bytes:
    """The first bytes of a file. Raises UserError where it cannot be read, or was not fetched."""
    try:
        with path.open("rb") as file:
            start = file.read(max(size, len(_POINTER)))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    check_fetched(path, start)
    return start[:size]


def check_fetched(path: Path, start: bytes) -> None:
    """Raises UserError where a file, given how it begins, is what Git LFS leaves in its place."""
    if start.startswith(_POINTER):
        raise UserError(f"{path} is a pointer of Git LFS; fetch the file itself with: git lfs pull")


def _opened(path: Path) -> IO[bytes]:
    start = begins_with(path)
    found = next((how for magic, how in _MAGIC.items() if start.startswith(magic)), None)
    return found(path) if found else path.open("rb")  # pyrefly: ignore

"""Files that are as they were written: small ones are read whenever they are opened, large ones once.

That a large file was read and found sound is remembered in the cache by what the system says of it: its
place, size and times of change. So to open it again costs nothing until it is written to. What a disk does
to it without anybody writing, `ralm check` finds.
"""

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from ralm_jax import cache

# In a JSON object: of its other fields. Files of earlier releases are without it.
CHECKSUM = "crc32"
# Bytes that take a millisecond to read.
_SMALL = 1 << 20
_BLOCK = 1 << 24


class DamagedError(ValueError):
    """A file or an object that is not as it was written."""


def crc32(file: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with open(file, "rb") as opened:
        while block := opened.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check(file: Path, expected: str | int) -> None:
    """Compares a file with its SHA-256, or with its CRC-32 where that is a number.

    Raises DamagedError where it differs, and OSError.
    """
    about = os.stat(file)
    mark = None
    if about.st_size > _SMALL:
        seen = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        name = hashlib.sha256(repr((seen, expected)).encode()).hexdigest()
        mark = cache.folder() / "sound" / name
        if mark.exists():
            return
    if (crc32(file) if isinstance(expected, int) else sha256(file)) != expected:
        raise DamagedError(f"{file} is not as it was written")
    if mark is not None:
        # Without room for the mark, the file is read again the next time.
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """An object for a JSON file, with a checksum among its fields."""
    return {**record, CHECKSUM: _checksum(record)}


def unsealed(record: Any) -> dict[str, Any]:
    """The object without its checksum. Raises DamagedError where it is not as it was sealed."""
    if not isinstance(record, dict):
        raise DamagedError("it is no object")
    record = dict(record)
    if record.pop(CHECKSUM, None) not in (None, _checksum(record)):
        raise DamagedError("it is not as it was written")
    return record


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())

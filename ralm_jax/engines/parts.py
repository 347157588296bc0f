"""The parts of a long piece of work, on disk as they are made: the same command goes on after a kill.

    .OUT.parts/about.json               what the parts are of
               00000012-1a2b3c4d.npy    the rows of part 12, and the CRC-32 of that file

They lie beside `OUT`, which is made of them once all are there. A part appears by one rename, so engines may
make one twice, or two at once.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax import checksums, json_text
from ralm_jax.arrays import mapped
from ralm_jax.errors import UserError

_ABOUT, _LOCK = "about.json", ".owner"
_NAME = re.compile(r"(\d{8})-([0-9a-f]{8})\.npy")


class Parts:
    """Parts of float32 [n, E] in a folder, by number."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, number: int, rows: np.ndarray) -> None:
        """Keeps a part, durably."""
        partial = self.folder / f".{number:08d}.{os.getpid()}.partial"
        with open(partial, "wb") as file:
            np.save(file, np.ascontiguousarray(rows, "<f4"), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / f"{number:08d}-{checksums.crc32(partial):08x}.npy")

    def sound(self) -> dict[int, Path]:
        """The parts there are, in order. One that is not as it was written is removed."""
        found: dict[int, Path] = {}
        for file in sorted(self.folder.iterdir()):
            if name := _NAME.fullmatch(file.name):
                if checksums.crc32(file) == int(name[2], 16):
                    found[int(name[1])] = file
                else:
                    file.unlink()
        return found

    def rows(self) -> Iterator[np.ndarray]:
        """The rows of all parts, a part at a time."""
        for file in self.sound().values():
            yield np.asarray(mapped(file))


@contextlib.contextmanager
def staged(out: Path, about: dict[str, Any]) -> Generator[Parts]:
    """The parts of `out`, with those that an earlier process left of the same work; removed at the end.

    Where the block fails, parts stay for the next process, if there are any.

    Args:
      about: tells one piece of work from another: parts of another are removed.
    Raises:
      UserError: another process makes `out`, or it cannot be written.
    """
    folder = out.parent / f".{out.name}.parts"
    missing = [above for above in out.parents if not above.exists()]
    owner = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _LOCK, "w") as lock:
            _take(lock, out)
            owner = True
            _begin(folder, about)
            yield Parts(folder)
            shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if owner and folder.exists() and not any(map(_NAME.fullmatch, os.listdir(folder))):
            shutil.rmtree(folder, ignore_errors=True)
        for above in missing:
            with contextlib.suppress(OSError):
                above.rmdir()


def _take(lock, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process makes {out}; wait for it or give another --out") from None
    except OSError:
        # A file system without locks must not keep anybody from writing to it.
        return


def _begin(folder: Path, about: dict[str, Any]) -> None:
    """Leaves in the folder what is of this work alone."""
    file = folder / _ABOUT
    try:
        same = checksums.unsealed(json_text.parse(file.read_text("utf-8"))) == about
    except (OSError, ValueError):
        same = False
    for left in folder.iterdir():
        kept = left.name == _ABOUT or _NAME.fullmatch(left.name)
        if left.name != _LOCK and not (same and kept):
            left.unlink()
    if not same:
        file.write_text(json.dumps(checksums.sealed(about)), "utf-8")

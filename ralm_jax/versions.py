"""A corpus that changes: each version a folder that nobody alters, and a small file that names the newest.

    manifest.json       {"format": 2, "version": 3, "current": "versions/000003", "fingerprint": ...}
    versions/000003/    a corpus as `corpus` describes it

A corpus that was never updated is its own only version, 0. A version is published by one rename of the small
file, so that a reader finds the one before it or the new one, whole. Whoever has a version open holds a lock
on its manifest, which ends with the process. Versions that nobody has open are removed, save the last two.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from ralm_jax import json_text
from ralm_jax.checksums import DamagedError, sealed, unsealed
from ralm_jax.errors import UserError
from ralm_jax.names import beneath

MANIFEST, FOLDER = "manifest.json", "versions"
POINTER = 2
_TOKENIZER = ("vocab.txt", "tokenizer.json", "special_tokens_map.json", "tokenizer_config.json")
_KEPT = 2
# A version may be removed between the reading of the pointer and the opening of the folder.
_TRIES = 20


class Lock:
    """A shared lock on a file, held until this is collected or the process ends; raises OSError."""

    def __init__(self, file: Path):
        self._descriptor = -1
        self._descriptor = os.open(file, os.O_RDONLY)
        # A file system without locks must not keep anybody from reading.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    # Bound here, as modules may be gone when the interpreter ends.
    def __del__(self, close=os.close):
        if self._descriptor >= 0:
            close(self._descriptor)

    def is_of(self, file: Path) -> bool:
        """Whether that is the file still."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), file.stat())
        except OSError:
            return False


class Pinned(NamedTuple):
    """A version of a corpus that is not removed while `lock` is held."""

    folder: Path
    number: int
    lock: Lock | None


def pin(path: Path) -> Pinned:
    """The newest version of the corpus at `path`, or what is there where that is no corpus."""
    folder, number = current(path)
    for _ in range(_TRIES):
        try:
            lock = Lock(folder / MANIFEST)
        except OSError:
            # What opens the corpus says what is wrong with it, unless it is another version by now.
            if current(path) == (folder, number):
                return Pinned(folder, number, None)
        else:
            # Who removes a version holds its lock until it is gone; and a pointer may have come in its place.
            if lock.is_of(folder / MANIFEST):
                return Pinned(folder, number, lock)
        folder, number = current(path)
    return Pinned(folder, number, None)


def current(path: Path) -> tuple[Path, int]:
    """The folder and the number of the newest version."""
    found = _pointer(path)
    return (path / found["current"], found["version"]) if found else (path, 0)


def _pointer(path: Path) -> dict | None:
    try:
        record = json_text.parse((path / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != POINTER:
        return None
    try:
        found = unsealed(record)
    except DamagedError as error:
        raise UserError(f"the corpus {path} is damaged: {MANIFEST}: {error}") from None
    name, number = found.get("current"), found.get("version")
    if not isinstance(number, int) or name != _name(number):
        raise UserError(f"the corpus {path} is damaged: {MANIFEST} names no version of it")
    return found


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06}"


@contextlib.contextmanager
def updating(path: Path) -> Generator[Path]:
    """An empty folder for the next version, while no other process updates the corpus.

    Raises UserError where another does.
    """
    partial = path / FOLDER / ".partial"
    # On the folder itself: a file for it would be left where the update comes to nothing.
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"the corpus {path} is being updated by another process; wait for it"
            ) from None
        except OSError:
            # A file system without locks must not keep anybody from writing to it.
            pass
        # What a killed process left.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):
                partial.parent.rmdir()
    finally:
        os.close(lock)


def publish(path: Path, whole: Path, fingerprint: str) -> int:
    """Makes a whole corpus in the folder `whole` the newest version; returns its number."""
    folder, number = current(path)
    try:
        return _publish(path, whole, fingerprint, number + 1, first=folder == path)
    except BaseException:
        # Where the pointer was not replaced, its versions are as they were.
        if current(path) == (folder, number):
            for new in [number + 1, *([0] if folder == path else [])]:
                shutil.rmtree(path / _name(new), ignore_errors=True)
        raise


def _publish(path: Path, whole: Path, fingerprint: str, number: int, *, first: bool) -> int:
    if first:
        _keep_first(path)
    # A process that was killed here left a folder that no pointer names.
    shutil.rmtree(path / _name(number), ignore_errors=True)
    for file in whole.rglob("*"):
        sync(file)
    whole.rename(path / _name(number))
    sync(path / FOLDER)
    record = {"format": POINTER, "version": number, "current": _name(number)}
    record["fingerprint"] = fingerprint
    temporary = path / f".{MANIFEST}.new"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(sealed(record), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path)
    return number


def _keep_first(path: Path) -> None:
    """The files of a corpus that was never updated, under the name of its version 0, without a copy."""
    first = path / _name(0)
    shutil.rmtree(first, ignore_errors=True)
    partial = path / FOLDER / ".first"
    shutil.rmtree(partial, ignore_errors=True)
    for file in _own_files(path, path / MANIFEST):
        place = partial / file.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        link(file, place)
    partial.rename(first)


def _own_files(path: Path, manifest: Path) -> list[Path]:
    """The files of version 0 in the folder of the corpus: others that a person put there stay as they are."""
    names = json_text.parse(manifest.read_text("utf-8"))["files"]
    files = [beneath(path, name, manifest) for name in (*names, MANIFEST)]
    return [file for file in files if file.is_file()]


def link(file: Path, place: Path) -> None:
    """A second name of a file, or a copy where the file system has no such names."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copy2(file, place)


def clean(path: Path) -> None:
    """Removes the versions that nobody has open, but for the newest two."""
    _, newest = current(path)
    numbers = {int(f.name): f for f in (path / FOLDER).iterdir() if f.name.isdecimal()}
    for number, folder in sorted(numbers.items()):
        if number > newest - _KEPT:
            continue
        with contextlib.suppress(OSError), (folder / MANIFEST).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if number == 0:
                _remove_first(path)
            (folder / MANIFEST).unlink()
            shutil.rmtree(folder, ignore_errors=True)


def _remove_first(path: Path) -> None:
    # The tokenizer stays: it is that of all versions, and runs are compared with it.
    for file in _own_files(path, path / _name(0) / MANIFEST):
        if file.name not in (MANIFEST, *_TOKENIZER):
            file.unlink()
    with contextlib.suppress(OSError):
        (path / "texts").rmdir()


def sync(path: Path) -> None:
    """Makes the contents of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

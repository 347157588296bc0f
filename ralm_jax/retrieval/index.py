"""Versions of the passage vectors on disk, each stamped with the step whose parameters made it.

    ROOT/step_00000500/vectors.npy      [N, E] float32
                       manifest.json    step, N, E, checksum, fingerprint of the corpus, encoder hash
                       scann/           a serialised searcher, where ScaNN has built one

A version appears by one rename and its vectors never change afterwards. A process that is killed
while it writes leaves a hidden folder, which the next writer sweeps away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Generator, Iterable, Set
from typing import NamedTuple

import numpy as np

from ralm_jax import arrays, json_text
from ralm_jax.errors import UserError
from ralm_jax.former_names import INDEX

FORMAT = 1
VECTORS, MANIFEST = "vectors.npy", "manifest.json"
# Prefixes of folders that are not versions.
WRITING, REMOVING = ".writing_", ".removing_"


class Version(NamedTuple):
    """A committed version: step of its parameters, vectors [N, E] float32 (mapped), folder."""

    step: int
    vectors: np.ndarray
    path: pathlib.Path


def create(
    root: str | os.PathLike,
    step: int,
    shape: tuple[int, int],
    fingerprint: str,
    encoder_hash: str = "",
) -> Writer:
    """Begins the version `step` of shape (N, E) for the corpus `fingerprint`.

    `encoder_hash`, where known, is that of what embedded it: `made_by` finds it again by that.

    One writer at a time per root. What killed writers left is removed, and so is a version of the
    same step: it was made by a run that has since gone back to an earlier checkpoint.
    """
    root = pathlib.Path(root)
    with _disk_full_is_said(step, shape):
        root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(WRITING + "*"):
        shutil.rmtree(leftover)
    _remove(root, step)
    return Writer(root, step, shape, fingerprint, encoder_hash)


class Writer:
    """Takes the vectors in order of rows, then publishes them with `commit`."""

    def __init__(
        self,
        root: pathlib.Path,
        step: int,
        shape: tuple[int, int],
        fingerprint: str,
        encoder_hash: str,
    ):
        self.step, self.shape, self.rows = step, shape, 0
        self._root, self._fingerprint, self._encoder_hash = root, fingerprint, encoder_hash
        self._checksum = 0
        self._folder = root / f"{WRITING}{step:08d}"
        with self._whole():
            self._folder.mkdir()
            with open(self._folder / VECTORS, "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Appends vectors [n, E], whose first row must be `start`.

        Raises:
          UserError: the disk is full, or a vector is not finite. Nothing of the version is left.
          ValueError: a gap, an overlap or another width, which are the caller's mistakes.
        """
        vectors = np.ascontiguousarray(vectors, "<f4")
        if start != self.rows or vectors.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"expected row {self.rows}, [n, {self.shape[1]}], got {start}, {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            self.abandon()
            raise UserError(
                f"passage vectors of step {self.step} are not finite: the retriever has diverged; "
                "lower its learning rate"
            )
        # Appended, not mapped: a full disk is then an error here instead of a SIGBUS.
        with self._whole(), open(self._folder / VECTORS, "ab") as file:
            file.write(vectors.data)
        self._checksum = zlib.crc32(vectors.data, self._checksum)
        self.rows += len(vectors)

    def commit(self) -> Version:
        """Makes the version durable and visible by one rename.

        Raises:
          UserError: the disk is full. Nothing of the version is left.
          ValueError: rows are missing.
        """
        if self.rows != self.shape[0]:
            raise ValueError(f"version {self.step} has {self.rows} of {self.shape[0]} rows")
        manifest = {
            "format": FORMAT,
            "step": self.step,
            "N": self.shape[0],
            "E": self.shape[1],
            "crc32": self._checksum,
            "fingerprint": self._fingerprint,
            "encoder_hash": self._encoder_hash,
        }
        with self._whole():
            (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            for path in self._folder / VECTORS, self._folder / MANIFEST, self._folder:
                sync(path)
            final = self._folder.rename(folder(self._root, self.step))
            sync(self._root)
        return Version(self.step, arrays.mapped(final / VECTORS), final)

    def abandon(self) -> None:
        """Removes what was written. Harmless after `commit`."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def _whole(self) -> Generator[None]:
        """Whatever goes wrong inside, no part of the version stays on disk."""
        try:
            with _disk_full_is_said(self.step, self.shape):
                yield
        except BaseException:
            self.abandon()
            raise


def mapped(root: str | os.PathLike, step: int) -> np.ndarray:
    """The vectors [N,E] of a version this process made or opened before: no checksum is compared.

    Raises UserError where they are not as long as they were.
    """
    path = folder(root, step)
    try:
        return arrays.mapped(path / VECTORS)
    except (ValueError, OSError, EOFError):
        raise _damaged(path) from None


def open_version(
    root: str | os.PathLike, step: int, fingerprint: str, *, verify: bool = True
) -> Version:
    """Opens version `step`, checking that it is whole and belongs to the corpus `fingerprint`.

    Args:
      verify: reads all vectors to compare their checksum. A process may leave that out for versions
        that it wrote or verified itself: manifest, header and size of the file are checked all the same.

    Raises:
      UserError: it is missing, damaged, of another format, or made from another corpus.
    """
    path = folder(root, step)
    try:
        manifest = json_text.parse((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(
                f"index {path}: its format is {manifest['format']}, and this release reads {FORMAT}"
            )
        vectors = arrays.mapped(path / VECTORS)
        stamp = manifest["step"], (manifest["N"], manifest["E"])
        if vectors.dtype != np.float32 or stamp != (step, vectors.shape):
            raise ValueError("header and manifest differ")
        if verify and manifest["crc32"] != _checksum(vectors):
            raise ValueError("the checksum differs")
        made_from = manifest["fingerprint"]
    except FileNotFoundError as missing:
        raise UserError(
            f"index {path}: {missing.filename} is missing; "
            "resume from a checkpoint whose index still exists"
        ) from None
    except (ValueError, KeyError, TypeError, OSError, EOFError):
        raise _damaged(path) from None
    if made_from != fingerprint:
        raise UserError(
            f"index {path}: built from a different corpus; give the corpus that this run began with"
        )
    return Version(step, vectors, path)


def verify(root: str | os.PathLike, step: int) -> None:
    """Reads all of a version. Raises UserError where it is not as it was written."""
    manifest = folder(root, step) / MANIFEST
    try:
        fingerprint = json_text.parse(manifest.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        fingerprint = ""
    open_version(root, step, fingerprint)


def made_by(
    roots: Iterable[str | os.PathLike], encoder_hash: str, fingerprint: str
) -> Version | None:
    """A sound version of a corpus, made by the encoder of that hash, in the first of `roots` with one."""
    for root in roots:
        for step in versions(root):
            # One that is damaged, or that its owner removes meanwhile, is not found.
            with contextlib.suppress(UserError, OSError, ValueError):
                manifest = json_text.parse(
                    (folder(root, step) / MANIFEST).read_text(encoding="utf-8")
                )
                if (encoder_of(manifest), manifest.get("fingerprint")) == (
                    encoder_hash,
                    fingerprint,
                ):
                    return open_version(root, step, fingerprint)
    return None


def encoder_of(manifest: dict) -> str:
    """The hash of what embedded a version, given its manifest; "" where that is not known."""
    named = {INDEX.get(key, key): value for key, value in manifest.items()}
    return named.get("encoder_hash", "")


def versions(root: str | os.PathLike) -> list[int]:
    """The steps of the committed versions, in ascending order."""
    return sorted(
        int(path.parent.name[5:]) for path in pathlib.Path(root).glob(f"step_*/{MANIFEST}")
    )


def prune(root: str | os.PathLike, keep: Set[int]) -> None:
    """Removes every version whose step is not in `keep`."""
    for step in set(versions(root)) - keep:
        _remove(pathlib.Path(root), step)


def folder(root: str | os.PathLike, step: int) -> pathlib.Path:
    """Where version `step` lives."""
    return pathlib.Path(root) / f"step_{step:08d}"


def sync(path: pathlib.Path) -> None:
    """Makes the contents of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_full(step: int, shape: tuple[int, ...]) -> UserError:
    """The error for a disk that has no room for a version of shape (N, E)."""
    return UserError(
        f"disk full while publishing the index at step {step}: "
        f"free {4 * shape[0] * shape[1]:,} bytes and run again"
    )


def _damaged(path: pathlib.Path) -> UserError:
    return UserError(f"index {path}: damaged (checksum or format); restore that folder from a copy")


def _remove(root: pathlib.Path, step: int) -> None:
    # Renamed first, so that a version is never seen half removed.
    with contextlib.suppress(FileNotFoundError):
        folder(root, step).rename(root / f"{REMOVING}{step:08d}")
    for leftover in root.glob(REMOVING + "*"):
        shutil.rmtree(leftover)


def _checksum(vectors: np.ndarray, rows: int = 1 << 16) -> int:
    checksum = 0
    for start in range(0, len(vectors), rows):
        checksum = zlib.crc32(np.ascontiguousarray(vectors[start : start + rows]).data, checksum)
    return checksum


@contextlib.contextmanager
def _disk_full_is_said(step: int, shape: tuple[int, int]) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(step, shape) from error

"""Snapshots of a retriever that a training hands to an indexing job, and the versions that come back.

    ROOT/snapshot_STEP/    params.safetensors, about.json
    ROOT/step_STEP/        the version of the index that was made of it

ROOT is the folder of a stage's index, or of a host's share of it, on a disk that both reach. The version of a
snapshot serves from the same step on whoever embeds it, so that a training is the same with an indexing job
and without: REALM embeds in a job of its own, too (section 3.3).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ralm_jax import checksums, json_text
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.runs.files import read_json, write_json

PARAMS, ABOUT = "params.safetensors", "about.json"
# Locks: every indexing job shares that of the run's folder, and has that of the root it writes to for itself.
JOBS = ".index_jobs"
# Seconds between two looks at what another process has done.
GLANCE = 0.1
# Seconds that a training waits for a version while there is no indexing job.
PATIENCE = 300.0


class Passages(NamedTuple):
    """What a version is of: rows [start, stop) of a corpus, the fingerprints of both, wordpieces of each."""

    start: int
    stop: int
    width: int
    fingerprint: str
    corpus: str
    length: int


class Snapshot(NamedTuple):
    """A retriever to embed passages with, as the hash of its encoder tells it from others."""

    folder: Path
    step: int
    encoder: str
    passages: Passages

    @property
    def root(self) -> Path:
        return self.folder.parent

    @property
    def wanted(self) -> bool:
        """Whether the training still waits for a version of it."""
        if _encoder_there(self.root, self.step) == self.encoder:
            return False
        try:
            return read_json(self.folder / ABOUT)["encoder"] == self.encoder
        except UserError:
            return False

    def params(self) -> Any | None:
        """Its parameters, nested; None where the training takes it back meanwhile.

        Raises UserError where they are not as they were written.
        """
        try:
            checksum, flat = read_json(self.folder / ABOUT)["params"], self.folder / PARAMS
            checksums.check(flat, checksum)
            params = _nested(load_file(flat))
            # It is of this encoder only where no other one has taken its place by now.
            return params if read_json(self.folder / ABOUT)["encoder"] == self.encoder else None
        except (UserError, checksums.DamagedError, SafetensorError, OSError) as error:
            if not self.wanted:
                return None
            raise UserError(f"{error}; the training writes it anew when it goes on") from None


def hand_out(root: Path, step: int, params: Any, encoder: str, passages: Passages) -> None:
    """Publishes a snapshot by one rename, in place of another one of the same step.

    One that is there already stays, for a job may be reading it.
    """
    folder, partial = root / f"snapshot_{step:08d}", root / f".snapshot_{step:08d}"
    with contextlib.suppress(UserError, checksums.DamagedError, OSError):
        about = read_json(folder / ABOUT)
        checksums.check(folder / PARAMS, about.pop("params"))
        if about == {"step": step, "encoder": encoder, **passages._asdict()}:
            return
    take_back(root, step)
    partial.mkdir(parents=True)
    try:
        save_file(_flat(params), partial / PARAMS)
    except SafetensorError as error:
        # The library has an error of its own for a full disk.
        raise OSError(errno.EIO, " ".join(str(error).split()), str(partial / PARAMS)) from error
    about = {"step": step, "encoder": encoder, **passages._asdict()}
    write_json(partial / ABOUT, {**about, "params": checksums.crc32(partial / PARAMS)})
    for path in (partial / PARAMS, partial / ABOUT, partial):
        index.sync(path)
    partial.rename(folder)
    index.sync(root)


def take_back(root: Path, step: int) -> None:
    """Removes the snapshot of a step, if there is one: at one rename it is no longer there to be read."""
    folder, aside = root / f"snapshot_{step:08d}", root / f".snapshot_{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def waiting(run: Path) -> Iterator[Snapshot]:
    """Snapshots of a run that have no version of theirs yet, the oldest first."""
    for file in sorted(run.glob(f"index/*/snapshot_*/{ABOUT}"), key=lambda file: file.parent.name):
        # A training that goes on from an earlier checkpoint removes what it will make again.
        with contextlib.suppress(UserError):
            about = read_json(file)
            passages = Passages(*(about[name] for name in Passages._fields))
            snapshot = Snapshot(file.parent, about["step"], about["encoder"], passages)
            if snapshot.wanted:
                yield snapshot


@contextlib.contextmanager
def claimed(snapshot: Snapshot) -> Generator[bool]:
    """Whether this job is to embed it; another one may be writing there."""
    try:
        with open(snapshot.root / JOBS, "ab") as file:
            free = _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is not False
            yield free and snapshot.wanted
    except FileNotFoundError:
        yield False


@contextlib.contextmanager
def at_work(run: Path) -> Generator[None]:
    """Says to a training, while the block runs, that there is an indexing job."""
    with open(run / JOBS, "ab") as file:
        _lock(file, fcntl.LOCK_SH)
        yield


class Handing(NamedTuple):
    """How snapshots are handed out: the run whose jobs are asked, the folder of the index, what is to be
    embedded, and what gives the hash of an encoder, which takes a while."""

    run: Path
    root: Path
    passages: Passages
    encoder: Callable[[Any], str]


class Handed:
    """A refresh that an indexing job does, in place of a `RefreshJob` of so many chunks."""

    def __init__(self, step: int, params: Any, handing: Handing, chunks: int):
        self.step, self.params = step, params
        self._handing, self._chunks = handing, chunks
        self._version: index.Version | None = None
        self._taken = False
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._encoder: Future[str] = self._background.submit(self._hand_out)

    def queue_until(self, chunks: int) -> None:
        """Nothing is queued here."""

    def fetch(self, leave: int = 0) -> index.Version | None:
        """The version when it is there, once."""
        self._look()
        version, self._version = self._version, None
        return version

    def embed_until(self, chunks: int) -> None:
        """Waits for the version where all chunks are wanted.

        Raises UserError where there is none, and no indexing job to make it.
        """
        since = time.monotonic()
        while chunks == self._chunks and not self._taken:
            self._look()
            if _any_at_work(self._handing.run):
                since = time.monotonic()
            if not self._taken and time.monotonic() - since > PATIENCE:
                raise UserError(
                    f"nobody embeds the snapshot of step {self.step}: start ralm index --run "
                    f"{self._handing.run}, and this again, which goes on from the last checkpoint"
                )
            if not self._taken:
                time.sleep(GLANCE)

    def abandon(self) -> None:
        """Takes the snapshot back, unless its version is there."""
        self._background.shutdown()
        take_back(self._handing.root, self.step)

    def _hand_out(self) -> str:
        # Fetched once, for the hash and the file.
        params, given = jax.device_get(self.params), self._handing
        found = given.encoder(params)
        if _encoder_there(given.root, self.step) != found:
            hand_out(given.root, self.step, params, found, given.passages)
        return found

    def _look(self) -> None:
        if self._taken or not self._encoder.done():
            return
        root, fingerprint = self._handing.root, self._handing.passages.fingerprint
        if _encoder_there(root, self.step) == self._encoder.result():
            self._version = index.open_version(root, self.step, fingerprint)
            self._taken = True
            self.abandon()


def _encoder_there(root: Path, step: int) -> str | None:
    """The hash of what embedded the version of a step; None where there is none."""
    try:
        file = index.folder(root, step) / index.MANIFEST
        return index.encoder_of(json_text.parse(file.read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _any_at_work(run: Path) -> bool:
    """Where a file system has no locks, nobody is taken to be missing."""
    try:
        with open(run / JOBS, "rb") as file:
            return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is not True
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, kind: int) -> bool | None:
    """Whether the lock could be had; None where the file system has none."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _flat(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *above, last = name.split("/")
        there = tree
        for part in above:
            there = there.setdefault(part, {})
        there[last] = leaf
    return tree

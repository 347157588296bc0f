"""A ScaNN searcher of one version: built, fitted to the recall asked for, kept on disk, loaded.

How well ScaNN does depends on the vectors: with one setting, recall@8 was 0.99 on some and 0.04 on
others (all pointing nearly one way, as those of an untrained encoder do). So recall is measured
before anything is served, at the k that searches ask for, and the search works harder until it is
right: it looks into more leaves and rescores more candidates, and at last all of them. Runs in the
ScaNN process: numpy and scann only, never jax.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np

from ralm_jax import checksums, json_text
from ralm_jax.retrieval.index import VECTORS, sync
from ralm_jax.retrieval.scann_build import (
    all_leaves,
    brute,
    build,
    dimensions_a_code,
    nearest,
    scann,
)
from ralm_jax.retrieval.searcher import Found, recall

FOLDER, SETTINGS, WRITING = "scann", "settings.json", ".scann_"
# Queries that recall is measured with: half to choose the effort, half to report. Each tells of k
# passages, so for a large k fewer do, which bounds the time that the exact search takes.
SAMPLE, FEWEST = 512, 64
# The least effort rescores so many candidates, or as many as k needs; the others, so many times that.
RESCORED, MORE = 100, (1, 1.25, 1.5, 2, 3, 4, 8, 16, 32)
# The least effort looks into one leaf in so many; each of the others, into sqrt(2) times as many.
LEAST_LEAVES = 256
# To rescore a candidate takes as long as scoring so many codes of one dimension each.
CODES = 32
# Passages. Above, scoring all of them would stall the training.
BRUTE_UP_TO = 1_000_000


@dataclasses.dataclass(frozen=True)
class ScannConfig:
    """How ScaNN searches.

    Attributes:
      k: how many passages searches ask for; recall@k is measured, and the effort is fitted to it.
      recall: the recall@k to reach. The least effort that reaches it is used.
      threads: cores for learning the partition and for searching.
      leaves: partitions of the vectors; None for sqrt(N), and below 500,000 passages for no
        partition at all.
    """

    k: int = 8
    recall: float = 0.98
    threads: int = 1
    leaves: int | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What serves, and what was measured of it; stored with the searcher so that both come back.

    Attributes:
      form: "tree", "hash" (no partition) or "brute" (all passages scored, nothing to store).
      leaves: partitions looked into; 0 without a tree.
      reorder: candidates rescored exactly; 0 for "brute".
      recall: recall@k on queries that had no part in choosing the effort.
      k: that of the recall; 0 where an earlier release did not say.
      seconds: it took to build, fit and store.
      files: the sizes of the stored files in bytes, so that a cut one is noticed.
      checksums: their CRC-32; {} where an earlier release did not say.
    """

    form: str
    leaves: int
    reorder: int
    recall: float
    k: int = 0
    seconds: float = 0.0
    files: dict[str, int] = dataclasses.field(default_factory=dict)
    checksums: dict[str, int] = dataclasses.field(default_factory=dict)


class ScannIndex:
    """Answers queries for one version."""

    def __init__(self, searcher: Any, settings: Settings, passages: int, config: ScannConfig):
        self.settings = settings
        self._searcher, self._passages, self._config = searcher, passages, config
        searcher.set_num_threads(config.threads)

    def search(self, queries: np.ndarray, k: int) -> Found:
        """Queries [B, E] float32 -> ids [B, k] int32, scores [B, k] float32, best first."""
        settings, few = self.settings, min(k, self._passages)
        how: dict[str, int] = {}
        # Finding more than was fitted to takes more candidates, and leaves that have them.
        times = max(1, -(-few // (settings.k or self._config.k)))
        if settings.reorder:
            how["pre_reorder_num_neighbors"] = times * settings.reorder
        if settings.leaves:
            enough = _leaves(self._passages, times * settings.reorder, self._config)
            how["leaves_to_search"] = max(settings.leaves, enough if times > 1 else 0)
        if self._config.threads > 1:
            share = -(-len(queries) // self._config.threads)
            found = self._searcher.search_batched_parallel(queries, few, batch_size=share, **how)
        else:
            found = self._searcher.search_batched(queries, few, **how)
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        # Where ScaNN finds too few it fills up with id 0 and score NaN.
        there = ~np.isnan(found[1])
        ids[:, :few][there], scores[:, :few][there] = found[0][there], found[1][there]
        return ids, scores


def open_or_build(version: pathlib.Path, queries: np.ndarray, config: ScannConfig) -> ScannIndex:
    """The index of the version in that folder: the stored one if it is whole, else a new one, stored.

    What serves is read back from disk, so it is what a restart will serve, and a bad copy is found
    now; it takes its place by one rename. Any exception is passed on; the stored part is gone by then.

    Args:
      version: folder of a committed version.
      queries: [n, E] float32, recent ones, to measure recall with; if they are too few, vectors
        of the version stand in.
      config: how to search.
    """
    for leftover in version.glob(WRITING + "*"):
        shutil.rmtree(leftover)
    file = version / VECTORS
    stored = _load(version / FOLDER, file, config)
    if stored:
        return stored
    partial = version / f"{WRITING}{os.getpid()}"
    partial.mkdir()
    try:
        _make(partial, file, queries, config)
        # By now the one that was built is gone: there is no room for it beside this and the served.
        stored = _load(partial, file, config)
        if stored is None:
            raise OSError(f"{partial}: what was stored cannot be read back")
        # There may be a damaged one.
        shutil.rmtree(version / FOLDER, ignore_errors=True)
        partial.rename(version / FOLDER)
        sync(version)
    except BaseException as error:
        # Looked at before the files go, or the space they took would hide why it went wrong.
        if shutil.disk_usage(partial).free < 1 << 16:
            error.add_note("disk full")
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return stored


def _make(
    partial: pathlib.Path, file: pathlib.Path, queries: np.ndarray, config: ScannConfig
) -> None:
    """Builds, fits and stores in the folder `partial`."""
    began = time.perf_counter()
    searcher, form = build(file, config.k, config.threads, config.leaves)
    settings = _fit(searcher, form, file, _sample(queries, _mapped(file), config.k), config)
    if settings.form != "brute":
        searcher.serialize(str(partial), relative_path=True)
    stored = sorted(partial.iterdir())
    about = {
        "files": {path.name: path.stat().st_size for path in stored},
        "checksums": {path.name: checksums.crc32(path) for path in stored},
        "seconds": round(time.perf_counter() - began, 3),
    }
    record = dataclasses.asdict(dataclasses.replace(settings, **about))
    (partial / SETTINGS).write_text(json.dumps(checksums.sealed(record), indent=2))
    for path in [*partial.iterdir(), partial]:
        sync(path)


def _mapped(file: pathlib.Path) -> np.ndarray:
    return np.load(file, mmap_mode="r")


def _sample(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Queries [n, E] to measure recall@k with, the order of which has no meaning."""
    rng = np.random.default_rng(0)
    source = queries if len(queries) >= FEWEST else vectors
    return source[rng.permutation(len(source))[: max(FEWEST, min(SAMPLE, SAMPLE**2 // k))]]


def _leaves(passages: int, candidates: int, config: ScannConfig) -> int:
    """Of a tree, leaves that hold twice the candidates: not all of them will be among the best."""
    leaves = all_leaves(passages, config.leaves)
    return min(leaves, -(-2 * candidates * leaves // passages))


def _fit(
    searcher: Any, form: str, file: pathlib.Path, queries: np.ndarray, config: ScannConfig
) -> Settings:
    """The settings of least effort that reach the recall asked for.

    What reaches it with few leaves reaches it with more. So the more leaves are looked into, the
    fewer candidates are rescored, and most pairs of the two need no search.
    """
    passages = len(_mapped(file))
    k = min(config.k, passages)
    everything = Settings("brute", 0, 0, 1.0, config.k)
    reorders = _reorders(passages, k)
    if form == "brute" or not reorders:
        return everything
    wanted = nearest(file, queries, k)
    half = max(len(queries) // 2, 1)
    settings, best, least = everything, None, float("inf")
    for leaves in _all_efforts(passages, k, config) if form == "tree" else [0]:
        if _effort(passages, leaves, reorders[0], config) >= least:
            break
        while reorders:
            settings = Settings(form, leaves, reorders[-1], 0.0, config.k)
            found, _ = ScannIndex(searcher, settings, passages, config).search(queries, k)
            settings = dataclasses.replace(settings, recall=recall(found[half:], wanted[half:]))
            if recall(found[:half], wanted[:half]) < config.recall:
                break
            effort = _effort(passages, leaves, reorders.pop(), config)
            if effort < least:
                best, least = settings, effort
        if not reorders:
            break
    if best:
        return best
    return everything if passages <= BRUTE_UP_TO else settings


def _reorders(passages: int, k: int) -> list[int]:
    """How many candidates may be rescored, in ascending order; ScaNN gives no more than those."""
    tried = [int(max(RESCORED, k) * times) for times in MORE]
    # To rescore a quarter of the passages one by one takes longer than to score all at once.
    return [reorder for reorder in tried if 4 * reorder < passages]


def _all_efforts(passages: int, k: int, config: ScannConfig) -> list[int]:
    """How many leaves may be looked into, in ascending order."""
    every = all_leaves(passages, config.leaves)
    least = max(_leaves(passages, k, config), every / LEAST_LEAVES)
    tried = {
        min(every, round(least * 2 ** (step / 2))) for step in range(2 * LEAST_LEAVES.bit_length())
    }
    return sorted(tried - {0})


def _effort(passages: int, leaves: int, reorder: int, config: ScannConfig) -> float:
    """How long a search takes, in candidates rescored."""
    share = leaves / all_leaves(passages, config.leaves) if leaves else 1.0
    return share * passages / (CODES * dimensions_a_code(config.k)) + reorder


def _load(folder: pathlib.Path, file: pathlib.Path, config: ScannConfig) -> ScannIndex | None:
    """The stored index, or None if there is none or it is not whole."""
    vectors = _mapped(file)
    try:
        settings = Settings(**checksums.unsealed(json_text.parse((folder / SETTINGS).read_text())))
        names = {path.name: path.stat().st_size for path in folder.iterdir()}
        names.pop(SETTINGS)
        # Names too: ScaNN would unpickle a file of document ids, which we never write.
        if names != settings.files or any(name.endswith(".pkl") for name in names):
            return None
        for name, checksum in settings.checksums.items():
            checksums.check(folder / name, checksum)
        # Fitted to a smaller k, or by a release that rescored less than k.
        fewer = settings.reorder < min(config.k, len(vectors)) or 0 < settings.k < config.k
        if settings.form != "brute" and fewer:
            return None
        if settings.form == "brute":
            searcher = brute(vectors)
        else:
            searcher = scann().load_searcher(str(folder), assets_backcompat_shim=False)
    except (OSError, ValueError, TypeError, RuntimeError):
        return None
    return ScannIndex(searcher, settings, len(vectors), config)

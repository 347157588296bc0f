"""A ScaNN searcher of one version: built, fitted to the recall asked for, kept on disk, loaded.

How well ScaNN does depends on the vectors: with one setting, recall@8 was 0.99 on some and 0.04 on
others (all pointing nearly one way, as those of an untrained encoder do). So recall is measured
before anything is served, and the search works harder until it is right: it rescores more
candidates, and at last all of them. Runs in the ScaNN process: numpy and scann only, never jax.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np

from ralm_jax.retrieval.index import VECTORS, sync
from ralm_jax.retrieval.searcher import Found, exact, recall

FOLDER, SETTINGS, WRITING = "scann", "settings.json", ".scann_"
# Queries that recall is measured with: half to choose the effort, half to report. Each tells of k
# passages, so for a large k fewer do, which bounds the time that the exact search takes.
SAMPLE, FEWEST = 512, 64
# The least effort rescores so many candidates, or as many as k needs; each of the others rescores
# twice the candidates, in twice the leaves, of the one before.
RESCORED, EFFORTS = 100, 6
# Passages. Below, there is no tree: it builds 5 to 10 times slower and misses more.
TREE_FROM = 500_000
# Passages. Below, there is too little to learn a code from.
FEW = 1024
# Passages. Above, scoring all of them would stall the training.
BRUTE_UP_TO = 1_000_000


@dataclasses.dataclass(frozen=True)
class ScannConfig:
    """How ScaNN searches.

    Attributes:
      k: how many passages searches ask for; recall@k is measured, and the effort is fitted to it.
      recall: the recall@k to reach. The least effort that reaches it is used.
      threads: cores for building and for searching.
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
      seconds: it took to build, fit and store.
      files: the sizes of the stored files in bytes, so that a cut one is noticed.
    """

    form: str
    leaves: int
    reorder: int
    recall: float
    seconds: float = 0.0
    files: dict[str, int] = dataclasses.field(default_factory=dict)


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
        # Fitted at k as configured; finding more takes more candidates, and leaves that have them.
        reorder = settings.reorder * max(1, -(-few // self._config.k))
        if settings.reorder:
            how["pre_reorder_num_neighbors"] = reorder
        if settings.leaves:
            enough = _leaves(self._passages, reorder, self._config)
            how["leaves_to_search"] = max(settings.leaves, enough)
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

    Args:
      version: folder of a committed version.
      queries: [n, E] float32, recent ones, to measure recall with; if they are too few, vectors
        of the version stand in.
      config: how to search.
    """
    for leftover in version.glob(WRITING + "*"):
        shutil.rmtree(leftover)
    vectors = np.load(version / VECTORS, mmap_mode="r")
    stored = _load(version / FOLDER, vectors, config)
    if stored:
        return stored
    began = time.perf_counter()
    vectors = np.array(vectors)
    searcher, form = _build(vectors, config)
    settings = _fit(searcher, form, vectors, _sample(queries, vectors, config.k), config)
    return _store(searcher, settings, began, version, vectors, config)


def _build(vectors: np.ndarray, config: ScannConfig) -> tuple[Any, str]:
    passages = len(vectors)
    builder = _scann().builder(vectors, config.k, "dot_product")
    builder = builder.set_n_training_threads(config.threads)
    if passages < FEW:
        return builder.score_brute_force().build(), "brute"
    leaves = _all_leaves(passages, config) if config.leaves or passages >= TREE_FROM else 0
    if leaves:
        builder = builder.tree(leaves, leaves, training_sample_size=100_000, soar_lambda=1.5)
    # Two dimensions to a code of 4 bits; 20,000 vectors taught the codes as well as 100,000 did.
    builder = builder.score_ah(2, training_sample_size=20_000).reorder(100)
    return builder.build(), "tree" if leaves else "hash"


def _sample(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """Queries [n, E] to measure recall@k with, the order of which has no meaning."""
    rng = np.random.default_rng(0)
    source = queries if len(queries) >= FEWEST else vectors
    return source[rng.permutation(len(source))[: max(FEWEST, min(SAMPLE, SAMPLE**2 // k))]]


def _all_leaves(passages: int, config: ScannConfig) -> int:
    return config.leaves or math.isqrt(passages)


def _leaves(passages: int, candidates: int, config: ScannConfig) -> int:
    """Of a tree, leaves that hold twice the candidates: not all of them will be among the best."""
    leaves = _all_leaves(passages, config)
    return min(leaves, -(-2 * candidates * leaves // passages))


def _fit(
    searcher: Any, form: str, vectors: np.ndarray, queries: np.ndarray, config: ScannConfig
) -> Settings:
    """The settings of least effort that reach the recall asked for."""
    everything = Settings("brute", 0, 0, 1.0)
    if form == "brute":
        return everything
    passages, k = len(vectors), min(config.k, len(vectors))
    wanted, _ = exact(queries, vectors, k)
    half = max(len(queries) // 2, 1)
    settings, reorder = everything, RESCORED
    # ScaNN gives at most as many passages as it rescores.
    while reorder < k:
        reorder *= 2
    for effort in range(EFFORTS):
        leaves = 0
        if form == "tree":
            all_leaves = _all_leaves(passages, config)
            leaves = min(all_leaves, math.ceil(all_leaves * 0.05 * 2**effort))
        settings = Settings(form, leaves, reorder, 0.0)
        found, _ = ScannIndex(searcher, settings, passages, config).search(queries, k)
        settings = dataclasses.replace(settings, recall=recall(found[half:], wanted[half:]))
        if recall(found[:half], wanted[:half]) >= config.recall:
            return settings
        reorder *= 2
        if 4 * reorder >= passages:
            # To rescore a quarter of the passages one by one takes longer than to score all at once.
            return everything
    return everything if passages <= BRUTE_UP_TO else settings


def _store(
    searcher: Any,
    settings: Settings,
    began: float,
    version: pathlib.Path,
    vectors: np.ndarray,
    config: ScannConfig,
) -> ScannIndex:
    """Stores the searcher by one rename, and gives it as read back from there.

    So what serves is what a restart will serve, and a bad copy is found now. Any exception is
    passed on; the stored part is gone by then.
    """
    partial = version / f"{WRITING}{os.getpid()}"
    partial.mkdir()
    try:
        if settings.form != "brute":
            searcher.serialize(str(partial), relative_path=True)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        settings = dataclasses.replace(
            settings, files=sizes, seconds=round(time.perf_counter() - began, 3)
        )
        (partial / SETTINGS).write_text(json.dumps(dataclasses.asdict(settings), indent=2))
        for path in [*partial.iterdir(), partial]:
            sync(path)
        stored = _load(partial, vectors, config)
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


def _load(folder: pathlib.Path, vectors: np.ndarray, config: ScannConfig) -> ScannIndex | None:
    """The stored index, or None if there is none or it is not whole."""
    try:
        settings = Settings(**json.loads((folder / SETTINGS).read_text()))
        names = {path.name: path.stat().st_size for path in folder.iterdir()}
        names.pop(SETTINGS)
        # Names too: ScaNN would unpickle a file of document ids, which we never write.
        if names != settings.files or any(name.endswith(".pkl") for name in names):
            return None
        # Fitted to a smaller k, or by a release that rescored less than k.
        if settings.form != "brute" and settings.reorder < min(config.k, len(vectors)):
            return None
        if settings.form == "brute":
            builder = _scann().builder(np.array(vectors), config.k, "dot_product")
            searcher = builder.score_brute_force().build()
        else:
            searcher = _scann().load_searcher(str(folder), assets_backcompat_shim=False)
    except (OSError, ValueError, TypeError, RuntimeError):
        return None
    return ScannIndex(searcher, settings, len(vectors), config)


def _scann() -> Any:
    # Imported at need: the training process reads ScannConfig from here, and has no use for the rest.
    from scann import scann_ops_pybind

    return scann_ops_pybind

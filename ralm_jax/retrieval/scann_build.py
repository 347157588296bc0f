"""Builds a ScaNN searcher of the vectors of a version, in little memory beside what the searcher keeps.

ScaNN copies what it is given, and needs as much again while it builds: 1,000,000 vectors of 512 bytes
took 1.0 GB beside the file. So a tree learns its partition and its codes from a sample, and the rows
are added to it a few at a time. Runs in the ScaNN process: numpy and scann only, never jax.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ralm_jax.retrieval.searcher import Found, exact

# Passages. Below, there is no tree: it builds 5 to 10 times slower and misses more.
TREE_FROM = 500_000
# Passages. Below, there is too little to learn a code from.
FEW = 1024
# A tree learns each of its leaves from so many vectors.
TRAINED = 100
# Of a large k most time goes into rescoring. Codes of one dimension, not two, are twice as long and
# rank so well that 1.1 k candidates have the recall that 2 k had.
FINE_FROM = 1000
# Rows. ScaNN lets nobody search while it adds some, and more at a time are no faster.
ADDED = 1024
# Rows of a file that are mapped at a time: pages of a mapping count as ours until it is dropped.
MAPPED = 1 << 20


def build(file: pathlib.Path, k: int, threads: int, leaves: int | None) -> tuple[Any, str]:
    """A searcher of all vectors [N, E] float32 of a file, and its form.

    Args:
      file: vectors.npy of a version.
      k: how many passages searches ask for.
      threads: cores for learning the partition; rows are added by one.
      leaves: of the tree; None as in `all_leaves`.

    Returns:
      The searcher, and "tree", "hash" (no partition) or "brute" (all passages scored).
    """
    vectors = np.load(file, mmap_mode="r")
    passages = len(vectors)
    if passages < FEW:
        return brute(vectors), "brute"
    leaves = all_leaves(passages, leaves)
    if not leaves:
        builder = _builder(vectors, k, threads)
        return _coded(builder, k).reorder(k).build(), "hash"
    taken = min(passages, max(TRAINED * leaves, FEW))
    sample = np.sort(np.random.default_rng(0).choice(passages, taken, replace=False))
    builder = _builder(_rows(file, sample), k, threads)
    # Of half the size of the vectors; what that costs in recall is measured with the rest.
    halved = scann_builder().ReorderType.BFLOAT16
    # No second leaf for each vector (soar_lambda): with one, a million clustered vectors took over
    # three times as long to build, and a search of equal recall was no faster.
    builder = builder.tree(leaves, leaves, training_sample_size=taken)
    searcher = _coded(builder, k).reorder(k, quantize=halved).build()
    del builder
    if taken < passages:
        _add_all(searcher, file, taken)
    return searcher, "tree"


def brute(vectors: np.ndarray) -> Any:
    """A searcher that scores all of vectors [N, E]."""
    return _builder(vectors, 1, 1).score_brute_force().build()


def all_leaves(passages: int, asked: int | None) -> int:
    """The leaves of the tree: as asked, or sqrt(N); 0 for no tree, where nobody asks for one."""
    return asked or (math.isqrt(passages) if passages >= TREE_FROM else 0)


def dimensions_a_code(k: int) -> int:
    """How many dimensions share a code of 4 bits."""
    return 1 if k >= FINE_FROM else 2


def nearest(file: pathlib.Path, queries: np.ndarray, k: int) -> np.ndarray:
    """Ids [B, k] of the exact neighbours of queries [B, E] among the vectors of a file."""
    ids = np.empty((len(queries), 0), np.int32)
    scores = np.empty((len(queries), 0), np.float32)
    for start, vectors in _parts(file):
        own: Found = exact(queries, vectors, min(k, len(vectors)))
        ids, scores = np.hstack([ids, own[0] + start]), np.hstack([scores, own[1]])
        # Stable, so of equal scores the lower id stays first.
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids, scores = (np.take_along_axis(each, best, axis=1) for each in (ids, scores))
    return ids


def scann() -> Any:
    """The library. Imported at need: the training process has no use for it."""
    from scann import scann_ops_pybind

    return scann_ops_pybind


def scann_builder() -> Any:
    """Where the library keeps the names of its number formats."""
    from scann.scann_ops.py import scann_builder

    return scann_builder


def _builder(vectors: np.ndarray, k: int, threads: int) -> Any:
    return scann().builder(vectors, k, "dot_product").set_n_training_threads(threads)


def _coded(builder: Any, k: int) -> Any:
    # 20,000 vectors taught the codes as well as 100,000 did.
    return builder.score_ah(dimensions_a_code(k), training_sample_size=20_000)


def _add_all(searcher: Any, file: pathlib.Path, taken: int) -> None:
    """Puts the rows of a file where they belong: the first in the place of the `taken` in the sample."""
    # Below the names for documents, which ScaNN keeps in a dictionary and stores as a pickle.
    inner = searcher.searcher
    inner.reserve(len(np.load(file, mmap_mode="r")))
    for start, vectors in _parts(file):
        for first in range(0, len(vectors), ADDED):
            rows = np.array(vectors[first : first + ADDED])
            ids = range(start + first, start + first + len(rows))
            # None for a new one. Those of one call are all new or all there.
            there = max(0, min(len(rows), taken - ids[0]))
            for part, places in ((rows[:there], [*ids[:there]]), (rows[there:], None)):
                if len(part):
                    given = inner.upsert(places or [None] * len(part), part, len(part))
                    if not places and given[-1] != ids[-1]:
                        raise RuntimeError(f"ScaNN gave row {ids[-1]} the number {given[-1]}")


def _rows(file: pathlib.Path, wanted: np.ndarray) -> np.ndarray:
    """Vectors [n, E] of the rows `wanted` [n], which ascend."""
    ends = [*range(MAPPED, wanted[-1] + 1, MAPPED)]
    split = np.split(wanted, np.searchsorted(wanted, ends))
    parts = zip(_parts(file), split, strict=False)
    return np.concatenate([vectors[own - start] for (start, vectors), own in parts])


def _parts(file: pathlib.Path) -> Iterator[tuple[int, np.ndarray]]:
    """The vectors of a file, [n, E] at a time, each with the number of its first row."""
    passages = len(np.load(file, mmap_mode="r"))
    for start in range(0, passages, MAPPED):
        yield start, np.load(file, mmap_mode="r")[start : start + MAPPED]

"""Maximum inner product search: the interface of every searcher, and exact search in numpy as its reference.

`choose` picks the searcher. This module must never import jax: the ScaNN process measures its own
recall with `exact` and `recall`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ralm_jax.retrieval.index import Version

# ids [B, k] int32 and scores [B, k] float32, best first
Found = tuple[np.ndarray, np.ndarray]


class Published(NamedTuple):
    """What a publish reports: the version's step, recall@k, seconds to build and to wait for.

    churn: against the version before; see `churn.churn`. NaN where there was none.
    """

    step: int
    recall: float
    build_seconds: float
    wait_seconds: float
    churn: float = math.nan


class Searcher(Protocol):
    """Serves one version of the index while it prepares the next.

    `step` is that of the version served, -1 before the first publish.
    """

    step: int

    def search(self, queries: Any, k: int) -> Callable[[], Found]:
        """Starts to search for queries [B, E] float32 (jax or numpy) in the version now served.

        Returns:
          A function that returns, when they are there, ids [B, k] int32 and scores [B, k] float32,
          best first; where fewer than k passages were found, ids are -1 and scores -inf.
        """
        ...

    def build(self, version: Version) -> None:
        """Starts to build the searcher of a committed version, and returns at once.

        A form of it that was serialised before is loaded instead: two builds of equal vectors may
        differ.
        """
        ...

    def publish(self) -> Published:
        """Waits for the version given to `build`, and serves it from now on.

        Searches begun before are answered by the version that was served when they began.
        """
        ...

    def restore(self, version: Version) -> None:
        """Serves a version that was published before: `build` and `publish` in one."""
        ...

    def close(self) -> None:
        """Gives back the memory and processes of the searcher."""
        ...


def exact(queries: np.ndarray, vectors: np.ndarray, k: int, rows: int = 1 << 14) -> Found:
    """The k greatest inner products of queries [B, E] and vectors [N, E]; ties: lower id first.

    Args:
      rows: vectors scored at a time; bounds the memory, and the vectors may be memory-mapped.
    """
    ids = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(vectors), rows):
        fresh = queries @ vectors[start : start + rows].T
        for row in range(len(queries)):
            # Of equal scores the lower id stays, and ids ascend: so only a greater one gets in.
            better = np.flatnonzero(fresh[row] > scores[row, -1])
            if not len(better):
                continue
            both = np.concatenate([scores[row], fresh[row, better]])
            names = np.concatenate([ids[row], (start + better).astype(np.int32)])
            best = np.argsort(-both, kind="stable")[:k]
            scores[row], ids[row] = both[best], names[best]
    return ids, scores


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of wanted [B, k] ids that are among found [B, j] of the same query; -1 is none."""
    hits = [np.isin(ids[ids >= 0], own).sum() for own, ids in zip(found, wanted, strict=True)]
    return float(sum(hits) / max((wanted >= 0).sum(), 1))

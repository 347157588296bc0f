"""Measures as sums and counts, so that batches, devices and processes can be added up.

A ratio of two sums is taken once, at the end: a mean of the means of unequal batches is wrong.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mean:
    """Named means kept apart as (sum, count).

    >>> half = Mean.of({"loss": (6.0, 4)})
    >>> half.merge(Mean.of({"loss": (1.0, 1), "hits": (3, 4)})).compute()
    {'loss': 1.4, 'hits': 0.75}
    """

    totals: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: Mapping[str, tuple[Any, Any]]) -> "Mean":
        """From {name: (sum, count)}, both scalars of Python, numpy or jax."""
        return cls(
            {name: float(total) for name, (total, _) in pairs.items()},
            {name: float(count) for name, (_, count) in pairs.items()},
        )

    def merge(self, other: "Mean") -> "Mean":
        """The means over both; a name may be in either one alone."""
        return Mean(_add(self.totals, other.totals), _add(self.counts, other.counts))

    def compute(self) -> dict[str, float]:
        """The means; nan where nothing was counted."""
        return {
            name: total / self.counts[name] if self.counts[name] else float("nan")
            for name, total in self.totals.items()
        }


def recall_at_k(
    ranked: np.ndarray, gold: Sequence[Set[int]], ks: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """For how many queries one of the gold passages is among the first k.

    Args:
      ranked: int [Q, K], passage ids of each query, best first; negative where there are fewer.
      gold: for each of the Q queries, the ids of the passages that answer it. A query without any
        counts, as a miss.
      ks: depths, each at most K.

    Returns:
      {k: (hits, queries)}.
    """
    if too_deep := [k for k in ks if k > ranked.shape[1]]:
        raise ValueError(f"recall at {too_deep} needs more than the {ranked.shape[1]} ids given")
    first = _first_hits(ranked, gold)
    return {k: (int(np.sum(first < k)), len(gold)) for k in ks}


def all_ranked(ranked: np.ndarray, passages: int, depth: int) -> np.ndarray:
    """Rankings [Q, K] of all of so few passages, made `depth` wide with -1: none is ranked behind the last.

    So recall at a depth beyond the corpus is the recall over all passages there are. Rankings that
    leave out some of the passages are returned as they are.
    """
    missing = depth - ranked.shape[1]
    if ranked.shape[1] < passages or missing <= 0:
        return ranked
    return np.pad(ranked, ((0, 0), (0, missing)), constant_values=-1)


def mrr(ranked: np.ndarray, gold: Sequence[Set[int]]) -> tuple[float, int]:
    """Sum of 1 / rank of the first gold passage (0 where none is ranked), and the queries.

    Arguments as in `recall_at_k`; the sum divided by the count is the mean reciprocal rank at K.
    """
    return float(np.sum(1 / (1 + _first_hits(ranked, gold)))), len(gold)


def _first_hits(ranked: np.ndarray, gold: Sequence[Set[int]]) -> np.ndarray:
    """float [Q]: position from 0 of each query's first gold passage, infinite where none is."""
    first = np.full(len(gold), np.inf)
    for query, (row, wanted) in enumerate(zip(ranked.tolist(), gold, strict=True)):
        hits = (place for place, passage in enumerate(row) if passage >= 0 and passage in wanted)
        first[query] = next(hits, np.inf)
    return first


def _add(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}

"""How well a ranking finds what was wanted: recall at k and reciprocal rank, as sums and counts."""

from collections.abc import Sequence, Set

import numpy as np


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

"""How much an index changed: neighbours that its passages no longer have."""

import numpy as np

SAMPLE = 64  # passages whose neighbours are compared
NEIGHBOURS = 8
AMONG = (
    100_000  # passages that neighbours are looked for among: to read a large index takes seconds
)


def churn(before: np.ndarray, after: np.ndarray) -> float:
    """Vectors [N,E] of two versions -> share of the nearest neighbours by inner product that are others now.

    Of a fixed sample of passages, each the query to its own version; a passage is no neighbour of itself.
    0: an index that need not have been refreshed; near 1: one that was out of date.
    NaN for fewer than 2 passages.
    """
    rows = np.random.default_rng(0).permutation(len(before))[:AMONG]
    k, asked = min(NEIGHBOURS, len(rows) - 1), rows[:SAMPLE]
    if k < 1:
        return float("nan")
    one, other = (
        _nearest(version[np.sort(rows)], np.sort(rows), version[asked], asked, k)
        for version in (before, after)
    )
    kept = [len(np.intersect1d(*pair)) for pair in zip(one, other, strict=True)]
    return 1.0 - sum(kept) / (k * len(asked))


def _nearest(vectors, rows, queries, own, k: int) -> np.ndarray:
    scores = queries.astype(np.float32) @ vectors.astype(np.float32).T
    scores[rows[None] == own[:, None]] = -np.inf
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]

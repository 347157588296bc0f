"""How much an index changed: neighbours that its passages no longer have."""

import numpy as np

# Passages whose neighbours are compared.
SAMPLE = 64
NEIGHBOURS = 8
# Passages among which neighbours are looked for, since reading a large index takes seconds.
AMONG = 100_000


def churn(before: np.ndarray, after: np.ndarray) -> float:
    """Vectors [N,E] of two versions -> the share of nearest neighbours by inner product that changed.

    Each passage of a fixed sample is the query to its own version; a passage is no neighbour of itself.
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

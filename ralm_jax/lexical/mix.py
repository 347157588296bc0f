"""Lexical and dense search in one score: scale * f(x) . g(z) + weight * b(x, z).

The lexical part makes up for what an encoder has never seen; see Bruch et al. 2023 (2210.11934) for fusing
scores by convex combination. Candidates come from both searches, and each gets both of its scores.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.retrieval.searcher import Found


class Rows(Protocol):
    """Vectors [N,E], indexed by rows."""

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


# Candidates that each of the two searches gives, at least.
DEPTH = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Mix:
    """Ranks by scale * dense + weight * lexical.

    Attributes:
      lexical: of the corpus.
      scale, weight: of the inner products and of BM25, which is divided by the query's best.
    """

    lexical: LexicalIndex
    scale: float
    weight: float

    def __call__(
        self,
        dense: Found,
        queries: np.ndarray,
        vectors: Rows,
        tokens: np.ndarray,
        k: int,
        own: np.ndarray | None = None,
    ) -> Found:
        """The k best passages by the mixed score, among the dense neighbours and as many lexical ones.

        Args:
          dense: neighbours of the queries, ids and inner products [Q,n].
          queries, vectors: float32 [Q,E] and [N,E], by which candidates get their dense scores.
          tokens: wordpieces of the queries, int [Q,L].
          own: rows [Q] of passages that are left out, each of its query; below 0 there is none.
        """
        ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, near in enumerate(dense[0]):
            left = () if own is None or own[i] < 0 else (int(own[i]),)
            b = self.lexical.scores(tokens[i], left)
            depth = min(len(near), len(b))
            sharing = np.argpartition(-b, depth - 1)[:depth]
            rows = np.union1d(near[near >= 0], sharing[b[sharing] > 0])
            rows = np.setdiff1d(rows, left)
            mixed = self.scale * (vectors[rows] @ queries[i]) + self.weight * b[rows]
            best = np.argsort(-mixed, kind="stable")[:k]
            ids[i, : len(best)], scores[i, : len(best)] = rows[best], mixed[best]
        return ids, scores

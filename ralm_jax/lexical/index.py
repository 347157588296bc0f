"""BM25 over wordpieces: the lexical half of a mixed score, in training as in serving."""

from collections.abc import Sequence

import bm25s
import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.lexical.bm25 import K1, B


class LexicalIndex:
    """BM25 over the wordpieces of a corpus: the term b(x, z) of a mixed score.

    Divided by the query's best, so that one weight serves long clozes and short questions alike. Over
    wordpieces, since training asks in them, and text in any script has them.
    """

    def __init__(self, corpus: Corpus, passages: Sequence[Sequence[int]] | None = None):
        """Of all passages; or of some texts with the wordpieces of the corpus."""
        lengths = np.asarray(corpus.lengths).astype(int).sum(1)
        rows = passages or [row[:n].tolist() for row, n in zip(corpus.tokens, lengths, strict=True)]
        pieces = {piece: piece for piece in range(corpus.vocabulary.size)}
        self._index = bm25s.BM25(k1=K1, b=B)
        self._index.index((rows, pieces), create_empty_token=False, show_progress=False)
        v = corpus.vocabulary
        self._silent = {0, v.cls, v.sep, v.mask}

    def scores(self, query: np.ndarray, out: Sequence[int] = ()) -> np.ndarray:
        """Wordpieces [L] -> float32 [N], of 0 to 1: the best passage has 1, unless none shares a piece.

        out: rows that have 0, such as that of the passage which a cloze was taken from: it would be the best
          by far, as no passage is for a question.
        """
        pieces = [piece for piece in query.tolist() if piece not in self._silent]
        raw = self._index.get_scores_from_ids(pieces)
        raw[list(out)] = 0.0
        return raw / max(float(raw.max()), 1e-9)

    def of(self, queries: np.ndarray, rows: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        """Of candidates: wordpieces [B,L], rows [B,K], passages left out [B] -> float32 [B,K].

        Rows below 0 are no passages, and have 0.
        """
        own = np.full(len(rows), -1) if own is None else own
        given = zip(queries, rows, own.tolist(), strict=True)
        found = [
            np.where(r >= 0, self.scores(query, [row] if row >= 0 else ())[r], 0.0)
            for query, r, row in given
        ]
        return np.stack(found).astype(np.float32)

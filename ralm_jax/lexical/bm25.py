"""The lexical baseline that stands beside every retrieval figure: BM25 over words."""

import logging
from collections.abc import Sequence

import numpy as np

from ralm_jax.bm25s_without_jax import bm25s
from ralm_jax.metrics.qa import words
from ralm_jax.terminal import watched

# It reports its progress at level DEBUG.
logging.getLogger("bm25s").setLevel(logging.WARNING)

# Anserini's defaults for passages, with which the papers report BM25.
K1, B = 0.9, 0.4


class Bm25:
    """An index over passages, in memory; passage i is the i-th text given.

    A text is title and body in one string. Words are those of `metrics.qa.words` without punctuation, no
    stemming, no stop words: the same for every language.
    """

    def __init__(self, texts: Sequence[str]):
        self._index = bm25s.BM25(k1=K1, b=B)
        terms = [_terms(text) for text in watched(texts, "counting words", len(texts))]
        self._index.index(terms, show_progress=False)

    def search(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k passages of highest score for each of the Q questions.

        Returns:
          ids int32 [Q, k], best first, and scores float32 [Q, k]. Where fewer than k passages share
          a word with the question, ids are -1 and scores 0.
        """
        ids = np.full((len(questions), k), -1, np.int32)
        scores = np.zeros((len(questions), k), np.float32)
        for row, question in enumerate(questions):
            of_all = self._index.get_scores_from_ids(self._index.get_tokens_ids(_terms(question)))
            best = _best(of_all, k)
            ids[row, : len(best)], scores[row, : len(best)] = best, of_all[best]
        return ids, scores


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Scores [N] -> rows of the k best above 0, best first; of equal ones the lower row comes first."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        # Those beyond the k-th are not worth sorting.
        least = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= least]
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def _terms(text: str) -> list[str]:
    return [word for word in words(text) if word[0].isalnum()]

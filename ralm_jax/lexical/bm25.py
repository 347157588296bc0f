"""The lexical baseline that stands beside every retrieval figure: BM25 over words."""

import logging
from collections.abc import Sequence

import bm25s
import numpy as np

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
        passages = self._index.scores["num_docs"]
        depth = min(k, passages)
        terms = [_terms(question) for question in questions]
        ids, scores = self._index.retrieve(terms, k=depth, show_progress=False)
        ids = np.where(scores > 0, ids, -1).astype(np.int32)
        beyond = ((0, 0), (0, k - depth))
        return np.pad(ids, beyond, constant_values=-1), np.pad(scores, beyond)


def _terms(text: str) -> list[str]:
    return [word for word in words(text) if word[0].isalnum()]

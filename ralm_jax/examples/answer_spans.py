"""Places of answers in passages."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ralm_jax.data.corpus import Corpus


class Spans(NamedTuple):
    """Where answers stand: passage row, first and last wordpiece of the body (included), int64 [n] each."""

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


def join(several: Sequence[Spans]) -> Spans:
    """All of them, sorted by row and place, none twice."""
    if not several:
        return Spans(*(np.empty(0, np.int64) for _ in range(3)))
    whole = np.concatenate([np.stack(s, axis=1) for s in several]).astype(np.int64)
    return Spans(*np.unique(whole, axis=0).T)


class Bodies:
    """The wordpieces of the bodies of some passages, one after the other: `pieces` [n]."""

    def __init__(self, corpus: Corpus, rows: np.ndarray):
        title, body = np.asarray(corpus.lengths[rows]).astype(np.int64).T
        tokens = np.asarray(corpus.tokens[rows])
        column = np.arange(tokens.shape[1])[None, :]
        within = (column >= title[:, None]) & (column < (title + body)[:, None])
        self.pieces = tokens[within]
        self._rows, self._vocabulary = rows, corpus.vocabulary.size
        self._passage = np.repeat(np.arange(len(rows)), body)
        self._begins = np.concatenate([[0], np.cumsum(body)])

    def spans(self, wanted: Sequence[tuple[int, ...]]) -> Spans:
        """Every place of one of several sequences of wordpieces, each within one passage."""
        firsts = np.zeros(self._vocabulary, bool)
        firsts[[each[0] for each in wanted]] = True
        # Read once, however many are wanted.
        places = np.flatnonzero(firsts[self.pieces])
        begun = self.pieces[places]
        return join([self.standing(each, places[begun == each[0]]) for each in wanted])

    def standing(self, wanted: Sequence[int], start: np.ndarray) -> Spans:
        """Those of the places `start` from which on the wordpieces stand, all of them in one passage."""
        stop = start + len(wanted) - 1
        start, stop = (x[(start >= 0) & (stop < len(self.pieces))] for x in (start, stop))
        same = self._passage[start] == self._passage[stop]
        for i, piece in enumerate(wanted):
            same &= self.pieces[start + i] == piece
        start, stop = start[same], stop[same]
        passage = self._passage[start]
        own = self._begins[passage]
        return Spans(self._rows[passage], start - own, stop - own)

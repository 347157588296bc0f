"""BM25 over wordpieces: the lexical half of a mixed score, in training as in serving."""

import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ralm_jax import cache, checksums, json_text
from ralm_jax.bm25s_without_jax import bm25s
from ralm_jax.data.corpus import Corpus
from ralm_jax.lexical.bm25 import K1, B
from ralm_jax.terminal import say

# Of a stored index: checksums of its files.
_SEAL = "checksums.json"


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
        self._silent = _silent(corpus)

    @classmethod
    def open(cls, corpus: Corpus) -> "LexicalIndex":
        """Of all passages: mapped from the cache, where it is put when it is first made."""
        place = _place(corpus.fingerprint)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                _check(place)
                return cls._with(corpus, bm25s.BM25.load(place, mmap=True, show_progress=False))
            except (ValueError, KeyError, TypeError) as error:
                say(f"{place} is damaged ({error}), and made again", sys.stderr)
                shutil.rmtree(place, ignore_errors=True)
        made = cls(corpus)
        # Without room for it, it is made again the next time.
        with contextlib.suppress(OSError), cache.adding(place) as partial:
            made._index.save(partial, show_progress=False)
            sums = {file.name: checksums.crc32(file) for file in sorted(partial.iterdir())}
            (partial / _SEAL).write_text(json.dumps(checksums.sealed(sums)), "utf-8")
        # Those of versions before the last.
        for about, _ in list(corpus.ancestors())[1:]:
            shutil.rmtree(_place(about["fingerprint"]), ignore_errors=True)
        return made

    @classmethod
    def _with(cls, corpus: Corpus, index: bm25s.BM25) -> "LexicalIndex":
        """Raises ValueError where it is of other settings or another number of passages."""
        found = (index.k1, index.b, index.scores["num_docs"])
        if found != (K1, B, corpus.size):
            raise ValueError(f"an index of {found}")
        made = cls.__new__(cls)
        made._index, made._silent = index, _silent(corpus)
        return made

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


def _check(place: Path) -> None:
    """Raises ValueError where files of a stored index are not as they were written."""
    if place.is_dir() and not (place / _SEAL).exists():
        raise ValueError("it has no checksums, as those of earlier releases")
    for name, checksum in checksums.unsealed(json_text.parse((place / _SEAL).read_bytes())).items():
        checksums.check(place / name, checksum)


def _place(fingerprint: str) -> Path:
    return cache.folder() / f"bm25-{fingerprint[:32]}"


def _silent(corpus: Corpus) -> frozenset[int]:
    """Wordpieces of a query that are no words."""
    v = corpus.vocabulary
    return frozenset((0, v.cls, v.sep, v.mask))

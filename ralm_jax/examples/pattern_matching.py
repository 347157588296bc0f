"""Where regular expressions match in the passages of a corpus: the answers of CuratedTREC."""

import bisect
from collections.abc import Iterable
from typing import Any

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples.answer_spans import Spans, join
from ralm_jax.metrics.plain_text import origins, plain
from ralm_jax.metrics.qa import compile_pattern
from ralm_jax.terminal import watched

# Stands between two passages. Neither `.` nor `\s+` leads across it, and no plain text has it.
BETWEEN = "\n\0\n"


def pattern_spans(corpus: Corpus, patterns: Iterable[str]) -> dict[str, Spans]:
    """Every place where a pattern matches the text of a passage, in either case, as wordpieces.

    A piece that is only partly matched belongs to the answer. Matches of nothing, and those that a
    cut passage has lost, are left out. Each pattern is sought in the whole corpus, which takes a second or
    so for 50 MB of text.
    """
    wanted = sorted(set(patterns))
    if not wanted:
        return {}
    source = corpus.texts()
    texts = [plain(source[row]["text"].decode()) for row in range(corpus.size)]
    begins = np.cumsum([0, *(len(text) + len(BETWEEN) for text in texts)]).tolist()
    joined = BETWEEN.join(texts)
    places = _Places(corpus, source)
    found = {}
    for pattern in watched(wanted, "matching patterns", len(wanted), " patterns"):
        several = []
        for match in compile_pattern(pattern).finditer(joined):
            row = bisect.bisect_right(begins, match.start()) - 1
            start, stop = match.start() - begins[row], match.end() - begins[row]
            if start < stop <= len(texts[row]):
                several.append((row, *places.pieces(row, start, stop)))
        kept = [place for place in several if place[1] <= place[2]]
        found[pattern] = join([Spans(*np.array(kept, np.int64).reshape(-1, 3).T)])
    return found


class _Places:
    """Which wordpieces of a body make some characters of its plain text; a passage is tokenised once."""

    def __init__(self, corpus: Corpus, source: Any):
        self._tokenizer, self._source = corpus.tokenizer(), source
        self._bodies = np.asarray(corpus.lengths).astype(int)[:, 1]
        self._offsets: dict[int, tuple[list[int], list[int]]] = {}
        # Only of passages that are not plain as they stand.
        self._origins: dict[int, list[tuple[int, int]]] = {}

    def pieces(self, row: int, start: int, stop: int) -> tuple[int, int]:
        """Characters [start, stop) of plain text -> first and last wordpiece; the last is less if none."""
        if row not in self._offsets:
            self._tokenize(row)
        if row in self._origins:
            start, stop = self._origins[row][start][0], self._origins[row][stop - 1][1]
        starts, ends = self._offsets[row]
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(starts, stop) - 1
        # The match may lie behind the end of a passage that was cut.
        lost = not ends or ends[-1] < stop
        return (0, -1) if lost else (first, last)

    def _tokenize(self, row: int) -> None:
        text = self._source[row]["text"].decode()
        if plain(text) != text:
            self._origins[row] = origins(text)
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        offsets = offsets[: self._bodies[row]]
        self._offsets[row] = [s for s, _ in offsets], [e for _, e in offsets]

"""Where regular expressions match in the passages of a corpus: the answers of CuratedTREC."""

import bisect
import re
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples.answer_spans import Spans, join

BETWEEN = "\n\0\n"  # passages: neither `.` nor `\s+` leads from one to the next


def pattern_spans(corpus: Corpus, patterns: Iterable[str]) -> dict[str, Spans]:
    """Every place where a pattern matches the text of a passage, in either case, as wordpieces.

    A piece that is only partly matched belongs to the answer. Matches of nothing, and those that a
    cut passage has lost, are left out. Each pattern is sought in the whole corpus, which takes a second or
    so for 50 MB of text.
    """
    wanted = sorted(set(patterns))
    if not wanted:
        return {}
    texts = [corpus.texts()[row]["text"].decode() for row in range(corpus.size)]
    begins = np.cumsum([0, *(len(text) + len(BETWEEN) for text in texts)]).tolist()
    joined = BETWEEN.join(texts)
    places = _Places(corpus, texts)
    found = {}
    for pattern in tqdm(wanted, "matching patterns", leave=False, disable=len(wanted) < 20):
        several = []
        for match in re.compile(pattern, re.IGNORECASE | re.MULTILINE).finditer(joined):
            row = bisect.bisect_right(begins, match.start()) - 1
            start, stop = match.start() - begins[row], match.end() - begins[row]
            if start < stop <= len(texts[row]):
                several.append((row, *places.pieces(row, start, stop)))
        kept = [place for place in several if place[1] <= place[2]]
        found[pattern] = join([Spans(*np.array(kept, np.int64).reshape(-1, 3).T)])
    return found


class _Places:
    """Which wordpieces of a body make some characters of its text; a passage is tokenised once."""

    def __init__(self, corpus: Corpus, texts: list[str]):
        self._tokenizer, self._texts = corpus.tokenizer(), texts
        self._bodies = np.asarray(corpus.lengths).astype(int)[:, 1]
        self._offsets: dict[int, tuple[list[int], list[int]]] = {}

    def pieces(self, row: int, start: int, stop: int) -> tuple[int, int]:
        """Characters [start, stop) of a passage -> first and last wordpiece; the last is less if none."""
        if row not in self._offsets:
            encoded = self._tokenizer.encode(self._texts[row], add_special_tokens=False)
            offsets = encoded.offsets[: self._bodies[row]]
            self._offsets[row] = [s for s, _ in offsets], [e for _, e in offsets]
        starts, ends = self._offsets[row]
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(starts, stop) - 1
        lost = not ends or ends[-1] < stop  # behind the end of a passage that was cut
        return (0, -1) if lost else (first, last)

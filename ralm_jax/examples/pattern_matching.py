"""Where regular expressions match in passages of a corpus: the answers of CuratedTREC."""

import bisect
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.data.texts import Texts
from ralm_jax.examples.answer_spans import Spans
from ralm_jax.metrics.plain_text import origins, plain
from ralm_jax.metrics.qa import compile_pattern

# Stands between two passages. Neither `.` nor `\s+` leads across it, and no plain text has it.
BETWEEN = "\n\0\n"
# Passages whose wordpieces stay known, of those that patterns have matched in.
KNOWN = 1 << 14


class Patterns:
    """Regular expressions in the texts of a corpus, which are opened when the first is sought."""

    def __init__(self, corpus: Corpus):
        self._corpus = corpus
        self._bodies = np.asarray(corpus.lengths)[:, 1]
        self._pieces = functools.lru_cache(KNOWN)(self._tokenized)

    def spans(self, patterns: Sequence[str], rows: np.ndarray) -> list[Spans]:
        """Of each, every place where it matches the text of a passage of `rows` [R], in either case, as
        wordpieces.

        A piece that is only partly matched belongs to the answer. Matches of nothing, and those that a
        cut passage has lost, are left out. 50 MB of text take a second or so for each.
        """
        texts = [plain(record["text"].decode()) for record in self._source.read(rows.tolist())]
        begins = np.cumsum([0, *(len(text) + len(BETWEEN) for text in texts)]).tolist()
        joined = BETWEEN.join(texts)
        found = []
        for pattern in patterns:
            several = []
            for match in compile_pattern(pattern).finditer(joined):
                at = bisect.bisect_right(begins, match.start()) - 1
                start, stop = match.start() - begins[at], match.end() - begins[at]
                if start < stop <= len(texts[at]):
                    row = int(rows[at])
                    several.append((row, *self._places(row, start, stop)))
            kept = [place for place in several if place[1] <= place[2]]
            found.append(Spans(*np.array(kept, np.int64).reshape(-1, 3).T))
        return found

    def matching(self, patterns: Iterable[str], rows: np.ndarray) -> set[str]:
        """Those that match in some passage of `rows` [R]."""
        wanted = sorted(set(patterns))
        if not wanted:
            return set()
        each = zip(wanted, self.spans(wanted, rows), strict=True)
        return {pattern for pattern, spans in each if len(spans.rows)}

    @functools.cached_property
    def _source(self) -> Texts:
        return self._corpus.texts()

    @functools.cached_property
    def _tokenizer(self):
        return self._corpus.tokenizer()

    def _places(self, row: int, start: int, stop: int) -> tuple[int, int]:
        """Characters [start, stop) of plain text -> first and last wordpiece; the last is less if none."""
        starts, ends, parts = self._pieces(row)
        if parts:
            start, stop = parts[start][0], parts[stop - 1][1]
        first, last = np.searchsorted(ends, start, "right"), np.searchsorted(starts, stop) - 1
        # The match may lie behind the end of a passage that was cut.
        lost = not len(ends) or ends[-1] < stop
        return (0, -1) if lost else (int(first), int(last))

    def _tokenized(self, row: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
        """Where the wordpieces of a body begin and end, in characters of its text; of a text that is not
        plain as it stands, also the `origins` of its characters."""
        text = self._source[row]["text"].decode()
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        starts, ends = np.array(offsets[: self._bodies[row]], np.int32).reshape(-1, 2).T
        return starts, ends, origins(text) if plain(text) != text else []

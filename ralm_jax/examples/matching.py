"""Which passages answer a question, and where: found once, before training, for all questions together.

Two rules of distant supervision: an answer is a substring of the text, case and all (ORQA's retriever),
or its wordpieces stand in the passage one after the other (its reader; lower case, no accents).
Spans to read are always found by wordpieces. Patterns are matched with the text under both rules.
Text is compared as `plain_text.plain` gives it, for the wordpieces leave out the same characters.
"""

import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples.answer_spans import Spans, join
from ralm_jax.examples.pattern_matching import pattern_spans
from ralm_jax.metrics.plain_text import plain
from ralm_jax.questions.question import Question

# Passages that are searched at a time: what is held to search millions stays small.
BLOCK = 1 << 18

# (corpus, questions) -> for each question the rows of the passages that have an answer, ascending
Rule = Callable[[Corpus, Sequence[Question]], list[np.ndarray]]


class BodyIndex:
    """The wordpieces of the bodies of some passages in a row, and where each wordpiece stands."""

    def __init__(self, corpus: Corpus, passages: range):
        here = slice(passages.start, passages.stop)
        title, body = np.asarray(corpus.lengths[here]).astype(np.int64).T
        tokens = np.asarray(corpus.tokens[here])
        column = np.arange(tokens.shape[1])[None, :]
        within = (column >= title[:, None]) & (column < (title + body)[:, None])
        self._first_row, self._pieces = passages.start, tokens[within]
        self._row = np.repeat(np.arange(len(passages)), body)
        self._begins = np.concatenate([[0], np.cumsum(body)])
        # Numbers of 16 bits, as most vocabularies have, are sorted by their digits.
        self._places = np.argsort(self._pieces, kind="stable")
        self._first = np.searchsorted(
            self._pieces[self._places], np.arange(corpus.vocabulary.size + 1)
        )

    def find(self, wanted: Sequence[int]) -> Spans:
        """Every place where the wordpieces `wanted` stand one after the other in one passage."""
        if not wanted:
            return join([])
        counts = [self._first[piece + 1] - self._first[piece] for piece in wanted]
        rarest = int(np.argmin(counts))
        piece = wanted[rarest]
        start = self._places[self._first[piece] : self._first[piece + 1]] - rarest
        stop = start + len(wanted) - 1
        start, stop = (x[(start >= 0) & (stop < len(self._pieces))] for x in (start, stop))
        same = self._row[start] == self._row[stop]
        for i, piece in enumerate(wanted):
            same &= self._pieces[start + i] == piece
        start, stop = start[same], stop[same]
        row = self._row[start]
        own = self._begins[row]
        return Spans(self._first_row + row, start - own, stop - own)


def spans(corpus: Corpus, questions: Sequence[Question]) -> list[Spans]:
    """For each question all places of its answers, sorted by row and place; none twice."""
    places = _places(corpus, {a for q in questions if not q.patterns for a in q.answers})
    matched = pattern_spans(corpus, (a for q in questions if q.patterns for a in q.answers))
    return [join([(matched if q.patterns else places)[a] for a in q.answers]) for q in questions]


def _places(corpus: Corpus, answers: Collection[str]) -> dict[str, Spans]:
    """Every place of each answer, written with its accents composed or apart."""
    tokenizer = corpus.tokenizer()
    # A vocabulary that keeps accents has other wordpieces for the one form than for the other.
    forms = {a: {a, plain(a), unicodedata.normalize("NFD", plain(a))} for a in answers}
    # A byte-level one has others within a text, behind a blank.
    forms = {
        a: sorted({*several, *(f" {form}" for form in several)}) for a, several in forms.items()
    }
    written = sorted({form for several in forms.values() for form in several})
    encoded = tokenizer.encode_batch(written, add_special_tokens=False)
    pieces = {form: tuple(e.ids) for form, e in zip(written, encoded, strict=True)}
    found: dict[tuple[int, ...], list[Spans]] = {wanted: [] for wanted in set(pieces.values())}
    for passages in _blocks(corpus):
        index = BodyIndex(corpus, passages)
        for wanted, several in found.items():
            several.append(index.find(wanted))
    return {
        a: join([x for wanted in sorted({pieces[form] for form in several}) for x in found[wanted]])
        for a, several in forms.items()
    }


def _blocks(corpus: Corpus) -> Iterator[range]:
    """Rows of all passages, BLOCK at a time."""
    for start in range(0, corpus.size, BLOCK):
        yield range(start, min(start + BLOCK, corpus.size))


def wordpieces(corpus: Corpus, questions: Sequence[Question]) -> list[np.ndarray]:
    """The rule by wordpieces."""
    return [np.unique(found.rows) for found in spans(corpus, questions)]


def substring(corpus: Corpus, questions: Sequence[Question]) -> list[np.ndarray]:
    """The rule by raw text: an answer is found in the middle of a word too, and in its own case only."""
    answers = {a for q in questions if not q.patterns for a in q.answers}
    found: dict[str, list[int]] = {answer: [] for answer in answers}
    for passages in _blocks(corpus):
        _in_texts(corpus, passages, found)
    matched = pattern_spans(corpus, (a for q in questions if q.patterns for a in q.answers))
    none = np.empty(0, np.int64)
    return [
        np.unique(
            np.concatenate(
                [none, *(matched[a].rows if q.patterns else found[a] for a in q.answers)]
            )
        ).astype(np.int64)
        for q in questions
    ]


def _in_texts(corpus: Corpus, passages: range, found: dict[str, list[int]]) -> None:
    """Adds the rows of those passages whose text has an answer."""
    texts = corpus.texts().read(passages)
    bodies = [plain(record["text"].decode()).encode() for record in texts]
    begins = np.cumsum([0, *(len(body) + 1 for body in bodies)])
    # No plain text has a NUL, so no answer reaches from one passage into the next.
    joined = b"\x00".join(bodies)
    for answer, rows in found.items():
        wanted = plain(answer).encode()
        place = joined.find(wanted) if wanted else -1
        while place >= 0:
            row = int(np.searchsorted(begins, place, side="right")) - 1
            rows.append(passages.start + row)
            # Once in a passage is enough: the search goes on in the next one.
            place = joined.find(wanted, int(begins[row + 1]))

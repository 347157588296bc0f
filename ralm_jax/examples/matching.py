"""Which passages answer a question, and where: sought in those that were retrieved for it, as they come.

Two rules of distant supervision: an answer is a substring of the text, case and all (ORQA's retriever),
or its wordpieces stand in the passage one after the other (its reader; lower case, no accents).
Spans to read are always found by wordpieces. Patterns are matched with the text under both rules.
Text is compared as `plain_text.plain` gives it, for the wordpieces leave out the same characters.
No list of places is kept over the corpus: a common answer stands in millions of its passages.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ralm_jax.data.corpus import Corpus
from ralm_jax.examples.answer_spans import Bodies, Spans, join
from ralm_jax.examples.pattern_matching import Patterns
from ralm_jax.metrics.plain_text import plain
from ralm_jax.questions.question import Question
from ralm_jax.terminal import watched

# Passages that are searched at a time: what is held to search millions stays small.
BLOCK = 1 << 18


class Answers(Protocol):
    """The answers of n questions, in the passages of a corpus."""

    def anywhere(self) -> np.ndarray:
        """bool [n]: some passage has an answer. Reads all passages, as long as a question is left."""
        ...

    def among(self, question: int, rows: np.ndarray) -> np.ndarray:
        """bool [R]: which of the passages `rows` have an answer to that question; -1 is no passage."""
        ...


Rule = Callable[[Corpus, Sequence[Question]], Answers]


class InPieces:
    """Answers whose wordpieces stand in a passage one after the other."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]):
        self._corpus, self._questions = corpus, questions
        self._pieces = _pieces(corpus, questions)
        self._patterns = Patterns(corpus)

    def spans(self, question: int, rows: np.ndarray) -> Spans:
        """All places of the answers in the passages `rows` [R], sorted by row and place; none twice."""
        asked, own = self._questions[question], np.unique(rows[rows >= 0])
        if asked.patterns:
            return join(self._patterns.spans(asked.answers, own))
        return Bodies(self._corpus, own).spans(self._pieces[question])

    def among(self, question: int, rows: np.ndarray) -> np.ndarray:
        return np.isin(rows, self.spans(question, rows).rows)

    def anywhere(self) -> np.ndarray:
        def opened(passages: np.ndarray) -> Callable[[int], bool]:
            index = BodyIndex(self._corpus, passages)
            return lambda question: any(map(index.has, self._pieces[question]))

        return _anywhere(self._corpus, self._questions, self._patterns, opened)


class InTexts:
    """Answers that are in the text of a passage, in the middle of a word too, and in their own case only."""

    def __init__(self, corpus: Corpus, questions: Sequence[Question]):
        self._corpus, self._questions = corpus, questions
        self._texts, self._patterns = corpus.texts(), Patterns(corpus)

    def among(self, question: int, rows: np.ndarray) -> np.ndarray:
        asked, own = self._questions[question], np.unique(rows[rows >= 0])
        if asked.patterns:
            return np.isin(rows, join(self._patterns.spans(asked.answers, own)).rows)
        answers = _texts(asked)
        has = [any(each in text for each in answers) for text in self._read(own)]
        return np.isin(rows, own[np.array(has, bool)])

    def anywhere(self) -> np.ndarray:
        def opened(passages: np.ndarray) -> Callable[[int], bool]:
            # No plain text has a NUL, so no answer reaches from one passage into the next.
            joined = "\0".join(self._read(passages))
            return lambda question: any(
                each in joined for each in _texts(self._questions[question])
            )

        return _anywhere(self._corpus, self._questions, self._patterns, opened)

    def _read(self, rows: np.ndarray) -> list[str]:
        return [plain(record["text"].decode()) for record in self._texts.read(rows.tolist())]


def wordpieces(corpus: Corpus, questions: Sequence[Question]) -> InPieces:
    """The rule by wordpieces."""
    return InPieces(corpus, questions)


def substring(corpus: Corpus, questions: Sequence[Question]) -> InTexts:
    """The rule by raw text."""
    return InTexts(corpus, questions)


class BodyIndex(Bodies):
    """The wordpieces of the bodies of some passages in a row, and where each wordpiece stands."""

    def __init__(self, corpus: Corpus, passages: np.ndarray):
        super().__init__(corpus, passages)
        # Numbers of 16 bits, as most vocabularies have, are sorted by their digits.
        self._places = np.argsort(self.pieces, kind="stable")
        self._first = np.searchsorted(
            self.pieces[self._places], np.arange(corpus.vocabulary.size + 1)
        )

    def has(self, wanted: Sequence[int]) -> bool:
        """Whether the wordpieces `wanted` stand one after the other in one of the passages."""
        counts = [self._first[piece + 1] - self._first[piece] for piece in wanted]
        rarest = int(np.argmin(counts))
        piece = wanted[rarest]
        places = self._places[self._first[piece] : self._first[piece + 1]]
        return len(self.standing(wanted, places - rarest).rows) > 0


def _anywhere(
    corpus: Corpus,
    questions: Sequence[Question],
    patterns: Patterns,
    opened: Callable[[np.ndarray], Callable[[int], bool]],
) -> np.ndarray:
    """bool [n], block by block of passages, as long as a question is left.

    `opened` gives what tells of a block whether it answers a question, by its number, that has no patterns.
    """
    has = np.zeros(len(questions), bool)
    blocks = range(0, corpus.size, BLOCK)
    for start in watched(blocks, "seeking answers", len(blocks), " blocks of passages"):
        left = np.flatnonzero(~has).tolist()
        if not left:
            break
        passages = np.arange(start, min(start + BLOCK, corpus.size))
        sought = [each for i in left if questions[i].patterns for each in questions[i].answers]
        matching, answers = patterns.matching(sought, passages), opened(passages)
        for i in left:
            asked = questions[i]
            has[i] = not matching.isdisjoint(asked.answers) if asked.patterns else answers(i)
    return has


def _pieces(corpus: Corpus, questions: Sequence[Question]) -> list[list[tuple[int, ...]]]:
    """Of each question the wordpieces of its answers, in each form that a text may have them in."""
    answers = dict.fromkeys(a for q in questions if not q.patterns for a in q.answers)
    # A vocabulary that keeps accents has other wordpieces for the one form than for the other.
    forms = {a: {a, plain(a), unicodedata.normalize("NFD", plain(a))} for a in answers}
    # A byte-level one has others within a text, behind a blank.
    forms = {
        a: sorted({*several, *(f" {form}" for form in several)}) for a, several in forms.items()
    }
    written = sorted({form for several in forms.values() for form in several})
    encoded = corpus.tokenizer().encode_batch(written, add_special_tokens=False)
    pieces = {form: tuple(e.ids) for form, e in zip(written, encoded, strict=True)}
    wanted = [{pieces[f] for a in q.answers for f in forms.get(a, ())} for q in questions]
    return [sorted(several - {()}) for several in wanted]


def _texts(asked: Question) -> list[str]:
    """The answers of a question as texts have them."""
    return [text for text in map(plain, asked.answers) if text]

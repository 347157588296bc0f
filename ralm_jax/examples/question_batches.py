"""Batches of questions with their beams: what to read, and which of it is an answer."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ralm_jax.batches import Lengths, QuestionBatch, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import features, matching
from ralm_jax.examples.answer_spans import Spans
from ralm_jax.questions.question import Question


class AnnotatedQuestions(NamedTuple):
    """For each question its wordpieces, the rows of the passages that have an answer (ascending), and
    where answers stand in them."""

    pieces: list[np.ndarray]
    has_answer: list[np.ndarray]
    spans: list[Spans]

    @property
    def answerable(self) -> np.ndarray:
        """bool [n]: some passage has an answer."""
        return np.array([len(rows) > 0 for rows in self.has_answer], bool)


def annotate(
    corpus: Corpus, questions: Sequence[Question], rule: matching.Rule = matching.wordpieces
) -> AnnotatedQuestions:
    """Tokenizes questions and finds their answers, once for a whole run."""
    asked = [q.question for q in questions]
    encoded = corpus.tokenizer().encode_batch(asked, add_special_tokens=False)
    spans = matching.spans(corpus, questions)
    by_pieces = rule is matching.wordpieces
    rows = [np.unique(s.rows) for s in spans] if by_pieces else rule(corpus, questions)
    return AnnotatedQuestions([np.array(e.ids, np.int32) for e in encoded], rows, spans)


class Asked(NamedTuple):
    """Questions of a batch [B,L], before anything is retrieved for them, and their numbers int64 [B]."""

    query: Text
    numbers: np.ndarray


class Reading(Protocol):
    """What is read of a beam; see `tasks.OpenQuestions`."""

    @property
    def lengths(self) -> Lengths: ...
    @property
    def candidates(self) -> int: ...
    @property
    def span_width(self) -> int: ...
    @property
    def train_passages(self) -> bool: ...


def ask(corpus: Corpus, annotated: AnnotatedQuestions, rows: np.ndarray, lengths: Lengths) -> Asked:
    pieces = [annotated.pieces[row] for row in rows]
    return Asked(features.query_text(corpus, pieces, lengths.query), np.asarray(rows))


def batch(
    corpus: Corpus,
    reading: Reading,
    annotated: AnnotatedQuestions,
    asked: Asked,
    found: np.ndarray,
    vectors,
) -> QuestionBatch:
    """Beams [B,R] of passage rows, best first (-1: none), and the index [N,E] -> QuestionBatch."""
    real = found >= 0
    rows = np.where(real, found, 0)
    read, lengths = found[:, : reading.candidates], reading.lengths
    joint, within = joint_text(corpus, asked.query, read, lengths.joint)
    has_answer = [
        _among(row, annotated.has_answer[n]) for row, n in zip(found, asked.numbers, strict=True)
    ]
    candidates = None
    if reading.train_passages:
        flat = features.passage_text(corpus, read.reshape(-1), lengths.passage)
        candidates = Text(*(x.reshape(*read.shape, -1) for x in flat))
    return QuestionBatch(
        question=asked.query,
        beam=np.asarray(vectors[rows], np.float32) * real[..., None].astype(np.float32),
        found=real,
        has_answer=np.stack(has_answer) & real,
        joint=joint,
        within=within,
        gold=gold_spans(annotated, asked, read, within, reading.span_width),
        candidates=candidates,
    )


def _among(rows: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """bool [R]: which of the rows are in the other array. A common answer is in very many passages."""
    if not len(ascending):
        return np.zeros(len(rows), bool)
    place = np.searchsorted(ascending, rows.astype(ascending.dtype))
    return ascending[np.minimum(place, len(ascending) - 1)] == rows


def joint_text(corpus: Corpus, query: Text, rows: np.ndarray, length: int):
    """Questions [B,L] and rows [B,K] -> joint Text [B,K,S], and where an answer may lie, bool [B,K,S]."""
    joint = features.joint_text(corpus, query, rows, length)
    column = np.arange(length)
    # Where the last [SEP] stands.
    end = (joint.tokens != 0).sum(-1, keepdims=True) - 1
    return joint, (joint.types == 1) & (column < end)


def gold_spans(
    annotated: AnnotatedQuestions, asked: Asked, rows: np.ndarray, within: np.ndarray, width: int
) -> np.ndarray:
    """bool [B,K,S,W]: spans of the passages `rows` [B,K] that are an answer, and not cut off."""
    gold = np.zeros((*within.shape, width), bool)
    # Where bodies begin.
    front = (asked.query.tokens != 0).sum(1)
    for b, number in enumerate(asked.numbers):
        spans = annotated.spans[number]
        for k, row in enumerate(rows[b]):
            here = slice(*np.searchsorted(spans.rows, [row, row + 1]))
            start = spans.starts[here] + front[b]
            wide = spans.stops[here] - spans.starts[here]
            fits = (wide < width) & (start + wide < within.shape[2])
            start, wide = start[fits], wide[fits]
            whole = within[b, k, start] & within[b, k, start + wide]
            gold[b, k, start[whole], wide[whole]] = True
    return gold

"""Batches of questions with their beams: what to read, and which of it is an answer."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ralm_jax.batches import Lengths, QuestionBatch, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import features, matching
from ralm_jax.questions.question import Question


class AnnotatedQuestions(NamedTuple):
    """Questions to learn from.

    Attributes:
      pieces: wordpieces of each, int32 [n].
      answerable: bool [n], some passage has an answer.
      answers: which passages have an answer, by the rule that was given.
      places: where answers stand in passages that are read.
    """

    pieces: list[np.ndarray]
    answerable: np.ndarray
    answers: matching.Answers
    places: matching.InPieces


def annotate(
    corpus: Corpus, questions: Sequence[Question], rule: matching.Rule = matching.wordpieces
) -> AnnotatedQuestions:
    """Tokenizes questions, and tells once for a whole run which of them any passage answers."""
    asked = [q.question for q in questions]
    encoded = corpus.tokenizer().encode_batch(asked, add_special_tokens=False)
    pieces = [np.array(e.ids, np.int32) for e in encoded]
    answers = rule(corpus, questions)
    places = (
        answers
        if isinstance(answers, matching.InPieces)
        else matching.wordpieces(corpus, questions)
    )
    return AnnotatedQuestions(pieces, answers.anywhere(), answers, places)


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
    pairs = zip(asked.numbers.tolist(), found, strict=True)
    has_answer = [annotated.answers.among(number, row) for number, row in pairs]
    candidates = None
    if reading.train_passages:
        flat = features.passage_text(corpus, read.reshape(-1), lengths.passage)
        candidates = Text(*(x.reshape(*read.shape, -1) for x in flat))
    return QuestionBatch(
        question=asked.query,
        beam=np.asarray(vectors[rows], np.float32) * real[..., None].astype(np.float32),
        found=real,
        has_answer=np.stack(has_answer),
        joint=joint,
        within=within,
        gold=gold_spans(annotated, asked, read, within, reading.span_width),
        candidates=candidates,
    )


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
    for b, number in enumerate(asked.numbers.tolist()):
        spans = annotated.places.spans(number, rows[b])
        for k, row in enumerate(rows[b]):
            here = slice(*np.searchsorted(spans.rows, [row, row + 1]))
            start = spans.starts[here] + front[b]
            wide = spans.stops[here] - spans.starts[here]
            fits = (wide < width) & (start + wide < within.shape[2])
            start, wide = start[fits], wide[fits]
            whole = within[b, k, start] & within[b, k, start + wide]
            gold[b, k, start[whole], wide[whole]] = True
    return gold

"""What an answer rests on: each passage's part in the ranking, and in the answer, with it and without it."""

from typing import NamedTuple

import numpy as np

from ralm_jax.batches import Text
from ralm_jax.inference import answering
from ralm_jax.inference.answering import Answer, Answered
from ralm_jax.inference.embedding import Ranking, embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.metrics.qa import normalise


class Beam(NamedTuple):
    """Passages for n questions, best first; p(z|x) is the softmax of `scores`."""

    rows: np.ndarray  # int [n,R], of the corpus; -1 is none
    scores: np.ndarray  # float32 [n,R]: dense + lexical, or the scorer's
    dense: np.ndarray  # float32 [n,R]: the inner product, as it is scaled before the softmax
    lexical: (
        np.ndarray
    )  # float32 [n,R]: BM25 with its weight; 0 where the run ranks by vectors alone

    @property
    def probabilities(self) -> np.ndarray:
        """p(z|x) over the beam, [n,R]."""
        return answering.softmax(self.scores)


class Worth(NamedTuple):
    """What one passage that was read is worth to an answer."""

    alone: Answer | None  # the likeliest span of this passage, were it the only one
    of_answer: float  # probability of the answer from this passage alone
    without: float  # probability of the answer from all the others that were read


def find(opened: OpenRun, asked: Text, beam: int) -> Beam:
    """The beam of questions [n,L], in the order of `OpenRun.search`."""
    queries = embed_texts(opened.model, opened.params, asked)
    ranked = opened.nearest(asked, queries, beam)
    real = ranked.rows >= 0
    products = np.einsum("nre,ne->nr", opened.vectors[np.maximum(ranked.rows, 0)], queries)
    dense = np.where(real, opened.model.score_scale * products, 0.0).astype(np.float32)
    if not opened.lexical_weight:
        return Beam(ranked.rows, np.where(real, dense, -np.inf), dense, np.zeros_like(dense))
    scores = opened.model.score_scale * ranked.scores
    lexical = np.where(real, scores - dense, 0.0)
    return Beam(ranked.rows, scores, dense, lexical.astype(np.float32))


def reranked(opened: OpenRun, asked: Text, beam: Beam) -> Beam:
    """The first of a beam in the order of the run's scorer, each with its dense and lexical parts."""
    ranked = answering.reranked(opened, asked, Ranking(beam.rows, beam.scores))
    # [n,R',R]: where each stood before.
    before = (ranked.rows[:, :, None] == beam.rows[:, None, :]).argmax(-1)
    parts = (np.take_along_axis(part, before, 1) for part in (beam.dense, beam.lexical))
    return Beam(ranked.rows, opened.model.score_scale * ranked.scores, *parts)


def weigh(
    opened: OpenRun, asked: Text, beam: Beam, candidates: int
) -> list[tuple[Answered, list[Worth]]]:
    """Reads the first `candidates` of each beam: the answers, and the worth of each passage read."""
    rows = beam.rows[:, :candidates]
    place, spans = answering.read_once(opened, asked, [rows])
    fronts = (asked.tokens != 0).sum(1)
    known: answering.Known = {}
    out = []
    for b, own in enumerate(rows):
        read = [(k, place[b, int(row)]) for k, row in enumerate(own) if row >= 0]
        given = (opened, int(fronts[b]), own, beam.scores[b])
        answers = answering.likeliest(*given, read, spans, known)
        found = Answered(answers, beam.rows[b], beam.probabilities[b])
        worths = []
        for one in read:
            alone = answering.likeliest(*given, [one], spans, known)
            rest = [other for other in read if other != one]
            others = answering.likeliest(*given, rest, spans, known)
            best = alone[0] if alone else None
            worths.append(Worth(best, _of(alone, answers), _of(others, answers)))
        out.append((found, worths))
    return out


def _of(answers: list[Answer], wanted: list[Answer]) -> float:
    """Probability among `answers` of the first that is wanted; 0 where it is not among them."""
    name = normalise(wanted[0].text) if wanted else None
    return next((a.probability for a in answers if normalise(a.text) == name), 0.0)

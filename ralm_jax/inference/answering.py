"""Question to answer, with its evidence: what `ralm ask` shows and `ralm evaluate` measures.

The best few passages of each question are read, and the likeliest spans given back as they stand in the text.
`open_run.OpenRun.answer` is the whole way from question to answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.inference.embedding import Ranking
from ralm_jax.inference.span_reading import SPANS, Spans, read_pairs, rerank_pairs
from ralm_jax.metrics.plain_text import with_accents
from ralm_jax.metrics.qa import normalise

RERANKED = 20  # passages of the beam that a scorer puts in order
# Of rows of the corpus: the text, the characters [start, stop) of its wordpieces, and its spans so far, by
# first wordpiece and width: their characters, and the name that those which read alike share.
Spanned = dict[tuple[int, int], tuple[int, int, str]]
Known = dict[int, tuple[str, list[tuple[int, int]], Spanned]]
NO_SPAN = -1e30  # scores below it are of spans that leave the passage


class Reading(Protocol):
    """What of an open run is needed to read passages; `open_run.OpenRun` is one."""

    @property
    def model(self) -> Any: ...
    @property
    def params(self) -> dict: ...
    @property
    def corpus(self) -> Corpus: ...
    @property
    def lengths(self) -> Lengths: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def texts(self) -> Any: ...


class Answer(NamedTuple):
    """A span of a passage, as it stands there."""

    text: str
    probability: float  # of its likeliest span, among all spans of the passages read
    row: int
    start: int  # characters of the passage's text, [start, stop)
    stop: int


class Answered(NamedTuple):
    """A question's answers, that of the likeliest span first, no two alike; and its beam, best first."""

    answers: list[Answer]
    rows: np.ndarray  # [R] of the passages
    probabilities: np.ndarray  # [R] p(passage | question) over the beam


def reranked(opened: Reading, asked: Text, ranked: Ranking, depth: int = RERANKED) -> Ranking:
    """The first `depth` passages in the order of the run's scorer, with its scores; no others are left."""
    rows = ranked.rows[:, :depth]
    numbers = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    real = rows >= 0
    scores = np.full(rows.shape, -np.inf, np.float32)
    pairs = np.stack([numbers[real], rows[real]], -1)
    length = opened.lengths.joint
    raw = rerank_pairs(opened.model, opened.params["scorer"], opened.corpus, asked, pairs, length)
    scores[real] = raw / opened.model.score_scale  # as those of a retriever: see `read`
    order = np.argsort(-scores, axis=1, kind="stable")
    return Ranking(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def read(
    opened: Reading, asked: Text, several: Sequence[Ranking], candidates: int
) -> list[list[Answered]]:
    """Reads the first passages of each beam. Several rankings of the same questions share the reading."""
    beams = [ranked.rows[:, :candidates] for ranked in several]
    place, spans = read_once(opened, asked, beams)
    fronts = (asked.tokens != 0).sum(1)
    out = []
    for ranked, rows in zip(several, beams, strict=True):
        scores = opened.model.score_scale * ranked.scores
        answered = []
        for b, found in enumerate(rows):
            read = [(k, place[b, int(row)]) for k, row in enumerate(found) if row >= 0]
            answers = likeliest(opened, int(fronts[b]), found, scores[b], read, spans)
            answered.append(Answered(answers, ranked.rows[b], softmax(scores[b])))
        out.append(answered)
    return out


def read_once(
    opened: Reading, asked: Text, beams: Sequence[np.ndarray]
) -> tuple[dict[tuple[int, int], int], Spans]:
    """Reads every passage of beams [n,K] for its question, once though several beams have it.

    Returns the place among the spans of each (question, row).
    """
    numbers = np.arange(len(asked.tokens))[:, None]
    pairs = [np.stack(np.broadcast_arrays(numbers, rows), -1)[rows >= 0] for rows in beams]
    unique = np.unique(np.concatenate(pairs).reshape(-1, 2), axis=0)
    spans = read_pairs(
        opened.model, opened.params["reader"], opened.corpus, asked, unique, opened.lengths.joint
    )
    return {(int(b), int(row)): i for i, (b, row) in enumerate(unique)}, spans


def likeliest(
    opened: Reading,
    front: int,
    rows: np.ndarray,
    scores: np.ndarray,
    read,
    spans: Spans,
    known: Known | None = None,
) -> list[Answer]:
    """Spans of all passages read, (k, place in `spans`), as text, likeliest first (ORQA, section 4.2).

    front: wordpieces of the question with its special tokens; rows, scores: [K] of the candidates;
    known: what has been found out about texts before, and is now.
    """
    if not read:
        return []
    total = np.logaddexp.reduce([scores[k] + spans.total[i] for k, i in read])
    likely = [
        (float(scores[k] + score - total), int(rows[k]), int(start), int(wide))
        for k, i in read
        for start, wide, score in zip(spans.starts[i], spans.wides[i], spans.scores[i], strict=True)
        if score > NO_SPAN
    ]
    likely.sort(key=lambda span: -span[0])
    return _distinct(opened, front, likely[:SPANS], {} if known is None else known)


def _distinct(opened: Reading, front: int, likely, known: Known) -> list[Answer]:
    """(log p, row, start, width less one), likeliest first, as text; of those that read alike the first."""
    found: dict[str, Answer] = {}
    for log_p, row, start, wide in likely:
        if row not in known:
            text = opened.texts[row]["text"].decode()
            offsets = opened.tokenizer.encode(text, add_special_tokens=False).offsets
            known[row] = text, offsets, {}
        text, offsets, spans = known[row]
        place = start - front, wide
        if place not in spans:
            begin, end = offsets[start - front][0], offsets[start - front + wide][1]
            # Pieces of some tokenizers hold the blank before a word too.
            begin = end - len(text[begin:end].lstrip())
            end = with_accents(text, end)
            spans[place] = begin, end, normalise(text[begin:end])
        begin, end, name = spans[place]
        if name not in found:
            found[name] = Answer(text[begin:end], float(np.exp(log_p)), row, begin, end)
    return list(found.values())


def softmax(scores: np.ndarray) -> np.ndarray:
    """[..., R] -> probabilities; where nothing was found (-inf) it is 0."""
    best = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(best), best, 0))
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)

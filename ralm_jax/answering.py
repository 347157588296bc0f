"""Question to answer, with its evidence: what `ralm ask` shows and `ralm evaluate` measures.

A run is opened once; then any number of questions is answered: embedded, searched exactly among all passages,
the best few read, and the likeliest spans given back as they stand in the text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from ralm_jax import runs
from ralm_jax.answers import normalise
from ralm_jax.data import features
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.embedding import Ranking, embed_texts, exact_over, search_with
from ralm_jax.errors import UserError
from ralm_jax.kept_vectors import corpus_vectors
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Text
from ralm_jax.plain_text import with_accents
from ralm_jax.retrieval.exact import Exact
from ralm_jax.span_reading import SPANS, Spans, judge_pairs, read_pairs

RERANKED = 20  # passages of the beam that a scorer puts in order
NO_SPAN = -1e30  # scores below it are of spans that leave the passage


class Opened(NamedTuple):
    """A run that answers, with its passages."""

    model: OpenQA
    params: dict
    corpus: Corpus
    searcher: Exact  # over all passages
    lengths: Lengths
    tokenizer: Tokenizer
    texts: Any  # random access to id, documents, title and text of each passage
    rerank: bool = False  # its scorer puts passages in order before they are read


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


def open_run(run: str | Path, corpus: str | Path | None = None, stage: str | None = None) -> Opened:
    """Opens a run that was fine-tuned (or imported as an open-QA model).

    Raises UserError: no run, one that does not answer, no corpus, other wordpieces.
    """
    loaded, own = runs.load(Path(run), stage), runs.read_record(Path(run))
    if not isinstance(loaded.model, OpenQA):
        raise UserError(
            f"the run {run} was not fine-tuned: ralm finetune --run {run} ... makes one"
        )
    text = runs.open_its_corpus(Path(run), corpus)
    lengths = Lengths(**own["lengths"])
    vectors = corpus_vectors(Path(run), loaded, text, lengths)
    return Opened(
        loaded.model,
        jax.device_put(loaded.params, jax.local_devices()[0]),
        text,
        exact_over(vectors),
        lengths,
        text.tokenizer(),
        text.texts(),
        loaded.rerank,
    )


def encode(opened: Opened, questions: Sequence[str]) -> Text:
    """Questions -> `[CLS] question [SEP]` [n,L]."""
    encoded = opened.tokenizer.encode_batch(list(questions), add_special_tokens=False)
    pieces = [np.array(e.ids, np.int32) for e in encoded]
    return features.query_text(opened.corpus, pieces, opened.lengths.query)


def rank(opened: Opened, asked: Text, beam: int) -> Ranking:
    """The best passages for questions [n,L], among all: [n,R]."""
    vectors = embed_texts(opened.model, opened.params, asked)
    return search_with(opened.searcher, vectors, min(beam, opened.corpus.size))


def reranked(opened: Opened, asked: Text, ranked: Ranking, depth: int = RERANKED) -> Ranking:
    """The first `depth` passages in the order of the run's scorer, with its scores; no others are left."""
    rows = ranked.rows[:, :depth]
    numbers = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    real = rows >= 0
    scores = np.full(rows.shape, -np.inf, np.float32)
    pairs = np.stack([numbers[real], rows[real]], -1)
    length = opened.lengths.joint
    raw = judge_pairs(opened.model, opened.params["scorer"], opened.corpus, asked, pairs, length)
    scores[real] = raw / opened.model.score_scale  # as those of a retriever: see `read`
    order = np.argsort(-scores, axis=1, kind="stable")
    return Ranking(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def answer(
    opened: Opened, questions: Sequence[str], *, beam: int = 100, candidates: int = 5
) -> list[Answered]:
    """Answers questions: `beam` passages ranked, the first `candidates` of them read.

    Where the run's scorer answered more of the development questions, it puts the best of the beam in order.
    """
    asked = encode(opened, questions)
    ranked = rank(opened, asked, beam)
    if opened.rerank:
        ranked = reranked(opened, asked, ranked)
    return read(opened, asked, [ranked], candidates)[0]


def read(
    opened: Opened, asked: Text, several: Sequence[Ranking], candidates: int
) -> list[list[Answered]]:
    """Reads the first passages of each beam. Several rankings of the same questions share the reading."""
    beams = [ranked.rows[:, :candidates] for ranked in several]
    numbers = np.arange(len(asked.tokens))[:, None]
    pairs = [np.stack(np.broadcast_arrays(numbers, rows), -1)[rows >= 0] for rows in beams]
    unique = np.unique(np.concatenate(pairs).reshape(-1, 2), axis=0)
    spans = read_pairs(
        opened.model, opened.params["reader"], opened.corpus, asked, unique, opened.lengths.joint
    )
    place = {(int(b), int(row)): i for i, (b, row) in enumerate(unique)}
    fronts = (asked.tokens != 0).sum(1)
    out = []
    for ranked, rows in zip(several, beams, strict=True):
        scores = opened.model.score_scale * ranked.scores
        answered = []
        for b, found in enumerate(rows):
            read = [(k, place[b, int(row)]) for k, row in enumerate(found) if row >= 0]
            answers = _likeliest(opened, int(fronts[b]), found, scores[b], read, spans)
            answered.append(Answered(answers, ranked.rows[b], softmax(scores[b])))
        out.append(answered)
    return out


def _likeliest(
    opened: Opened, front: int, rows: np.ndarray, scores: np.ndarray, read, spans: Spans
) -> list[Answer]:
    """Spans of all passages read, (k, place in `spans`), as text, likeliest first (ORQA, section 4.2)."""
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
    return _distinct(opened, front, likely[:SPANS])


def _distinct(opened: Opened, front: int, likely) -> list[Answer]:
    """(log p, row, start, width less one), likeliest first, as text; of those that read alike the first."""
    found: dict[str, Answer] = {}
    texts: dict[int, tuple[str, list]] = {}
    for log_p, row, start, wide in likely:
        if row not in texts:
            text = opened.texts[row]["text"].decode()
            texts[row] = text, opened.tokenizer.encode(text, add_special_tokens=False).offsets
        text, offsets = texts[row]
        begin = offsets[start - front][0]
        end = with_accents(text, offsets[start - front + wide][1])
        name = normalise(text[begin:end])
        if name not in found:
            found[name] = Answer(text[begin:end], float(np.exp(log_p)), row, begin, end)
    return list(found.values())


def softmax(scores: np.ndarray) -> np.ndarray:
    """[..., R] -> probabilities; where nothing was found (-inf) it is 0."""
    best = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(best), best, 0))
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)

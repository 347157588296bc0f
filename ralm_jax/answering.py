"""Question to answer, with its evidence: what `ralm ask` shows and `ralm evaluate` measures.

A run is opened once; then any number of questions is answered: embedded, searched exactly among all passages,
the best few read, and the likeliest spans given back as they stand in the text.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from ralm_jax import runs
from ralm_jax.answers import normalise
from ralm_jax.data import answering_batches, features
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.embedding import Ranking, embed_texts, exact_over, search_with
from ralm_jax.errors import UserError
from ralm_jax.kept_vectors import corpus_vectors
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Text
from ralm_jax.retrieval.exact import Exact

SPANS = 20  # the likeliest spans looked at for an answer and its runners-up
READ_BATCH = 8  # questions read at a time


class Opened(NamedTuple):
    """A run that answers, with its passages."""

    model: OpenQA
    params: dict
    corpus: Corpus
    searcher: Exact  # over all passages
    lengths: Lengths
    tokenizer: Tokenizer
    texts: Any  # random access to id, documents, title and text of each passage


class Answer(NamedTuple):
    """A span of a passage, as it stands there."""

    text: str
    probability: float  # of the answer among all spans of the passages read
    row: int
    start: int  # characters of the passage's text, [start, stop)
    stop: int


class Answered(NamedTuple):
    """A question's answers, likeliest first and no two alike; and its beam, best first."""

    answers: list[Answer]
    rows: np.ndarray  # [R] of the passages
    probabilities: np.ndarray  # [R] p(passage | question) over the beam


def open_run(run: str | Path, corpus: str | Path | None = None) -> Opened:
    """Opens a run that was fine-tuned (or imported as an open-QA model).

    Raises UserError: no run, one that does not answer, no corpus, other wordpieces.
    """
    loaded, own = runs.load(Path(run)), runs.read_record(Path(run))
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
    )


def answer(
    opened: Opened, questions: Sequence[str], *, beam: int = 100, candidates: int = 5
) -> list[Answered]:
    """Answers questions: `beam` passages ranked, the first `candidates` of them read."""
    encoded = opened.tokenizer.encode_batch(list(questions), add_special_tokens=False)
    pieces = [np.array(e.ids, np.int32) for e in encoded]
    asked = features.query_text(opened.corpus, pieces, opened.lengths.query)
    vectors = embed_texts(opened.model, opened.params, asked)
    ranked = search_with(opened.searcher, vectors, min(beam, opened.corpus.size))
    return read(opened, asked, ranked, candidates)


def read(opened: Opened, asked: Text, ranked: Ranking, candidates: int) -> list[Answered]:
    """Reads the first passages of each beam: asked [n,L], ranked [n,R]."""
    n, k, out = len(asked.tokens), min(candidates, ranked.rows.shape[1]), []
    size = min(READ_BATCH, n)
    scale = opened.model.score_scale
    for start in range(0, n, size):
        rows = np.minimum(np.arange(start, start + size), n - 1)
        query = Text(asked.tokens[rows], asked.types[rows])
        read = ranked.rows[rows, :k]
        joint, within = answering_batches.joint_text(
            opened.corpus, query, read, opened.lengths.joint
        )
        scores = (scale * ranked.scores[rows, :k]).astype(np.float32)
        best = jax.tree.map(
            np.asarray, _best_spans(opened.model, opened.params["reader"], joint, within, scores)
        )
        for b, row in enumerate(rows[: min(size, n - start)]):
            front = int((query.tokens[b] != 0).sum())
            answers = _distinct(opened, read[b], front, *(x[b] for x in best))
            out.append(Answered(answers, ranked.rows[row], softmax(scale * ranked.scores[row])))
    return out


@functools.partial(jax.jit, static_argnames="model")
def _best_spans(model: OpenQA, reader, joint: Text, within, scores):
    """joint [B,K,S], scores [B,K] -> of the likeliest spans k, start, width less one and log p [B,SPANS]."""
    spans: Any = model.apply({"params": {"reader": reader}}, joint, within, method="read")
    b, _, s, w = spans.shape
    total = jax.nn.log_softmax((spans + scores[:, :, None, None]).reshape(b, -1), axis=-1)
    best, place = jax.lax.top_k(total, min(SPANS, total.shape[1]))
    k, rest = jnp.divmod(place, s * w)
    return k, *jnp.divmod(rest, w), best


def _distinct(opened: Opened, rows, front: int, k, starts, wides, log_p) -> list[Answer]:
    """Spans as text, likeliest first; those that read alike are one answer, at its likeliest place."""
    found: dict[str, Answer] = {}
    texts: dict[int, tuple[str, list]] = {}
    for candidate, start, wide, value in zip(k, starts, wides, log_p, strict=True):
        row = int(rows[candidate])
        if row < 0 or value < -1e30:
            continue
        if row not in texts:
            text = opened.texts[row]["text"].decode()
            texts[row] = text, opened.tokenizer.encode(text, add_special_tokens=False).offsets
        text, offsets = texts[row]
        begin, end = offsets[start - front][0], offsets[start - front + wide][1]
        name = normalise(text[begin:end])
        share = float(np.exp(value))
        if name in found:
            share += found[name].probability
            found[name] = found[name]._replace(probability=share)
        else:
            found[name] = Answer(text[begin:end], share, row, begin, end)
    return list(found.values())


def softmax(scores: np.ndarray) -> np.ndarray:
    """[..., R] -> probabilities; where nothing was found (-inf) it is 0."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)

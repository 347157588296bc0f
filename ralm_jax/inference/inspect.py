"""What a run has learnt, to look at: passages for a question, and what each made of a masked sentence."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ralm_jax.batches import ClozeBatch
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, masking
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.losses import marginal
from ralm_jax.models.ralm import Ralm


def passage(corpus: Corpus, row: int) -> str:
    """Title and text."""
    record = corpus.texts()[int(row)]
    return f"{record['title'].decode()}: {record['text'].decode()}"


def retrieve(
    opened: OpenRun, questions: Sequence[str], k: int = 5
) -> list[list[tuple[int, float]]]:
    """For each question its first k passages: row of the corpus, and p(z|x) among those k."""
    ranked = opened.search(questions, k)
    weights = np.asarray(jax.nn.softmax(opened.model.score_scale * ranked.scores, axis=1))
    return [
        [(int(row), float(p)) for row, p in zip(rows, each, strict=True)]
        for rows, each in zip(ranked.rows, weights, strict=True)
    ]


class Candidate(NamedTuple):
    """A passage, and its part in a prediction."""

    row: int  # of the corpus; -1: the null passage
    prior: float  # p(z|x)
    likelihood: float  # p(y|z,x), of the whole span
    posterior: float  # p(z|x,y): what the retriever is taught
    says: str  # what the reader would fill in from this passage alone


class Cloze(NamedTuple):
    """A held-out sentence with a hole, and what was read."""

    sentence: str  # with [MASK]
    answer: str
    says: str  # the likeliest filling, over all candidates
    probability: float  # of the answer
    candidates: list[Candidate]  # the null passage first, then as retrieved


def sentences(opened: OpenRun, limit: int, seed: int = 0) -> np.ndarray:
    """Rows of held-out sentences that have a salient span, [limit]; drawn, in order of the corpus."""
    corpus, share = opened.corpus, opened.held_out
    usable = cloze_batches.held_out_sentences(corpus, share)
    usable &= cloze_batches.with_span(corpus, opened.lengths.query)
    rows = np.flatnonzero(usable)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])


def read(opened: OpenRun, rows: np.ndarray, k: int = 6) -> list[Cloze]:
    """Masks the salient span of sentences `rows` and reads each with k candidates, null included.

    The sentence's own passage is not among them. rows: as of `sentences`.

    Raises UserError for a run that answers questions, whose reader fills no masks.
    """
    if not isinstance(opened.model, Ralm):
        raise UserError(
            f"{opened.path} answers questions; inspect the run that it was fine-tuned from"
        )
    model, params, corpus, lengths = opened.model, opened.params, opened.corpus, opened.lengths
    where = np.arange(len(rows))
    asked = cloze_batches.clozes(corpus, rows, where, masking.salient_span, lengths, seed=0)
    found = opened.search(asked.query, k + 1).rows
    chosen = cloze_batches.candidates(found, asked.passages, k)
    batch = cloze_batches.with_candidates(corpus, asked, chosen, lengths)
    prior, logits, together = map(np.asarray, _read(model, params, batch))
    decode = corpus.tokenizer().decode
    clozes = []
    for b in range(len(rows)):
        m = int((asked.weights[b] > 0).sum())
        targets = asked.targets[b, :m]
        log_likelihood = logits[b, :, np.arange(m), targets].sum(0)  # [K]
        joint = prior[b] + log_likelihood
        posterior = np.exp(joint - np.logaddexp.reduce(joint))
        clozes.append(
            Cloze(
                sentence=decode(
                    [int(t) for t in asked.query.tokens[b] if t][1:-1], skip_special_tokens=False
                ),
                answer=decode(targets.tolist()),
                says=decode(together[b, :m].argmax(-1).tolist()),
                probability=float(np.exp(np.logaddexp.reduce(joint))),
                candidates=[
                    Candidate(
                        int(chosen[b, z]),
                        float(np.exp(prior[b, z])),
                        float(np.exp(log_likelihood[z])),
                        float(posterior[z]),
                        decode(logits[b, z, :m].argmax(-1).tolist()),
                    )
                    for z in range(k)
                    if chosen[b, z] > -2
                ],
            )
        )
    return clozes


@functools.partial(jax.jit, static_argnames="model")
def _read(model: Ralm, params: dict, batch: ClozeBatch):
    """-> log p(z|x) [B,K], log p(.|z,x) [B,K,M,V], log p(.|x) [B,M,V]."""
    call: Any = functools.partial(model.apply, {"params": params}, batch)
    prior = marginal.log_prior(call(method="scores"), batch.valid)
    logits = jax.nn.log_softmax(call(method="read"))
    return prior, logits, jax.nn.logsumexp(prior[:, :, None, None] + logits, axis=1)


def projection(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N,E] on their two principal axes, [N,2]."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T

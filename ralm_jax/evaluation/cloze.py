"""How well held-out masked spans are read, with retrieved passages and without."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.batches import ClozeBatch, Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches, masking
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.losses import marginal as losses
from ralm_jax.metrics.means import Mean
from ralm_jax.metrics.ranking import all_ranked, recall_at_k
from ralm_jax.models.ralm import Ralm
from ralm_jax.terminal import watched

KS = (1, 5, 20, 100)
# Figures of clozes whose candidates partly hold the span; there may be none.
MIXED = ("likeliest_holds", "holds_by_chance")
# Clozes read at a time, which bounds the logits in memory to [16,K,M,V].
READ_BATCH = 16


def measure_clozes(
    opened: OpenRun,
    *,
    candidates: int = 8,
    limit: int = 1000,
    measure: Callable[[Ralm, dict, ClozeBatch], dict[str, tuple]] | None = None,
) -> dict[str, Any]:
    """Held-out sentences, their own passage excluded: what is retrieved, and what is read from it.

    Returns:
      span_accuracy (all predicted tokens of the span right) with the retrieved candidates and with the
      null passage alone, retrieval_utility (nats a token), and, where the corpus names facts,
      cloze_recall {k: share with a passage that states the same fact}. Of clozes where some candidates hold
      the span word for word and some do not: likeliest_holds, how often the one that the reader finds
      likeliest does, and holds_by_chance; neither where there is no such cloze.
      `measure` in the place of `read`: means of what it gives of each batch.
    """
    model, params, corpus, lengths = opened.model, opened.params, opened.corpus, opened.lengths
    assert isinstance(model, Ralm), "a run that answers questions fills no masks"
    usable = cloze_batches.held_out_sentences(corpus, opened.held_out) & cloze_batches.with_span(
        corpus, lengths.query
    )
    rows = np.flatnonzero(usable)
    if not len(rows) or not limit:
        return {"sentences": 0}
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
    asked = cloze_batches.clozes(
        corpus, rows, np.arange(len(rows)), masking.salient_span, lengths, seed=0
    )
    depth = min(max(KS) + 1, corpus.size)
    found = opened.search(asked.query, depth).rows
    chosen = cloze_batches.candidates(found, asked.passages, candidates)
    report: dict[str, Any] = {"sentences": len(rows)}
    means = _read_all(model, params, corpus, asked, chosen, lengths, measure or read)
    absent = [name for name in MIXED if math.isnan(means.get(name, 0.0))]
    report |= {name: mean for name, mean in means.items() if name not in absent}
    gold = same_fact(corpus, rows, asked.positions[:, 0] - 1)
    if any(gold):
        others = cloze_batches.candidates(found, asked.passages, depth)[:, 1:]
        others = all_ranked(others, corpus.size - 1, max(KS))
        known = np.array([bool(g) for g in gold])
        ks = [k for k in KS if k <= others.shape[1]]
        pairs = recall_at_k(others[known], [g for g in gold if g], ks)
        report["cloze_recall"] = Mean.of({str(k): p for k, p in pairs.items()}).compute()
    return report


def same_fact(corpus: Corpus, sentences: np.ndarray, starts: np.ndarray) -> list[set[int]]:
    """For sentence rows [n], the other passages that state the fact of the span beginning at `starts`."""
    groups, facts = np.asarray(corpus.span_groups), []
    for row, start in zip(sentences, starts, strict=True):
        rows = cloze_batches.span_rows(corpus, row)
        begins = corpus.spans[rows, 1] == corpus.sentences[row, 1] + start
        facts.append(int(groups[rows][begins][0]))
    stated = np.flatnonzero(np.isin(groups, np.array(sorted(set(facts)), groups.dtype)))
    passages: dict[int, set[int]] = {}
    owners = corpus.sentences[corpus.spans[stated, 0], 0]
    for fact, passage in zip(groups[stated].tolist(), owners.tolist(), strict=True):
        passages.setdefault(fact, set()).add(passage)
    own = corpus.sentences[sentences, 0].tolist()
    return [passages[fact] - {passage} for fact, passage in zip(facts, own, strict=True)]


def _read_all(
    model, params, corpus, asked: cloze_batches.Clozes, chosen, lengths: Lengths, measure
):
    """Reads clozes with candidate rows [n,K]; one batch shape, so one compilation."""
    total, n = Mean(), len(chosen)
    batches = range(0, n, READ_BATCH)
    for start in watched(batches, "reading clozes", len(batches), " batches"):
        real = np.arange(start, start + READ_BATCH) < n
        rows = np.minimum(np.arange(start, start + READ_BATCH), n - 1)
        part = cloze_batches.taken(asked, rows)
        part = dataclasses.replace(part, weights=part.weights * real[:, None])
        batch = cloze_batches.with_candidates(corpus, part, chosen[rows], lengths)
        total = total.merge(Mean.of(measure(model, params, batch)))
    return total.compute()


def holds_span(batch: ClozeBatch) -> jax.Array:
    """Whether a candidate's body has the masked span, piece for piece: bool [B,K]."""
    tokens, inside = batch.joint.tokens, batch.joint.types == 1  # [B,K,S]
    at = inside
    for m in range(batch.targets.shape[1]):
        used = (batch.weights[:, m] > 0)[:, None, None]
        later = jnp.pad(tokens[..., m:], ((0, 0), (0, 0), (0, m)))
        at &= ~used | (later == batch.targets[:, m, None, None])
    return at.any(-1)


@functools.partial(jax.jit, static_argnames="model")
def read(model: Ralm, params: dict, batch: ClozeBatch) -> dict[str, tuple]:
    """{name: (sum, count)} for a batch; rows whose weights are all 0 do not count."""
    variables = {"params": params}
    call: Any = functools.partial(model.apply, variables, batch)
    # Logits [B,K,M,V], prior [B,K], marginal [B,M,V].
    logits = jax.nn.log_softmax(call(method="read"))
    prior = losses.log_prior(call(method="scores"), batch.valid)
    marginal = jax.nn.logsumexp(prior[:, :, None, None] + logits, axis=1)
    unused = batch.weights == 0
    asked = (~unused).any(-1)

    def right(guess):
        """[B,M,V] -> the number of spans that are wholly right."""
        return (((guess.argmax(-1) == batch.targets) | unused).all(-1) & asked).sum()

    targets = jnp.broadcast_to(batch.targets[:, None, :, None], (*logits.shape[:-1], 1))
    # [B,K,M]
    likelihood = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]
    telemetry = losses.retrieval_telemetry(prior, likelihood, batch.weights)
    has = holds_span(batch)[:, 1:] & batch.valid[:, 1:]  # [B,K-1]
    lacks = ~has & batch.valid[:, 1:]
    mixed = has.any(-1) & lacks.any(-1) & asked
    spans = (likelihood * batch.weights[:, None]).sum(-1)[:, 1:]  # [B,K-1]
    likeliest = jnp.where(batch.valid[:, 1:], spans, -jnp.inf).argmax(-1)
    held = jnp.take_along_axis(has, likeliest[:, None], axis=1)[:, 0]
    chance = has.sum(-1) / jnp.maximum(batch.valid[:, 1:].sum(-1), 1)
    return {
        "likeliest_holds": ((held & mixed).sum(), mixed.sum()),
        "holds_by_chance": (jnp.where(mixed, chance, 0.0).sum(), mixed.sum()),
        "span_accuracy": (right(marginal), asked.sum()),
        "span_accuracy_null": (right(logits[:, 0]), asked.sum()),
        "retrieval_utility": telemetry["retrieval_utility"],
    }

"""The task of learning to retrieve from what a frozen reader has read: each cloze is read once."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from ralm_jax import settings
from ralm_jax.batches import Lengths, ReadClozes, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, features, recurring, views, windows
from ralm_jax.examples.masking import Mask, salient_span
from ralm_jax.examples.recurring import Recurring
from ralm_jax.examples.views import View
from ralm_jax.inference.likelihoods import likelihoods, relevances
from ralm_jax.loaders.loader import Loader, Source
from ralm_jax.loaders.read_loader import Pool, ReadLoader
from ralm_jax.losses import marginal
from ralm_jax.losses.prior import Prior
from ralm_jax.models.base import RetrievalModel
from ralm_jax.settings import Count, Share
from ralm_jax.training import steps

# log p(y|z,x) where a passage without the span is as good as none.
ABSENT = -20.0


@dataclasses.dataclass(frozen=True)
class TeachingReader:
    """The retriever learns which passages a frozen reader fills clozes in by.

    Half of the loss is on the dense score alone and half on the score with BM25: by the first the retriever
    learns what it would lack without BM25, by the second what BM25 lacks.

    Attributes:
      clozes: that are asked, over and over.
      candidates: K, the null passage included; of both searches where the prior has BM25.
      passages: candidates that the retriever learns from at a time, the likeliest and others drawn at
        random; None for all.
      part: wordpieces of a passage that are embedded at most, special tokens included; None for all.
      prior, dense: p(z|x) with BM25 and without.
      mixed_share: of the loss that is on `prior`.
      over_batch: other queries' passages are candidates too, as likely as the null passage, but for those
        that have the span.
      train_passages: False: candidates are known by their vectors, which stay; the query tower learns alone,
        in a fraction of the time. It takes `optim.towers`.
      judge: of the candidates: the reader, by log p(y|z,x); the scorer, by its score, for an objective that
        distils a list; or whether the passage has the span word for word (Spider), without any model.
      cached: False reads in every step.
    """

    lengths: Lengths
    mask: Mask = salient_span
    view: View = views.dropped
    recurring: Recurring | None = None
    clozes: Count = 2000
    candidates: Count = 6
    passages: Count | None = 2
    part: Count | None = 96
    objective: marginal.Objective = marginal.marginal_per_span
    prior: Prior = Prior(0.5, 15.0)  # noqa: RUF009
    dense: Prior = Prior(0.8)  # noqa: RUF009
    mixed_share: Share = 0.5
    over_batch: bool = True
    train_passages: bool = True
    judge: Literal["reader", "scorer", "span"] = "reader"
    cached: bool = True

    def __post_init__(self):
        settings.check_fields(self)
        if self.candidates < 2:
            raise UserError(
                f"TeachingReader.candidates is {self.candidates}, and the null passage is one: it takes 2"
            )
        if not self.cached and self.judge != "reader":
            raise UserError(f"TeachingReader: the {self.judge} judges once: set `cached` to True")
        if not self.cached and self.passages is not None:
            raise UserError(
                "TeachingReader: the likeliest passages are known only of clozes that were read: set "
                "`cached` to True, or `passages` to None"
            )

    @property
    def needs_reranker(self) -> bool:
        return self.judge == "scorer"

    @property
    def lexical_weight(self) -> float:
        return self.prior.lexical_weight

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        return recurring.queries(self.recurring, corpus, held_out, self.lengths.query)

    def loader(self, source: Source) -> Loader:
        if self.recurring is not None:
            source = dataclasses.replace(source, asked=self.recurring(source.asked).corpus)
        return ReadLoader(source, self)

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        shares = [(self.mixed_share, self.prior), (1 - self.mixed_share, self.dense)]
        priors = tuple((share, prior) for share, prior in shares if share)
        return functools.partial(
            steps.read_loss, model=model, priors=priors, objective=self.objective
        )

    def describe(self, queries: int) -> list[str]:
        return [f"{queries:,} sentences to ask, of which {self.clozes:,} clozes are made"]

    def judged(self, model, params, corpus: Corpus, asked: cloze_batches.Clozes, found):
        """What the judge makes of candidate rows [n,K]: float32 [n,K,M]; see `judge`."""
        if self.judge == "span":
            return spans_told(corpus, asked, found)
        read = likelihoods if self.judge == "reader" else relevances
        return read(model, params, corpus, self.lengths, asked, found)

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> cloze_batches.Clozes:
        return cloze_batches.clozes(
            corpus, rows, positions, self.mask, self.lengths, seed, self.view
        )

    def batch(
        self, corpus: Corpus, pool: Pool, drawn: np.ndarray, positions: np.ndarray
    ) -> ReadClozes:
        """Clozes of the pool, by their places [B], drawn at these positions [B]."""
        asked, found, read = (
            cloze_batches.taken(pool.asked, drawn),
            pool.rows[drawn],
            pool.likelihood[drawn],
        )
        vectors = None if self.train_passages else pool.vectors[drawn]  # [B,K,E]
        if self.passages is not None:
            columns = learnt_from(
                found, (read * asked.weights[:, None]).sum(-1), self.passages, positions
            )
            found = np.take_along_axis(found, columns, 1)
            read = np.take_along_axis(read, columns[..., None], 1)
            if vectors is not None:
                vectors = np.take_along_axis(vectors, columns[..., None], 1)
        clozes = cloze_batches.with_candidates(corpus, asked, found, self.lengths)
        if vectors is None:
            clozes = clozes._replace(candidates=self._parts(corpus, found, positions))
        beside = found[:, 1:].reshape(-1)  # [n]
        others = silent(corpus, asked, found, beside) & self.over_batch
        lexical = None
        if pool.lexical is not None:
            rows = np.concatenate([found, np.tile(beside, (len(found), 1))], axis=1)
            scores = pool.lexical.of(asked.query.tokens, rows, asked.passages)
            clozes, lexical = (
                clozes._replace(lexical=scores[:, : found.shape[1]]),
                scores[:, found.shape[1] :],
            )
        return ReadClozes(clozes, read if self.cached else None, others, lexical, vectors)

    def _parts(self, corpus: Corpus, rows: np.ndarray, positions: np.ndarray) -> Text:
        """Candidates as they are embedded, [B,K,P]: of a long passage a part, drawn at random."""
        length = min(self.part or self.lengths.passage, self.lengths.passage)
        flat = np.maximum(rows, features.NULL).reshape(-1)
        parts = np.zeros((len(flat), 2), np.int32)
        where = np.repeat(positions, rows.shape[1])
        for i in np.flatnonzero(flat >= 0):
            rng = cloze_batches.generator(int(flat[i]), int(where[i]))
            parts[i] = windows.part(corpus, flat[i], length, rng)
        text = features.passage_text(corpus, flat, length, part=parts)
        return Text(*(x.reshape(*rows.shape, length) for x in text))


def learnt_from(
    found: np.ndarray, likelihood: np.ndarray, count: int, positions: np.ndarray
) -> np.ndarray:
    """Columns of the null passage, of the likeliest candidate and of some others drawn: int [B,1 + count].

    Args:
      found: candidate rows [B,K], null first; -2 is none, and comes last.
      likelihood: log p(y|z,x), [B,K].
    """
    there = found[:, 1:] > -2
    best = 1 + np.where(there, likelihood[:, 1:], -np.inf).argmax(1)
    keys = np.stack(
        [
            cloze_batches.generator(found.shape[1], int(at)).random(found.shape[1])
            for at in positions
        ]
    )
    keys[:, 1:] += np.where(there, 0.0, 2.0)
    keys[:, 0] = -2.0
    np.put_along_axis(keys, best[:, None], -1.0, axis=1)
    return np.argsort(keys, axis=1, kind="stable")[:, : 1 + count]


def silent(
    corpus: Corpus, asked: cloze_batches.Clozes, found: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """bool [B,n]: which of other rows [n] say nothing of a cloze, and are told once.

    Not its own passage, its candidates [B,K], or what has its span word for word; nor any row a second time.
    """
    first = np.zeros(len(others), bool)
    first[np.unique(others, return_index=True)[1]] = True
    out = np.tile(first & (others >= 0), (len(found), 1))
    out &= others != asked.passages[:, None]
    out &= ~(others[None, :, None] == found[:, None, :]).any(-1)
    tokens = np.asarray(corpus.tokens[np.maximum(others, 0)])  # [n,T]
    for i, weights in enumerate(asked.weights):
        out[i] &= ~has_span(tokens, asked.targets[i][weights > 0])
    return out


def spans_told(corpus: Corpus, asked: cloze_batches.Clozes, found: np.ndarray) -> np.ndarray:
    """Candidate rows [n,K] -> [n,K,M]: 0 in all for one that has the span word for word, ABSENT otherwise."""
    out = np.zeros((*found.shape, asked.targets.shape[1]), np.float32)
    for i, weights in enumerate(asked.weights):
        tokens = np.asarray(corpus.tokens[np.maximum(found[i], 0)])
        there = has_span(tokens, asked.targets[i][weights > 0]) & (found[i] >= 0)
        out[i] = np.where(there[:, None], 0.0, ABSENT / max(1, weights.sum()))
    return out


def has_span(tokens: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Passages [n,T] and a span of wordpieces -> bool [n]."""
    at = np.ones((len(tokens), tokens.shape[1] - len(span) + 1), bool)
    for place, piece in enumerate(span):
        at &= tokens[:, place : place + at.shape[1]] == piece
    return np.asarray(at.any(1))

"""What a stage of training does: the step it takes, and the queries it asks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from ralm_jax import losses, steps
from ralm_jax.data import pipeline
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.masking import Mask, salient_span
from ralm_jax.data.pipeline import Lengths
from ralm_jax.errors import UserError
from ralm_jax.retrieval.refresh import Frozen, Policy

FROZEN = Frozen()


@dataclasses.dataclass(frozen=True)
class InverseCloze:
    """Find the passage a sentence was taken from among those of the whole batch (ORQA)."""

    lengths: Lengths
    keep_share: float = 0.1  # of the passages that keep the sentence
    mask: Mask | None = None  # if given, hides part of mask_share of the queries
    mask_share: float = 0.0

    @property
    def step(self) -> Callable:
        return steps.ict_step

    def queries(self, corpus: Corpus, held_out: float) -> pipeline.Queries:
        count = np.bincount(corpus.sentences[:, 0], minlength=corpus.size)
        usable = {
            "the only sentence of its passage": count[corpus.sentences[:, 0]] > 1,
            "no salient span within the query length": (
                pipeline.with_span(corpus, self.lengths.query)
                if self.mask
                else np.ones(len(corpus.sentences), bool)
            ),
        }
        return pipeline.queries(corpus, held_out, usable)

    def batch(self, corpus: Corpus, rows: np.ndarray, positions: np.ndarray, seed: int):
        return pipeline.inverse_cloze_pairs(
            corpus,
            rows,
            positions,
            self.lengths,
            seed,
            keep_share=self.keep_share,
            mask=self.mask,
            mask_share=self.mask_share,
        )


@dataclasses.dataclass(frozen=True)
class Realm:
    """Predict masked tokens with retrieved passages; the retriever learns through the reader.

    As reader warm-up: hold_retriever, own_passage, and an index that stays as it is.
    """

    lengths: Lengths
    mask: Mask = salient_span
    candidates: int = 8  # K, null included
    objective: losses.Objective = losses.marginal_per_token
    hold_retriever: bool = False
    hold_encoder: bool = False  # the reader's: its masked-LM head alone learns
    own_passage: bool = False  # the query's own passage is a candidate, rather than excluded
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: int = 1  # cores for ScaNN's process

    def __post_init__(self):
        least = 2 if self.own_passage else 1
        if self.candidates < least:
            what = (
                "the null passage and the query's own" if self.own_passage else "the null passage"
            )
            raise UserError(f"Realm: candidates is {self.candidates}, and {what} make {least}")

    @property
    def step(self) -> Callable:
        return functools.partial(
            steps.ralm_step,
            objective=self.objective,
            hold_retriever=self.hold_retriever,
            hold_encoder=self.hold_encoder,
        )

    def queries(self, corpus: Corpus, held_out: float) -> pipeline.Queries:
        reason = "no salient span within the query length"
        return pipeline.queries(
            corpus, held_out, {reason: pipeline.with_span(corpus, self.lengths.query)}
        )

    def clozes(self, corpus: Corpus, rows, positions, seed: int) -> pipeline.Clozes:
        return pipeline.clozes(corpus, rows, positions, self.mask, self.lengths, seed)

    def choose(self, found: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Neighbours [B,K] and own passages [B] -> candidate rows [B,K]."""
        if not self.own_passage:
            return pipeline.candidates(found, own, self.candidates)
        chosen = pipeline.candidates(found, None, self.candidates)
        absent = ~(chosen == own[:, None]).any(1)
        chosen[absent, -1] = own[absent]  # in place of the worst
        return chosen


Task = InverseCloze | Realm

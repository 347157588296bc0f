"""What a stage of training does: the step it takes, and the queries it asks."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from ralm_jax import grouping, losses, steps
from ralm_jax.data import answering_batches, pipeline
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.masking import Mask, salient_span
from ralm_jax.data.pipeline import Lengths
from ralm_jax.data.questions import lines_of, note_cuts
from ralm_jax.errors import UserError
from ralm_jax.retrieval.refresh import Frozen, Policy

FROZEN = Frozen()
Vectors = Callable[[], np.ndarray]  # the index now served, [N,E], mapped


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
    at_once: int | None = None  # queries a device reads at a time; None: all, on a CPU few

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
            judge=self.needs_scorer,
            hold_retriever=self.hold_retriever,
            hold_encoder=self.hold_encoder,
            at_once=self.at_once or grouping.few(self.candidates * self.lengths.joint),
        )

    @property
    def needs_scorer(self) -> bool:
        """Whether the objective is one of `distillation`, of which the model's scorer is a part."""
        return "log_scorer" in inspect.signature(self.objective).parameters

    @property
    def caution(self) -> str:
        """What is allowed and has gone wrong wherever it was tried; empty: nothing."""
        if self.hold_retriever or self.candidates != 2:
            return ""
        return (
            "candidates is 2, the null passage and one other: the retriever was lost wherever this was"
            " tried (experiments.curves, three almanacs of three); 4 were enough there"
        )

    def queries(self, corpus: Corpus, held_out: float) -> pipeline.Queries:
        reason = "no salient span within the query length"
        return pipeline.queries(
            corpus, held_out, {reason: pipeline.with_span(corpus, self.lengths.query)}
        )

    @property
    def neighbours(self) -> int:
        """How many passages to search for."""
        return self.candidates

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> pipeline.Clozes:
        return pipeline.clozes(corpus, rows, positions, self.mask, self.lengths, seed)

    def batch(self, corpus: Corpus, asked: pipeline.Clozes, found: np.ndarray, vectors: Vectors):
        """Neighbours [B,K] of what was asked -> ClozeBatch."""
        chosen = self.choose(found, asked.passages)
        return pipeline.with_candidates(corpus, asked, chosen, self.lengths)

    def choose(self, found: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Neighbours [B,K] and own passages [B] -> candidate rows [B,K]."""
        if not self.own_passage:
            return pipeline.candidates(found, own, self.candidates)
        chosen = pipeline.candidates(found, None, self.candidates)
        absent = ~(chosen == own[:, None]).any(1)
        chosen[absent, -1] = own[absent]  # in place of the worst
        return chosen


@dataclasses.dataclass(frozen=True, eq=False)
class OpenQuestions:
    """Answer questions from passages: retriever and span reader by distant supervision (ORQA)."""

    lengths: Lengths
    known: answering_batches.Known  # the questions, and where their answers stand
    notes: Mapping[str, int]  # how many the source has beside them, and why
    beam: int = 5000  # R, passages that the retrieval loss is over
    candidates: int = 5  # K, of which are read
    span_width: int = 10  # W
    train_passages: bool = False  # embeds the passages read afresh: the passage tower learns too
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: int = 1
    at_once: int | None = None  # questions that a device reads at a time; see `span_loss`
    widths: tuple[int, ...] = ()
    distil: Callable | None = None  # retriever and scorer on the passages read; see `distillation`

    @property
    def step(self) -> Callable:
        return functools.partial(
            steps.openqa_step,
            at_once=self.at_once or grouping.few(self.candidates * self.lengths.joint),
            widths=self.widths,
            distil=self.distil,
        )

    @property
    def caution(self) -> str:
        """Which questions are not trained on as they stand; empty: all are."""
        pieces = (len(question) for question in self.known.pieces)
        return "; ".join(lines_of(note_cuts(pieces, self.lengths.query)))

    @property
    def neighbours(self) -> int:
        return self.beam

    def queries(self, corpus: Corpus, held_out: float) -> pipeline.Queries:
        """Questions that some passage answers; the others teach nothing."""
        usable = self.known.answerable
        left_out = {**self.notes, "no passage holds an answer": int((~usable).sum())}
        if not usable.any():
            raise UserError(
                f"no passage of {corpus.path} holds an answer to any of the {len(usable):,} questions"
            )
        return pipeline.Queries(np.flatnonzero(usable), left_out)

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> answering_batches.Asked:
        return answering_batches.ask(corpus, self.known, rows, self.lengths)

    def batch(self, corpus: Corpus, asked: answering_batches.Asked, found, vectors: Vectors):
        """Neighbours [B,R] of what was asked -> QuestionBatch."""
        return answering_batches.batch(corpus, self, self.known, asked, found, vectors())


Task = InverseCloze | Realm | OpenQuestions

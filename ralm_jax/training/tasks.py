"""What a stage of training does: the queries it asks, the batches made of them, and the loss."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np

from ralm_jax import settings
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, question_batches, recurring, views
from ralm_jax.examples.masking import Mask, salient_span
from ralm_jax.examples.recurring import Recurring
from ralm_jax.examples.views import View
from ralm_jax.loaders.loader import ClozeLoader, Loader, Source
from ralm_jax.loaders.retrieval_loader import RetrievalLoader, Served
from ralm_jax.losses import marginal, microbatch
from ralm_jax.losses.prior import DENSE, Prior
from ralm_jax.models.base import RetrievalModel
from ralm_jax.questions.question import lines_of, note_cuts
from ralm_jax.retrieval.refresh import Frozen, Policy
from ralm_jax.settings import Count, Share
from ralm_jax.training import steps

FROZEN = Frozen()


class Task(Protocol):
    """What the loop needs to know of a stage."""

    @property
    def lengths(self) -> Lengths: ...

    @property
    def needs_reranker(self) -> bool:
        """Whether the model must have a scorer."""
        ...

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        """What may be asked of a corpus, and why the rest may not. Raises UserError where nothing may."""
        ...

    def loader(self, source: Source) -> Loader: ...

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        """corpus: whose passages are read, so that they are read no wider than they are."""
        ...

    def describe(self, queries: int) -> list[str]:
        """What a person should know before it starts, a line each."""
        ...


@dataclasses.dataclass(frozen=True)
class InverseCloze:
    """Find the passage a sentence was taken from among those of the whole batch (ORQA).

    Attributes:
      keep_share: of the passages that keep the sentence.
      mask: hides part of mask_share of the queries.
    """

    lengths: Lengths
    keep_share: Share = 0.1
    mask: Mask | None = None
    mask_share: Share = 0.0
    needs_reranker = False

    def __post_init__(self):
        settings.check_fields(self)

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        count = np.bincount(corpus.sentences[:, 0], minlength=corpus.size)
        usable = {
            "the only sentence of its passage": count[corpus.sentences[:, 0]] > 1,
            "no salient span within the query length": (
                cloze_batches.with_span(corpus, self.lengths.query)
                if self.mask
                else np.ones(len(corpus.sentences), bool)
            ),
        }
        return cloze_batches.queries(corpus, held_out, usable)

    def loader(self, source: Source) -> Loader:
        return ClozeLoader(source, self.batch)

    def batch(self, corpus: Corpus, rows: np.ndarray, positions: np.ndarray, seed: int):
        """Sentence rows [b] and their positions in the order -> QueryPassages, C = 1."""
        return cloze_batches.inverse_cloze_pairs(
            corpus,
            rows,
            positions,
            self.lengths,
            seed,
            keep_share=self.keep_share,
            mask=self.mask,
            mask_share=self.mask_share,
        )

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        return functools.partial(steps.contrast_loss, model=model)

    def describe(self, queries: int) -> list[str]:
        return [f"{queries:,} sentences to ask"]


@dataclasses.dataclass(frozen=True)
class Realm:
    """Predict masked tokens with retrieved passages; the retriever learns through the reader.

    As reader warm-up: freeze_retriever, own_passage, and an index that stays as it is.

    Attributes:
      candidates: K, the null passage included.
      view: of the query that the retriever sees.
      prior: p(z|x); with a lexical weight, BM25 finds candidates too.
      recurring: masks these spans in place of the salient ones of the corpus.
      freeze_encoder: the reader's: its masked-LM head alone learns.
      own_passage: the query's own passage is a candidate, rather than excluded.
      passages_every: steps from one that embeds its candidates, so that passages learn, to the next; in the
        others they are known by the newest vectors there are, and queries and the reader learn.
      index_threads: cores for ScaNN's process; None: see `choose`.
      microbatch_size: queries a device reads at a time; None: all, on a CPU as few as fit its cache; "auto":
        as None, and on an accelerator as many as its memory holds.
    """

    lengths: Lengths
    mask: Mask = salient_span
    candidates: Count = 8
    objective: marginal.Objective = marginal.marginal_per_token
    view: View = views.masked
    prior: Prior = DENSE
    recurring: Recurring | None = None
    freeze_retriever: bool = False
    freeze_encoder: bool = False
    own_passage: bool = False
    passages_every: Count = 1
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: Count | None = None
    microbatch_size: microbatch.Microbatch = None

    def __post_init__(self):
        settings.check_fields(self)
        if self.own_passage and self.candidates < 2:
            raise UserError(
                f"Realm.candidates is {self.candidates}, and the null passage and the query's own make 2"
            )

    @property
    def needs_reranker(self) -> bool:
        """Whether the objective is one of `distillation`, of which the model's scorer is a part."""
        return "log_scorer" in inspect.signature(self.objective).parameters

    @property
    def lexical_weight(self) -> float:
        return self.prior.lexical_weight

    @property
    def writes_back(self) -> bool:
        """Whether the step gives back the vectors that it made of the candidates."""
        return self.refresh.written > 0 and not self.freeze_retriever

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        return recurring.queries(self.recurring, corpus, held_out, self.lengths.query)

    def loader(self, source: Source) -> Loader:
        if self.recurring is not None:
            source = dataclasses.replace(source, asked=self.recurring(source.asked).corpus)
        return RetrievalLoader(source, self)

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        few = microbatch.few(self.candidates * self.lengths.joint, self.microbatch_size)
        return functools.partial(
            steps.realm_loss,
            model=model,
            prior=self.prior,
            objective=self.objective,
            scorer=self.needs_reranker,
            freeze_retriever=self.freeze_retriever,
            freeze_encoder=self.freeze_encoder,
            microbatch_size=few,
            **(self._no_wider(corpus, few) if corpus is not None else {}),
        )

    def _no_wider(self, corpus: Corpus, queries: int | None) -> dict[str, tuple[int, ...]]:
        """How groups of so many queries, or all of a device, are read no wider than they are."""
        if self.candidates == 1:
            return {}
        needed = cloze_batches.needed(corpus, self.lengths, titles=not self.freeze_retriever)
        return microbatch.no_wider(needed, queries, self.candidates - 1, self.lengths.joint)

    def describe(self, queries: int) -> list[str]:
        said = [f"{queries:,} sentences to ask"]
        if not self.freeze_retriever and self.candidates == 2:
            said.append(
                "caution: with 2 candidates, the null passage and one other, the retriever was lost wherever "
                "this was tried (experiments.curves, three almanacs of three); 4 were enough there"
            )
        return said

    @property
    def neighbours(self) -> int:
        """How many passages to search for."""
        return self.candidates

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> cloze_batches.Clozes:
        return cloze_batches.clozes(
            corpus, rows, positions, self.mask, self.lengths, seed, self.view
        )

    def batch(self, corpus: Corpus, asked: cloze_batches.Clozes, found: np.ndarray, served: Served):
        """Neighbours [B,K] of what was asked -> ClozeBatch."""
        choose = cloze_batches.candidates_with_own if self.own_passage else cloze_batches.candidates
        chosen = choose(found, asked.passages, self.candidates)
        lexical = None
        if served.mix is not None:
            own = None if self.own_passage else asked.passages
            lexical = served.mix.lexical.of(asked.query.tokens, chosen, own)
        batch = cloze_batches.with_candidates(corpus, asked, chosen, self.lengths, lexical)
        if self.freeze_retriever or served.step % self.passages_every:
            # Nothing is embedded that is known already.
            return batch._replace(vectors=served.vectors()[np.maximum(chosen, 0)])
        return batch._replace(rows=chosen) if self.writes_back else batch


@dataclasses.dataclass(frozen=True, eq=False)
class OpenQuestions:
    """Answer questions from passages: retriever and span reader by distant supervision (ORQA).

    Attributes:
      annotated: the questions, and what tells where their answers stand.
      notes: how many the source has beside them, and why.
      beam: R, passages that the retrieval loss is over.
      candidates: K, of which are read.
      span_width: W.
      train_passages: embeds the passages read afresh: the passage tower learns too.
      microbatch_size: questions that a device reads at a time; see `losses.spans`.
      distil: retriever and scorer on the passages read; see `distillation`.
    """

    lengths: Lengths
    annotated: question_batches.AnnotatedQuestions
    notes: Mapping[str, int]
    beam: Count = 5000
    candidates: Count = 5
    span_width: Count = 10
    train_passages: bool = False
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: Count | None = None
    microbatch_size: microbatch.Microbatch = None
    widths: tuple[int, ...] = ()
    distil: Callable | None = None

    @property
    def needs_reranker(self) -> bool:
        return self.distil is not None

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        """Questions that some passage answers; the others teach nothing."""
        usable = self.annotated.answerable
        left_out = {**self.notes, "no passage has an answer": int((~usable).sum())}
        if not usable.any():
            raise UserError(
                f"no passage of {corpus.path} has an answer to any of the {len(usable):,} questions"
            )
        return cloze_batches.Queries(np.flatnonzero(usable), left_out)

    def loader(self, source: Source) -> Loader:
        return RetrievalLoader(source, self)

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        few = microbatch.few(self.candidates * self.lengths.joint, self.microbatch_size)
        return functools.partial(
            steps.qa_loss,
            model=model,
            microbatch_size=few,
            widths=self.widths,
            distil=self.distil,
        )

    def describe(self, queries: int) -> list[str]:
        pieces = (len(question) for question in self.annotated.pieces)
        return [f"{queries:,} questions to ask", *lines_of(note_cuts(pieces, self.lengths.query))]

    @property
    def neighbours(self) -> int:
        return self.beam

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> question_batches.Asked:
        return question_batches.ask(corpus, self.annotated, rows, self.lengths)

    def batch(self, corpus: Corpus, asked: question_batches.Asked, found, served: Served):
        """Neighbours [B,R] of what was asked -> QuestionBatch."""
        return question_batches.batch(corpus, self, self.annotated, asked, found, served.vectors())

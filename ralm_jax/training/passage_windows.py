"""The task of telling the passage that a window was taken from: no labels, and no reader."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from ralm_jax import settings
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, windows
from ralm_jax.models.base import RetrievalModel
from ralm_jax.retrieval.refresh import Frozen, Policy
from ralm_jax.settings import Count, CountOrZero, Rate, Share
from ralm_jax.training import steps
from ralm_jax.training.loader import Loader, RetrievalLoader, Source, Vectors

FROZEN = Frozen()


@dataclasses.dataclass(frozen=True)
class PassageWindows:
    """Find the passage a window was taken from among those of the batch and hard negatives.

    Attributes:
      shortest, longest: wordpieces of a window.
      part: wordpieces of a passage that are read at most, special tokens included: a part that has the
        window stands for a longer passage; None for as many as the index reads. Half the length takes less
        than half the time.
      kept: share of the windows that stay in their passage; a lexical match finds these.
      negatives: passages a query, drawn from the first `neighbours` of the mixed search.
      lexical_weight: of BM25 in that search; see `lexical.mix`.
      labelled: questions to learn from beside windows; given by `pretrain`.
    """

    lengths: Lengths
    shortest: Count = 8
    longest: Count = 20
    part: Count | None = None
    kept: Share = 1.0
    negatives: CountOrZero = 1
    neighbours: Count = 20
    lexical_weight: Rate = 15.0
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: Count = 1
    labelled: windows.Labelled | None = None
    needs_reranker = False

    def __post_init__(self):
        settings.check_fields(self)
        if not self.shortest <= self.longest <= self.lengths.query - 2:
            raise UserError(
                f"PassageWindows: windows of {self.shortest} to {self.longest} wordpieces do not fit a query "
                f"length of {self.lengths.query}, of which 2 are special"
            )
        if self.part is not None and self.part < self.longest + 3:
            raise UserError(
                f"PassageWindows: a part of {self.part} wordpieces cannot hold a window of {self.longest} "
                "and 3 special ones: raise `part`"
            )

    def queries(self, corpus: Corpus, held_out: float) -> cloze_batches.Queries:
        return windows.queries(corpus, held_out, self.shortest)

    def loader(self, source: Source) -> Loader:
        return RetrievalLoader(source, self)

    def loss(self, model: RetrievalModel) -> steps.Loss:
        # A few hundred steps from a released encoder have nothing to overfit by, and masks cost a third.
        return functools.partial(steps.contrast_loss, model=model, dropout=False)

    def describe(self, queries: int) -> list[str]:
        lines = [f"{queries:,} passages to take windows of"]
        if self.labelled is not None:
            lines.append(f"{len(self.labelled.pieces):,} questions to learn from beside them")
        return lines

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> windows.Windows:
        sizes = {"shortest": self.shortest, "longest": self.longest}
        asked = windows.windows(corpus, rows, positions, self.lengths, seed, **sizes)
        if self.labelled is None:
            return asked
        return windows.with_questions(corpus, asked, self.labelled, self.lengths, seed)

    def batch(self, corpus: Corpus, asked: windows.Windows, found: np.ndarray, vectors: Vectors):
        """Neighbours [B,K] of what was asked -> QueryPassages, C = 1 + negatives."""
        length = min(self.part or self.lengths.passage, self.lengths.passage)
        drawn = {"negatives": self.negatives, "kept": self.kept}
        return windows.with_negatives(corpus, asked, found, length, **drawn)

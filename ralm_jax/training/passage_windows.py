"""The task of telling the passage that a window was taken from: no labels, and no reader."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from ralm_jax import partition, settings
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, windows
from ralm_jax.loaders.loader import Loader, Source
from ralm_jax.loaders.retrieval_loader import RetrievalLoader, Served
from ralm_jax.models.base import RetrievalModel
from ralm_jax.retrieval.refresh import Frozen, Policy
from ralm_jax.settings import Count, CountOrZero, Rate, Share
from ralm_jax.training import steps

FROZEN = Frozen()
# The score of a passage that a teacher gives no probability, and that counts all the same.
WRONG = np.float32(-1e4)


@dataclasses.dataclass(frozen=True)
class PassageWindows:
    """Find the passage a window was taken from among those of the batch and hard negatives.

    Attributes:
      shortest, longest: wordpieces of a window.
      part: wordpieces of a passage that are read at most, special tokens included: a part that has the
        window stands for a longer passage; None for as many as the index reads. Half the length takes less
        than half the time.
      titles: share of the queries that are the title of their passage in place of a window, where it has one
        of its own. It takes `teaches`: the passage, which is read with its title, would be too easy to tell.
      kept: share of the windows that stay in their passage; a lexical match finds these.
      negatives: passages a query, drawn from the first `neighbours` of the mixed search.
      lexical_weight: of BM25 in that search; see `lexical.mix`.
      teaches: whether the start teaches how it ranks other passages with BM25, rather than which passage a
        window was taken from; the passage itself is left out.
      teacher_weight: of BM25 beside its dense score.
      train_passages: False: passages are known by their vectors, which stay; the query tower learns alone,
        of as many passages as one likes. It takes `optim.towers`.
      labelled: questions to learn from beside windows; given by `pretrain`.
    """

    lengths: Lengths
    shortest: Count = 8
    longest: Count = 20
    part: Count | None = None
    titles: Share = 0.0
    kept: Share = 1.0
    negatives: CountOrZero = 1
    neighbours: Count = 20
    lexical_weight: Rate = 15.0
    refresh: Policy = FROZEN
    index: Literal["auto", "exact", "scann"] = "auto"
    index_threads: Count | None = None
    teaches: bool = False
    teacher_weight: Rate = 5.0
    train_passages: bool = True
    labelled: windows.Labelled | None = None
    needs_reranker = False

    def __post_init__(self):
        settings.check_fields(self)
        if not self.shortest <= self.longest <= self.lengths.query - 2:
            raise UserError(
                f"PassageWindows: windows of {self.shortest} to {self.longest} wordpieces do not fit a query "
                f"length of {self.lengths.query}, of which 2 are special"
            )
        if self.teaches and not self.lexical_weight:
            raise UserError(
                "PassageWindows: a teacher without BM25 is the student as it begins: raise `lexical_weight` "
                "above 0, or set `teaches` to False"
            )
        if self.titles and not self.teaches:
            raise UserError(
                "PassageWindows: a passage is read with its title, by which it would be found at once: set "
                "`titles` to 0, or `teaches` to True, which leaves a query's own passage out"
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

    def loss(self, model: RetrievalModel, corpus: Corpus | None = None) -> steps.Loss:
        # A few hundred steps from a released encoder have nothing to overfit by, and masks cost a third.
        return functools.partial(steps.contrast_loss, model=model, dropout=False)

    def describe(self, queries: int) -> list[str]:
        lines = [f"{queries:,} passages to take windows of"]
        if self.labelled is not None:
            lines.append(f"{len(self.labelled.pieces):,} questions to learn from beside them")
        return lines

    def ask(self, corpus: Corpus, rows, positions, seed: int) -> windows.Windows:
        sizes = {"shortest": self.shortest, "longest": self.longest, "titles": self.titles}
        asked = windows.windows(corpus, rows, positions, self.lengths, seed, **sizes)
        if self.labelled is None:
            return asked
        return windows.with_questions(corpus, asked, self.labelled, self.lengths, seed)

    def batch(self, corpus: Corpus, asked: windows.Windows, found: np.ndarray, served: Served):
        """Neighbours [B,K] of what was asked -> QueryPassages, C = 1 + negatives."""
        length = min(self.part or self.lengths.passage, self.lengths.passage)
        if self.teaches:
            batch = windows.with_others(corpus, asked, found, length, self.negatives + 1)
            batch = batch._replace(teacher=self._teacher(asked, batch.rows, served))
        else:
            drawn = {"negatives": self.negatives, "kept": self.kept}
            batch = windows.with_negatives(corpus, asked, found, length, **drawn)
        if self.train_passages:
            return batch
        return batch._replace(passages=None, vectors=served.vectors()[batch.rows])

    def _teacher(self, asked: windows.Windows, own: np.ndarray, served: Served) -> np.ndarray:
        """Scores of the passages of all processes, by their rows [B,C] here: float32 [B,global B*C]."""
        assert served.mix is not None
        rows = partition.gather_rows(own).reshape(-1)  # [global B*C]
        queries = np.asarray(served.queries)[partition.local_rows(len(served.queries))]
        dense = served.mix.scale * (queries @ served.vectors()[rows].T)  # [B,global B*C]
        out = windows.left_out(asked, rows)
        lexical = [served.mix.lexical.scores(tokens)[rows] for tokens in asked.query.tokens]
        scores = taught(dense, np.stack(lexical), out, self.teacher_weight)
        # Of a labelled question its own passage is right, and no other.
        right = np.where(rows == asked.passages[:, None], np.float32(0), WRONG)
        return np.where(asked.questions[:, None] & ~out, right, scores)


def taught(dense: np.ndarray, lexical: np.ndarray, out: np.ndarray, weight: float) -> np.ndarray:
    """Scores of a teacher over the passages of a batch, float32 [B,n]: dense + weight * BM25.

    BM25 is divided by the best that is not left out, as it is for a question, of which no passage is a copy.

    Args:
      dense, lexical: [B,n].
      out: bool [B,n], passages that a query was taken from or knows to be relevant; they teach nothing.
    """
    lexical = np.where(out, 0.0, lexical)
    best = np.maximum(lexical.max(1, keepdims=True), 1e-9)
    scores = dense + weight * lexical / best
    return np.where(out, np.finfo(np.float32).min / 2, scores).astype(np.float32)

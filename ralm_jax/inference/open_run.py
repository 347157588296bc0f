"""A run once opened: its model as it was left, its corpus, the vectors of its passages, and its answers.

Opening a run changes nothing in its folder, so a run may be opened while another process trains it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import Corpus, open_corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import features
from ralm_jax.inference import answering, vector_cache
from ralm_jax.inference.answering import Answered
from ralm_jax.inference.embedding import Ranking, embed_corpus, embed_texts, exact_over, search_with
from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.lexical.mix import DEPTH, Mix
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.exact import Exact
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import newest
from ralm_jax.terminal import watched

# Questions whose passages are searched for by both scores between two movements of the bar.
MIXED = 64


@dataclasses.dataclass(frozen=True, eq=False)
class OpenRun:
    """A model with what it retrieves from. The corpus and its vectors are opened when first asked for.

    Attributes:
      model, params: {"retriever": ..., "reader": ...} of float32 arrays, on the first local device.
      lengths: those that inputs are cut to.
      path: folder of the run; None for a model that is in memory only.
      stage, step: of the checkpoint that the parameters come from.
      rerank: its scorer answered more of the development questions than its retriever, and so puts
        passages in order before they are read.
      held_out: share of the facts that training never asked about.
      source: the corpus, or its folder.
      embedded: vectors [N,E] of the passages, where they are known already.
      lexical_weight: of BM25 beside the dense score in what `search` ranks by; 0 is dense alone.
    """

    model: Ralm | OpenQA
    params: dict
    lengths: Lengths
    path: Path | None = None
    stage: str = ""
    step: int = 0
    rerank: bool = False
    held_out: float = 0.0
    source: Corpus | Path | None = None
    embedded: np.ndarray | None = None
    lexical_weight: float = 0.0

    @classmethod
    def open(
        cls, run: str | Path, corpus: str | Path | None = None, *, stage: str | None = None
    ) -> OpenRun:
        """The parameters that were selected, where development questions selected any, else the newest.

        Args:
          run: the folder of a run.
          corpus: stands in for the run's own; it must have been prepared with the run's vocabulary.
          stage: whose newest checkpoint to take instead.

        Raises:
          UserError: no run, no such stage, no checkpoint yet. Later, when the corpus is first used:
            there is none, or it was tokenized with a different vocabulary.
        """
        path, record = Path(run), directory.read_record(Path(run))
        stages = [*record["stages"], directory.BEST]
        if stage is not None and stage not in stages:
            raise UserError(f"{path} has no stage {stage!r}; it has {', '.join(stages[:-1])}")
        for name in [stage] if stage else reversed(stages):
            found = newest(directory.checkpoint_folder(path, name))
            if found is not None:
                step, tree = found
                return cls(
                    directory.load_model(path),
                    jax.tree.map(jnp.asarray, tree["state"]["params"]),
                    Lengths(**record["lengths"]),
                    path,
                    name,
                    step,
                    bool(tree.get(directory.RERANK)),
                    record["held_out"],
                    None if corpus is None else Path(corpus),
                    lexical_weight=float(tree.get(directory.LEXICAL_WEIGHT, 0.0)),
                )
        raise UserError(f"{path} has no checkpoint yet; let its training run on")

    def current(self) -> OpenRun:
        """This run over the newest version of its corpus: itself, unless the corpus has been updated."""
        if self.embedded is not None or isinstance(self.source, Corpus) or self.corpus.is_current:
            return self
        return dataclasses.replace(self, source=self.corpus.path)

    @property
    def folder(self) -> Path:
        """The folder of a run that was opened from disk."""
        assert self.path is not None, "a model in memory has no folder"
        return self.path

    @property
    def answers(self) -> bool:
        """Whether it answers questions, rather than fills masks."""
        return isinstance(self.model, OpenQA)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The corpus given, else the run's own. Raises UserError as `open` says."""
        if isinstance(self.source, Corpus):
            return self.source
        opened = open_corpus(self.source or directory.own_corpus(self.folder))
        directory.check_vocabulary(self.folder, opened)
        return opened

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """Of all passages, float32 [N,E]: taken from where they are kept already, else embedded and kept."""
        if self.embedded is not None:
            return self.embedded
        if self.path is None:
            return embed_corpus(self.model, self.params, self.corpus, self.lengths)
        return vector_cache.corpus_vectors(
            [self.path], self.model, self.params, self.corpus, self.lengths
        )

    @functools.cached_property
    def searcher(self) -> Exact:
        """Exact search over all passages."""
        return exact_over(self.vectors)

    @functools.cached_property
    def lexical(self) -> LexicalIndex:
        """BM25 over the wordpieces of all passages."""
        return LexicalIndex.open(self.corpus)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return self.corpus.tokenizer()

    @functools.cached_property
    def texts(self) -> Any:
        """Random access to the id, documents, title and text of each passage, as bytes."""
        return self.corpus.texts()

    def encode(self, questions: Sequence[str]) -> Text:
        """Questions -> `[CLS] question [SEP]` [n,L]."""
        encoded = self.tokenizer.encode_batch(list(questions), add_special_tokens=False)
        pieces = [np.array(e.ids, np.int32) for e in encoded]
        return features.query_text(self.corpus, pieces, self.lengths.query)

    def cut(self, question: str) -> bool:
        """Whether a question is longer than the run reads."""
        pieces = self.tokenizer.encode(question, add_special_tokens=False).ids
        return len(pieces) > self.lengths.query - 2

    def search(
        self, questions: Sequence[str] | Text, k: int, *, lexical_weight: float | None = None
    ) -> Ranking:
        """The k best passages for each question, [n,k]; fewer where the corpus has fewer.

        p(z|x) is the softmax of the scores times `model.score_scale`, those with a lexical part included.

        lexical_weight: of BM25; None for the run's own, 0 for dense search alone.
        """
        text = questions if isinstance(questions, Text) else self.encode(questions)
        queries = embed_texts(self.model, self.params, text)
        return self.nearest(text, queries, k, lexical_weight=lexical_weight)

    def nearest(
        self, text: Text, queries: np.ndarray, k: int, *, lexical_weight: float | None = None
    ) -> Ranking:
        """As `search`, of questions [n,L] that have been embedded, float32 [n,E]."""
        weight = self.lexical_weight if lexical_weight is None else lexical_weight
        k = min(k, self.corpus.size)
        if not weight:
            return search_with(self.searcher, queries, k)
        dense = search_with(self.searcher, queries, min(max(k, DEPTH), self.corpus.size))
        mix = Mix(self.lexical, self.model.score_scale, weight)
        groups = [slice(i, i + MIXED) for i in range(0, max(1, len(queries)), MIXED)]
        found = [
            mix((dense.rows[g], dense.scores[g]), queries[g], self.vectors, text.tokens[g], k)
            for g in watched(groups, "searching", len(groups), f" x {MIXED} questions")
        ]
        rows, scores = zip(*found, strict=True)
        return Ranking(np.concatenate(rows), np.concatenate(scores) / self.model.score_scale)

    def answer(
        self, questions: Sequence[str], *, beam: int = 100, candidates: int = 5
    ) -> list[Answered]:
        """Answers questions: `beam` passages ranked, the first `candidates` of them read.

        Raises UserError where the run does not answer questions.
        """
        self.check_answers()
        asked = self.encode(questions)
        ranked = self.search(asked, beam)
        if self.rerank:
            ranked = answering.reranked(self, asked, ranked)
        return answering.read(self, asked, [ranked], candidates)[0]

    def check_answers(self) -> None:
        """Raises UserError where the run does not answer questions."""
        if not self.answers:
            raise UserError(
                f"the run {self.path} was not fine-tuned: ralm finetune --run {self.path} ... makes one "
                "that answers"
            )


def open_run(
    run: str | Path, corpus: str | Path | None = None, *, stage: str | None = None
) -> OpenRun:
    """The function of `OpenRun.open`, under the name that the package offers."""
    return OpenRun.open(run, corpus, stage=stage)

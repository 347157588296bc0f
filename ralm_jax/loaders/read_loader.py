"""Clozes that a frozen reader has read once: no search and no reading while the retriever learns.

Their candidates are those of the retriever that the stage begins with, and of BM25. What was found and read
is part of every checkpoint, for the retriever has moved on by then.
"""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, features
from ralm_jax.inference import vector_cache
from ralm_jax.inference.embedding import embed_texts, exact_over, search_with
from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.lexical.mix import DEPTH, Mix
from ralm_jax.loaders.loader import Params, Source
from ralm_jax.loaders.same_passages import same_passages
from ralm_jax.retrieval.searcher import Published


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Clozes with candidate rows int32 [n,K] and likelihood float32 [n,K,M]; BM25, if the prior has it.

    vectors: of the candidates, float32 [n,K,E], where the passage tower stays.
    """

    asked: cloze_batches.Clozes
    rows: np.ndarray
    likelihood: np.ndarray
    lexical: LexicalIndex | None
    vectors: np.ndarray


class Reads(Protocol):
    """What of a task this loader needs; see `training.read_clozes`."""

    @property
    def lengths(self) -> Lengths: ...
    @property
    def clozes(self) -> int: ...
    @property
    def candidates(self) -> int: ...
    @property
    def lexical_weight(self) -> float: ...
    @property
    def cached(self) -> bool: ...
    @property
    def train_passages(self) -> bool: ...

    def judged(
        self, model, params: Params, corpus: Corpus, asked: cloze_batches.Clozes, found
    ) -> np.ndarray: ...
    def ask(self, corpus: Corpus, rows, positions, seed: int) -> cloze_batches.Clozes: ...
    def batch(
        self, corpus: Corpus, pool: Pool, drawn: np.ndarray, positions: np.ndarray
    ) -> Any: ...


class ReadLoader:
    """A pool of clozes, read as the stage begins and asked over and over."""

    def __init__(self, source: Source, task: Reads):
        """Raises UserError in several processes."""
        if jax.process_count() > 1:
            raise UserError(
                f"clozes are read in one process, and this is one of {jax.process_count()}: train this "
                "stage in one"
            )
        self._source, self._task = source, task
        self._lexical = LexicalIndex.open(source.corpus) if task.lexical_weight else None
        rows, positions = cloze_batches.draw(source.rows, source.seed, 0, task.clozes)
        asked = task.ask(source.asked, rows, positions, source.seed)
        if source.asked.fingerprint != source.corpus.fingerprint:
            own = same_passages(source.asked, source.corpus)[asked.passages]
            asked = dataclasses.replace(asked, passages=own)
        self._asked = asked
        self._rows = np.full((task.clozes, task.candidates), -2, np.int32)
        self._likelihood = np.zeros((*self._rows.shape, task.lengths.masked), np.float32)
        width = 0 if task.train_passages else source.model.embedding
        self._vectors = np.zeros((*self._rows.shape, width), np.float32)

    def start(self, params: Params) -> Published | None:
        source, task = self._source, self._task
        model, corpus, lengths = source.model, source.corpus, task.lengths
        vectors = vector_cache.corpus_vectors(source.runs, model, params, corpus, lengths)
        queries = embed_texts(model, params, self._asked.query)
        k = min(task.candidates, corpus.size)
        found = search_with(exact_over(vectors), queries, min(max(k, DEPTH), corpus.size)).rows
        if self._lexical is not None:
            mix = Mix(self._lexical, model.score_scale, task.lexical_weight)
            given = (queries, vectors, self._asked.query.tokens, k, self._asked.passages)
            found = mix((found, found), *given)[0]
        self._rows = cloze_batches.candidates(found, self._asked.passages, task.candidates)
        if not task.train_passages:
            null = features.passage_text(corpus, np.array([features.NULL]), lengths.passage)
            known = embed_texts(model, params, null, "passages")[0]
            found = vectors[np.maximum(self._rows, 0)]
            self._vectors = np.where((self._rows == features.NULL)[..., None], known, found)
        if task.cached:
            given = (model, params, corpus, self._asked, self._rows)
            self._likelihood = np.asarray(task.judged(*given), np.float32)
        return None

    def prefetch(self, params: Params, step: int) -> Published | None:
        return None

    def retrieve(self) -> None:
        return None

    def pool(self) -> Pool:
        return Pool(self._asked, self._rows, self._likelihood, self._lexical, self._vectors)

    def batch(self, step: int) -> Any:
        drawn = np.arange(len(self._rows))
        drawn, positions = cloze_batches.draw(drawn, self._source.seed, step, self._source.batch)
        return self._task.batch(self._source.corpus, self.pool(), drawn, positions)

    def staleness(self) -> dict[str, float]:
        return {}

    def write_back(self, step: int, rows: Any, vectors: Any) -> None:
        return None

    def get_state(self, params: Params) -> dict:
        kept = {"found": self._rows, "likelihood": self._likelihood}
        return kept if self._task.train_passages else {**kept, "vectors": self._vectors}

    def set_state(self, state: dict, step: int) -> None:
        self._rows = np.asarray(state["found"])
        self._likelihood = np.asarray(state["likelihood"])
        if not self._task.train_passages:
            self._vectors = np.asarray(state["vectors"])

    def checkpointed(self) -> None:
        return None

    def close(self) -> None:
        return None

"""Where the batches of a task come from, and for retrieval the index they are found in.

A batch is a pure function of (seed, step) and, for REALM, of the index. The queries of the next batch are
embedded with the parameters at hand *before* the present step is queued, so that they are searched on
the host while the device trains. Their candidates are thus chosen by parameters one step old; p(z|x)
itself is always computed afresh in the step.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import kept_vectors, partition
from ralm_jax.data import pipeline
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.same_passages import same_passages
from ralm_jax.embedding import chunk_rows, embed_passages, embed_queries
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.retrieval.choose import choose
from ralm_jax.retrieval.mips import Found, Published
from ralm_jax.retrieval.refresh import Refresher
from ralm_jax.tasks import InverseCloze, OpenQuestions, Realm

Params = Any  # {"retriever": ..., "reader": ...}, nested mappings of arrays


class Supply(Protocol):
    """Call `start` or `restore`, then for each step: `batch(step)`, `ahead(params, step + 1)`."""

    def start(self, params: Params) -> Published | None:
        """Makes ready for step 0."""
        ...

    def ahead(self, params: Params, step: int) -> Published | None:
        """Queues the device work that batch `step` needs, and this step's share of refreshing."""
        ...

    def retrieve(self) -> None:
        """Waits for what was searched; apart from `batch` so that it can be timed."""
        ...

    def batch(self, step: int) -> Any:
        """This process's rows of the batch, [b, ...]."""
        ...

    def saved(self, params: Params) -> dict:
        """What a checkpoint must hold for the run to go on exactly; always of the same shapes."""
        ...

    def restore(self, saved: dict, step: int) -> None:
        """As after `ahead(..., step)` in the run that `saved` comes from."""
        ...

    def checkpointed(self) -> None:
        """A checkpoint has been made that relies on the index as it is."""
        ...

    def staleness(self, step: int) -> int | None:
        """Steps between the parameters that made the index and `step`, for the index in which the queries
        of batch `step` were searched; None without one. Asked for the last two batches at most."""
        ...

    def close(self) -> None: ...


class ClozeSupply:
    """Pairs for inverse cloze: nothing is retrieved, nothing need be kept."""

    def __init__(self, task: InverseCloze, corpus: Corpus, rows: np.ndarray, seed: int, batch: int):
        self._task, self._corpus, self._rows = task, corpus, rows
        self._seed, self._batch = seed, batch

    def start(self, params: Params) -> None:
        return None

    def ahead(self, params: Params, step: int) -> None:
        return None

    def retrieve(self) -> None:
        return None

    def batch(self, step: int):
        rows, positions = pipeline.draw(self._rows, self._seed, step, self._batch)
        mine = partition.local_rows(self._batch)
        return self._task.batch(self._corpus, rows[mine], positions[mine], self._seed)

    def saved(self, params: Params) -> dict:
        return {}

    def restore(self, saved: dict, step: int) -> None:
        return None

    def checkpointed(self) -> None:
        return None

    def staleness(self, step: int) -> None:
        return None

    def close(self) -> None:
        return None


class RetrievalSupply:
    """Queries with passages from an index that is refreshed as the task says."""

    def __init__(
        self,
        task: Realm | OpenQuestions,
        corpus: Corpus,
        model: Ralm | OpenQA,
        rows: np.ndarray,
        *,
        seed: int,
        batch: int,
        index_root: Path,
        asked: Corpus | None = None,
        known: Sequence[Path] = (),
    ):
        """`rows` are of `asked`, where that is another corpus than the one retrieved from; `known`: folders
        where the vectors of the first index may lie already."""
        self._task, self._corpus, self._model, self._rows = task, corpus, model, rows
        self._seed, self._batch = seed, batch
        self._searcher = choose(
            corpus.size, task.index, k=task.neighbours, threads=task.index_threads
        )
        self._refresher = Refresher(
            task.refresh,
            functools.partial(embed_passages, model, corpus, task.lengths.passage),
            self._searcher,
            index_root,
            shape=(corpus.size, model.embedding),
            fingerprint=corpus.fingerprint,
            chunk=chunk_rows(model, task.lengths.passage),
            keep=lambda: frozenset(self._needed),
        )
        # Versions that the checkpoints on disk rely on: two are kept while a third is written.
        self._needed: collections.deque[int] = collections.deque(maxlen=3)
        self._asked: Any = None  # what the task's `ask` gave; its `query` is embedded
        self._drawn: tuple[int, Any] | None = None  # for the step after next
        self._search: Callable[[], Found] | None = None
        self._root, self._known = index_root, known
        self._asked_corpus = asked or corpus
        other = self._asked_corpus is not corpus
        self._own_rows = same_passages(self._asked_corpus, corpus) if other else None
        self._version: index.Version | None = None
        # The step whose parameters made the index, for each of the latest batches.
        self._made_at: dict[int, int] = {}
        self._found = np.full((batch, task.neighbours), -1, np.int32)

    def start(self, params: Params) -> Published:
        published = self._refresher.start(params["retriever"], *self._first_index(params))
        self._ask(params, 0)
        return published

    def _first_index(self, params: Params) -> tuple[np.ndarray | None, str]:
        """Vectors [N,E] that the same tower made before, where all processes have them; its name."""
        maker = kept_vectors.maker(
            self._model, params["retriever"], self._corpus, self._task.lengths.passage
        )
        version = index.made_by(self._known, maker, self._corpus.fingerprint)
        lacking = partition.any_process(version is None)  # to embed takes all of them
        return None if lacking or version is None else version.vectors, maker

    def ahead(self, params: Params, step: int) -> Published | None:
        due = self._task.refresh.snapshot_due(step - 1)
        # A copy: the step that is queued next takes the parameters' own buffers.
        snapshot = jax.tree.map(jnp.copy, params["retriever"]) if due else None
        published = self._refresher.advance(snapshot, step - 1)
        self._ask(params, step)
        return published

    def _ask(self, params: Params, step: int) -> None:
        # Drawn while the device trained: what is done here, it waits for.
        drawn = self._drawn if self._drawn and self._drawn[0] == step else None
        self._asked = drawn[1] if drawn else self._draw(step)
        vectors = embed_queries(self._model, params["retriever"], self._asked.query)
        self._serves(step)
        self._search = self._searcher.search(vectors, self._task.neighbours)

    def _serves(self, step: int) -> None:
        """Notes which index answers the queries of a step: the next may be published before its metrics."""
        self._made_at = {**self._made_at, step: self._searcher.step}
        self._made_at.pop(step - 3, None)

    def _draw(self, step: int) -> Any:
        rows, positions = pipeline.draw(self._rows, self._seed, step, self._batch)
        mine = partition.local_rows(self._batch)
        drawn = self._task.ask(self._asked_corpus, rows[mine], positions[mine], self._seed)
        if isinstance(drawn, pipeline.Clozes) and self._own_rows is not None:
            # From rows of the corpus that is asked to rows of the one that is searched.
            drawn = dataclasses.replace(drawn, passages=self._own_rows[drawn.passages])
        return drawn

    def _vectors(self) -> np.ndarray:
        """Of the version now served."""
        step = self._searcher.step
        if self._version is None or self._version.step != step:
            # Written by this process, or verified when the run was resumed.
            self._version = index.open_version(
                self._root, step, self._corpus.fingerprint, verify=False
            )
        return self._version.vectors

    def retrieve(self) -> None:
        """Neighbours of the queries last asked, of all processes: int32 [B,K]."""
        if self._search is not None:
            self._found, self._search = self._search()[0], None

    def batch(self, step: int):
        self.retrieve()
        assert self._asked is not None, "ahead or restore comes first"
        mine = self._found[partition.local_rows(self._batch)]
        batch = self._task.batch(self._corpus, self._asked, mine, self._vectors)
        self._drawn = step + 1, self._draw(step + 1)
        return batch

    def saved(self, params: Params) -> dict:
        self.retrieve()
        flying = self._refresher.in_flight
        snapshot = self._refresher.snapshot if flying is not None else params["retriever"]
        return {
            "found": self._found,
            "snapshot": snapshot,
            "snapshot_step": np.array([-1 if flying is None else flying], np.int32),
        }

    def restore(self, saved: dict, step: int) -> None:
        flying = int(saved["snapshot_step"][0])
        snapshot = saved["snapshot"] if flying >= 0 else None
        self._refresher.resume(snapshot, flying if flying >= 0 else None, step)
        self._asked, self._search = self._draw(step), None
        self._serves(step)
        self._found = np.asarray(saved["found"])
        self.checkpointed()

    def checkpointed(self) -> None:
        self._needed.append(self._searcher.step)

    def staleness(self, step: int) -> int:
        return step - self._made_at[step]

    def close(self) -> None:
        self._refresher.close()
        self._searcher.close()

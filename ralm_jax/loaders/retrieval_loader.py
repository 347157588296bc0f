"""Batches of queries with passages from an index, which stays as fresh as the task says.

The queries of the next batch are embedded with the parameters at hand *before* the present step is queued,
so that they are searched on the host while the device trains. Their candidates are thus chosen by
parameters one step old; p(z|x) itself is always computed afresh in the step.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import partition
from ralm_jax.arrays import require_whole
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.hosts.share import Share
from ralm_jax.hosts.watch import reached
from ralm_jax.inference import embedding, vector_cache
from ralm_jax.inference.embedding import embed_passages, embed_queries
from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.lexical.mix import DEPTH, Mix, Rows
from ralm_jax.loaders.loader import Params, Source, drawn_rows
from ralm_jax.loaders.refresher import Refresher
from ralm_jax.loaders.same_passages import same_passages
from ralm_jax.loaders.snapshots import Handing, Passages
from ralm_jax.loaders.written import Newest, Written
from ralm_jax.retrieval.choose import EXACT_BELOW, choose, given
from ralm_jax.retrieval.refresh import Frozen, Policy
from ralm_jax.retrieval.searcher import Found, Published


class Served(NamedTuple):
    """What the batch of a step was found with: the newest vectors there are [N,E], indexed by rows; the
    queries' own [global B,E]; BM25, if mixed."""

    step: int
    vectors: Callable[[], Rows]
    queries: Any
    mix: Mix | None


class Retrieving(Protocol):
    """What of a task retrieval needs; see `tasks.Realm` and `tasks.OpenQuestions`."""

    @property
    def lengths(self) -> Lengths: ...
    @property
    def neighbours(self) -> int: ...
    @property
    def refresh(self) -> Policy: ...
    @property
    def index(self) -> Literal["auto", "exact", "scann"]: ...
    @property
    def index_threads(self) -> int | None: ...

    def ask(self, corpus: Corpus, rows: np.ndarray, positions: np.ndarray, seed: int) -> Any: ...
    def batch(self, corpus: Corpus, asked: Any, found: np.ndarray, served: Served) -> Any: ...


class RetrievalLoader:
    """Queries with passages from an index that is refreshed as the task says."""

    def __init__(self, source: Source, task: Retrieving):
        self._source, self._task = source, task
        corpus, length = source.corpus, task.lengths.passage
        weight, k = getattr(task, "lexical_weight", 0.0), task.neighbours
        self._mix = (
            Mix(LexicalIndex.open(corpus), source.model.score_scale, weight) if weight else None
        )
        k = min(k * task.refresh.over, max(k, corpus.size))
        self._neighbours = min(max(k, DEPTH), corpus.size) if self._mix else k
        shape = corpus.size, source.model.embedding
        chunk = embedding.own_chunk_rows(source.model, length)
        self._share = Share.of(source.index_root, shape, corpus.fingerprint, chunk)
        if given(task.index) != task.index and corpus.size >= EXACT_BELOW:
            source.say("ScaNN is not installed: the search is exact, of every passage each time")
        own = choose(
            corpus.size,
            task.index,
            width=source.model.embedding,
            k=self._neighbours,
            threads=task.index_threads,
            tables=1 if isinstance(task.refresh, Frozen) else 2,
            held=len(self._share.rows),
        )
        self._searcher = self._share.searcher(own)
        self._refresher = Refresher(
            task.refresh,
            functools.partial(embed_passages, source.model, corpus, length),
            self._searcher,
            self._share.folder,
            rows=self._share.rows,
            width=source.model.embedding,
            fingerprint=self._share.fingerprint,
            chunk=chunk,
            turn=embedding.chunk_rows(source.model, length),
            keep=lambda: frozenset(self._needed),
            handing=self._handing(source.indexed) if source.indexed else None,
        )
        # Versions that the checkpoints on disk rely on: two are kept while a third is written.
        self._needed: collections.deque[int] = collections.deque(maxlen=3)
        # What `ask` gave for the next batch, and for the one behind it: drawn while the device trains.
        self._asked: Any = None
        self._drawn: tuple[int, Any] | None = None
        self._search: Callable[[], Found] | None = None
        self._queries: Any = None
        # The retriever that the stage began with, where it teaches: it asks, and what it finds is taught.
        self._teacher: Any = None
        self._found = np.full((source.batch, task.neighbours), -1, np.int32)
        kept = task.refresh.written
        self._written = Written(kept, shape) if kept else None
        # Steps of the parameters that made the vectors by which these were found.
        self._made = np.zeros_like(self._found)
        # Step of the index that served the batch in the making, and how stale the last one was.
        self._searched = 0
        self._stale: dict[str, float] = {}
        # The version served and its vectors, once they are needed.
        self._served: tuple[int, Rows] = -1, np.zeros((0, 0))
        other = source.asked is not corpus
        self._own_rows = same_passages(source.asked, corpus) if other else None

    def start(self, params: Params) -> Published:
        if getattr(self._task, "teaches", False):
            self._teacher = jax.tree.map(jnp.copy, params["retriever"])
        published = self._refresher.start(params["retriever"], *self._first_index(params))
        self._ask(params, 0)
        return published

    def _first_index(self, params: Params) -> tuple[np.ndarray | None, str]:
        """Vectors [N,E] that the same tower made before, where all processes have them; its hash."""
        source, lengths = self._source, self._task.lengths
        about = (source.model, params["retriever"], source.corpus, lengths.passage)
        frozen = not getattr(self._task, "train_passages", False)
        found = vector_cache.find(source.runs, *about, frozen=frozen)
        if not partition.any_process(found.vectors is None):
            return found.vectors, found.encoder
        # What serves for good others will ask for: it is embedded by width, in sight, and cached.
        # Where there are several processes, all of them are needed to embed.
        if isinstance(self._task.refresh, Frozen) and jax.process_count() == 1:
            given = (source.model, params, source.corpus, lengths)
            return vector_cache.corpus_vectors(source.runs, *given), found.encoder
        return None, vector_cache.encoder_hash(*about)

    def _handing(self, run: Path) -> Handing:
        """How snapshots are handed to the indexing jobs of a run."""
        source, length, share = self._source, self._task.lengths.passage, self._share
        stamps = (share.width, share.fingerprint, source.corpus.fingerprint, length)
        hashed = lambda tree: vector_cache.encoder_hash(source.model, tree, source.corpus, length)  # noqa: E731
        return Handing(
            run, share.folder, Passages(share.rows.start, share.rows.stop, *stamps), hashed
        )

    def prefetch(self, params: Params, step: int) -> Published | None:
        due = self._task.refresh.snapshot_due(step - 1)
        # A copy: the step that is queued next takes the parameters' own buffers. This process embeds alone.
        snapshot = partition.replicate(jax.tree.map(jnp.copy, params["retriever"])) if due else None
        published = self._refresher.advance(snapshot, step - 1)
        if published is not None:
            self._share.prune(frozenset(self._needed))
        self._ask(params, step)
        return published

    def _ask(self, params: Params, step: int) -> None:
        drawn = self._drawn if self._drawn and self._drawn[0] == step else None
        self._asked = drawn[1] if drawn else self._draw(step)
        asks = params["retriever"] if self._teacher is None else self._teacher
        self._queries = embed_queries(self._source.model, asks, self._asked.query)
        self._search = self._searcher.search(self._queries, self._neighbours)
        self._searched = step - self._refresher.staleness(step)

    def _draw(self, step: int) -> Any:
        source = self._source
        drawn = self._task.ask(source.asked, *drawn_rows(source, step), source.seed)
        if isinstance(drawn, cloze_batches.Clozes) and self._own_rows is not None:
            # From rows of the corpus that is asked to rows of the one that is searched.
            drawn = dataclasses.replace(drawn, passages=self._own_rows[drawn.passages])
        return drawn

    def _newest(self) -> Rows:
        """Vectors of the version now served, and in their places those that were written back."""
        vectors = self._vectors()
        if self._written is None:
            return vectors
        return Newest(vectors, self._written, self._refresher.made)

    def _vectors(self) -> Rows:
        if self._served[0] != self._searcher.step:
            self._served = self._searcher.step, self._share.vectors(self._searcher.step)
        if isinstance(vectors := self._served[1], np.ndarray):
            require_whole(vectors)
        return vectors

    def retrieve(self) -> None:
        """Neighbours of the queries last asked, of all processes: int32 [B,K]."""
        if self._search is None:
            return
        reached()
        found, self._search = self._search(), None
        if self._written is not None:
            about = np.asarray(self._queries), found, self._refresher.made(found[0])
            found = self._written.rescore(*about, self._neighbours)
        k = self._task.neighbours
        self._found = self._mixed(self._mix, found) if self._mix else found[0][:, :k]
        self._made = self._made_of(self._found)

    def _made_of(self, rows: np.ndarray) -> np.ndarray:
        """Steps of the newest vectors there are of passages: [...] -> [...]."""
        made = self._refresher.made(rows)
        return made if self._written is None else self._written.steps(rows, made)

    def _mixed(self, mix: Mix, found: Found) -> np.ndarray:
        """Dense neighbours of all processes' queries -> those by the mixed score, int32 [B,K]."""
        own = partition.local_rows(self._source.batch)
        near, queries = (found[0][own], found[1][own]), np.asarray(self._queries)[own]
        asked, k, vectors = self._asked.query.tokens, self._task.neighbours, self._newest()
        # A cloze is not to find its own passage; a window is.
        left_out = None if getattr(self._task, "own_passage", True) else self._asked.passages
        found = mix(near, queries, vectors, asked, k, left_out)
        return partition.gather_rows(found[0])

    def batch(self, step: int) -> Any:
        self.retrieve()
        assert self._asked is not None, "prefetch or set_state comes first"
        own = self._found[partition.local_rows(self._source.batch)]
        served = Served(step, self._newest, self._queries, self._mix)
        batch = self._task.batch(self._source.corpus, self._asked, own, served)
        self._stale = self._ages(step)
        self._drawn = step + 1, self._draw(step + 1)
        return batch

    def staleness(self) -> dict[str, float]:
        return self._stale

    def write_back(self, step: int, rows: Any, vectors: Any) -> None:
        assert self._written is not None
        rows, vectors = np.asarray(rows), np.asarray(vectors)
        self._written.add(step, rows.reshape(-1), vectors.reshape(rows.size, -1))

    @property
    def _aged(self) -> bool:
        """Whether vectors may be of other steps than the index is."""
        return self._written is not None or self._task.refresh.parts > 1

    def _ages(self, step: int) -> dict[str, float]:
        """Of the index; and of the vectors of the candidates, where these are not all as old as it is."""
        stale: dict[str, float] = {"staleness": step - self._searched}
        if not self._aged:
            return stale
        ages = step - self._made[self._found >= 0]
        half, most = np.percentile(ages, [50, 90]) if len(ages) else (0, 0)
        return {**stale, "candidate_age": half, "candidate_age_90": most}

    def get_state(self, params: Params) -> dict:
        self.retrieve()
        flying = self._refresher.in_flight
        newest = params["retriever"] if self._teacher is None else self._teacher
        snapshot = self._refresher.snapshot if flying is not None else newest
        return {
            "found": self._found,
            "snapshot": snapshot,
            "snapshot_step": np.array([-1 if flying is None else flying], np.int32),
            **({} if self._written is None else {"written": self._written.get_state()}),
            **({} if not self._aged else {"made": self._made}),
        }

    def set_state(self, state: dict, step: int) -> None:
        flying = int(state["snapshot_step"][0])
        snapshot = (state["snapshot"], flying) if flying >= 0 else (None, None)
        if self._source.before not in (0, jax.process_count()):
            served = self._task.refresh.published(max(step - 1, 0))
            self._source.say(self._share.take_over(self._source.before, served))
        self._refresher.resume(*snapshot, step)
        self._asked, self._search = self._draw(step), None
        if getattr(self._task, "teaches", False):
            self._teacher = state["snapshot"]
            self._queries = embed_queries(self._source.model, self._teacher, self._asked.query)
        self._found = np.asarray(state["found"])
        if self._aged:
            self._made = np.asarray(state["made"])
        if self._written is not None:
            self._written.set_state(state["written"])
        self._searched = self._searcher.step
        self.checkpointed()

    def checkpointed(self) -> None:
        self._needed.append(self._searcher.step)

    def close(self) -> None:
        self._refresher.close()
        self._searcher.close()

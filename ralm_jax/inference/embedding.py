"""Text to vectors with a model's retriever, and exact search among them."""

import functools
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ralm_jax import memory, partition
from ralm_jax.batches import Lengths, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import features
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.index import Version

# Texts embedded at a time, at most, and numbers that a layer may hold of them meanwhile: 1 GiB of float32 on
# an accelerator. A CPU is no slower with 128 MiB, and what it keeps of freed memory stays small.
CHUNK = 1024
ACTIVATIONS = 1 << (25 if memory.cpu_only() else 28)


# Queries that come one by one or together, as a server has them: a program for each width would take minutes.
FEW = 32


class Ranking(NamedTuple):
    """A question's best passages: rows of the corpus and scores, [Q, k], best first; -1 is none."""

    rows: np.ndarray
    scores: np.ndarray


def chunk_rows(model: Ralm | OpenQA, length: int) -> int:
    """How many texts of `length` to embed at a time, whatever is asked: one compilation serves.

    A power of two where devices are, so that it divides over them.
    """
    c = model.retriever_config
    most = max(1, ACTIVATIONS // (c.heads * length**2 + c.intermediate * length))
    rows = min(CHUNK, 1 << (most.bit_length() - 1))
    return max(1, rows // jax.device_count()) * jax.device_count()


@functools.lru_cache(maxsize=8)
def _embedder(model: Any, method: str):
    return partition.gathered(
        lambda params, text: model.apply({"params": {"retriever": params}}, text, method=method)
    )


def embed_queries(model: Ralm | OpenQA, retriever: Any, text: Text) -> jax.Array:
    """This process's queries [b,L] -> those of all processes [B,E]; queued, not waited for."""
    return _embedder(cast(Hashable, model), "queries")(retriever, partition.shard(text))


def own_chunk_rows(model: Ralm | OpenQA, length: int) -> int:
    """The part of `chunk_rows` that falls to the devices of this process."""
    return chunk_rows(model, length) // jax.device_count() * jax.local_device_count()


def embed_passages(
    model: Ralm | OpenQA, corpus: Corpus, length: int, retriever: Any, start: int, stop: int
) -> jax.Array:
    """Passages start...stop (at most `own_chunk_rows`) -> [stop - start, E]; queued, not waited for.

    By the devices of this process alone, on which the parameters are.
    """
    if jax.process_count() == 1:
        return _embed_rows(model, corpus, length, retriever, np.arange(start, stop))
    rows = np.arange(start, stop)
    rows = np.pad(rows, (0, own_chunk_rows(model, length) - len(rows)), mode="edge")
    text = partition.shard(features.passage_text(corpus, rows, length))
    return _own_embedder(cast(Hashable, model))(retriever, text)[: stop - start]


@functools.lru_cache(maxsize=8)
def _own_embedder(model: Any):
    def embed(params, text):
        return model.apply({"params": {"retriever": params}}, text, method="passages")

    own = jax.local_devices()
    return partition.shared_out(lambda params, text: partition.all_gather(embed(params, text)), own)


def _embed_rows(model, corpus: Corpus, length: int, retriever, rows: np.ndarray) -> jax.Array:
    """`chunk_rows` are embedded whatever is asked, by all processes together."""
    chunk = chunk_rows(model, length)
    padded = np.pad(rows, (0, chunk - len(rows)), mode="edge")[partition.local_rows(chunk)]
    text = features.passage_text(corpus, padded, length)
    return _embedder(cast(Hashable, model), "passages")(retriever, partition.shard(text))[
        : len(rows)
    ]


def embed_corpus(
    model: Ralm | OpenQA,
    params: dict,
    corpus: Corpus,
    lengths: Lengths,
    done: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """All passages with present parameters: float32 [N,E].

    Short passages are embedded among themselves, at a quarter, half or three quarters of the length. `done`
    is called with how many more there are now.
    """
    return embed_rows(model, params, corpus, lengths, np.arange(corpus.size), done)


def embed_rows(
    model: Ralm | OpenQA,
    params: dict,
    corpus: Corpus,
    lengths: Lengths,
    rows: np.ndarray,
    done: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Some passages, by their rows [n], as `embed_corpus` embeds all: float32 [n,E]."""
    retriever = partition.replicate(params["retriever"])
    vectors = np.empty((len(rows), model.embedding), np.float32)
    for width, places in _by_width(model, corpus, rows, lengths.passage):
        chunk = chunk_rows(model, width)
        for start in range(0, len(places), chunk):
            part = places[start : start + chunk]
            vectors[part] = _embed_rows(model, corpus, width, retriever, rows[part])
            done(len(part))
    return vectors


def _by_width(
    model, corpus: Corpus, passages: np.ndarray, length: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(width, places in `passages` that fit it); too few to fill a chunk go with the next longer ones."""
    needed = np.asarray(corpus.lengths)[passages].astype(int).sum(1) + 3  # special tokens
    yield from _narrow_first(model, needed, length)


def _narrow_first(
    model, needed: np.ndarray, length: int, least: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(width, places of texts that need no more); fewer than `least` go with the next longer ones.

    `least` is by default as many as fill a chunk.
    """
    rows = np.empty(0, int)
    below = -1
    for quarter in range(1, 5):
        width = -(-length * quarter // 4)
        fits = (needed > below) & ((needed <= width) | (quarter == 4))
        rows, below = np.concatenate([rows, np.flatnonzero(fits)]), width
        if len(rows) and (quarter == 4 or len(rows) >= (least or chunk_rows(model, width))):
            yield width, rows
            rows = np.empty(0, int)


def embed_texts(
    model: Ralm | OpenQA, params: dict, text: Text, method: str = "queries"
) -> np.ndarray:
    """Queries [n,L], or "passages" [n,P], embedded no wider than they are -> float32 [n,E].

    Up to FEW queries are read at the full length, for which one program serves.
    """
    retriever, (n, length) = partition.replicate(params["retriever"]), text.tokens.shape
    vectors = np.empty((n, model.embedding), np.float32)
    needed = (text.tokens != 0).sum(1)
    # On a CPU padding costs more than a program for another width does.
    least = FEW + 1 if method == "queries" and memory.cpu_only() else None
    for width, places in _narrow_first(model, needed, length, least):
        chunk = min(_padded(len(places)), chunk_rows(model, width))
        for start in range(0, len(places), chunk):
            # All chunks are of one size: the last one is filled up.
            rows = places[start : start + chunk]
            filled = np.resize(rows, chunk)
            part = Text(text.tokens[filled, :width], text.types[filled, :width])
            embedded = _embedder(cast(Hashable, model), method)(retriever, partition.shard(part))
            vectors[rows] = np.asarray(embedded)[: len(rows)]
    return vectors


def _padded(n: int) -> int:
    """So many texts or more, a power of two where devices are: few sizes are compiled."""
    devices = jax.device_count()
    return -(-(1 << (n - 1).bit_length()) // devices) * devices


def search(queries: np.ndarray, vectors: np.ndarray, k: int) -> Ranking:
    """Exact: queries [Q,E], vectors [N,E] -> the k best of each."""
    return search_with(exact_over(vectors), queries, k)


def exact_over(vectors: np.ndarray) -> Exact:
    """Exact search among vectors [N,E], to be asked more than once."""
    searcher = Exact()
    searcher.build(Version(0, vectors, Path()))
    searcher.publish()
    return searcher


def search_with(searcher: Exact, queries: np.ndarray, k: int) -> Ranking:
    """Queries [Q,E] -> the k best of each."""
    found = [searcher.search(queries[i : i + 256], k)() for i in range(0, len(queries), 256)]
    return Ranking(*(np.concatenate(part) for part in zip(*found, strict=True)))

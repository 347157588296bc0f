"""Text to vectors with a model's retriever, and exact search among them."""

import functools
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ralm_jax import partition
from ralm_jax.data import features
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.models.ralm import Ralm, Text
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.index import Version

CHUNK = 1024  # texts embedded at a time, whatever is asked: one compilation serves


class Ranking(NamedTuple):
    """A question's best passages: rows of the corpus and scores, [Q, k], best first; -1 is none."""

    rows: np.ndarray
    scores: np.ndarray


@functools.lru_cache(maxsize=8)
def _embedder(model: Any, method: str):
    return partition.gathered(
        lambda params, text: model.apply({"params": {"retriever": params}}, text, method=method)
    )


def embed_queries(model: Ralm, retriever: Any, text: Text) -> jax.Array:
    """This process's queries [b,L] -> those of all processes [B,E]; queued, not waited for."""
    return _embedder(cast(Hashable, model), "queries")(retriever, partition.shard(text))


def embed_passages(
    model: Ralm, corpus: Corpus, length: int, retriever: Any, start: int, stop: int
) -> jax.Array:
    """Passages start...stop (at most CHUNK) -> [stop - start, E]; queued, not waited for.

    CHUNK rows are embedded whatever is asked, so that one compilation serves; all processes together.
    """
    rows = np.minimum(np.arange(start, start + CHUNK), corpus.size - 1)[partition.local_rows(CHUNK)]
    text = features.passage_text(corpus, rows, length)
    return _embedder(cast(Hashable, model), "passages")(retriever, partition.shard(text))[
        : stop - start
    ]


def embed_corpus(model: Ralm, params: dict, corpus: Corpus, lengths: Lengths) -> np.ndarray:
    """All passages with present parameters: float32 [N,E]."""
    retriever = partition.replicate(params["retriever"])
    chunks = [
        embed_passages(model, corpus, lengths.passage, retriever, i, min(i + CHUNK, corpus.size))
        for i in range(0, corpus.size, CHUNK)
    ]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])


def embed_texts(model: Ralm, params: dict, text: Text) -> np.ndarray:
    """Queries [n,L] -> float32 [n,E]."""
    retriever, n, out = partition.replicate(params["retriever"]), len(text.tokens), []
    for start in range(0, n, CHUNK):
        rows = np.arange(start, start + CHUNK) % n
        part = Text(text.tokens[rows], text.types[rows])
        out.append(np.asarray(embed_queries(model, retriever, part)))
    return np.concatenate(out)[:n]


def search(queries: np.ndarray, vectors: np.ndarray, k: int) -> Ranking:
    """Exact: queries [Q,E], vectors [N,E] -> the k best of each."""
    searcher = Exact()
    searcher.build(Version(0, vectors, Path()))
    searcher.publish()
    found = [searcher.search(queries[i : i + 256], k)() for i in range(0, len(queries), 256)]
    return Ranking(*(np.concatenate(part) for part in zip(*found, strict=True)))

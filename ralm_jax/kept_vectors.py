"""Passage vectors are made once: a run keeps them, and what starts from that run takes them over.

They are known by their maker: a digest of the tower that embedded, and of all that shapes what it gives.
Vectors that were imported with a model are known by another name (see `retrieval.imported`).
"""

import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ralm_jax import runs
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.pipeline import Lengths
from ralm_jax.embedding import embed_corpus
from ralm_jax.errors import UserError
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import imported, index

BAR_DELAY = 1.0  # seconds before embedding shows that it goes on


def maker(model: Ralm | OpenQA, retriever: Any, corpus: Corpus, length: int) -> str:
    """Tells apart whatever would embed the corpus otherwise; `length` beyond its passages is all one."""
    longest = int(np.asarray(corpus.lengths).astype(int).sum(1).max()) + 3  # special tokens
    config = dataclasses.replace(model.retriever_config, dropout=0.0, attention_dropout=0.0)
    shape = {**dataclasses.asdict(config), "dtype": jnp.dtype(config.dtype).name}
    kind = (shape, model.embedding, model.pooling, model.head, model.norm_eps)
    digest = hashlib.sha256(repr((kind, min(length, longest))).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(retriever["passage_tower"]):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def folders(*began: Path | None) -> Iterator[Path]:
    """Where the runs given keep vectors: of their stages, and of what was measured with them."""
    for run in began:
        if run is not None:
            yield from sorted((run / "index").glob("*"))
            yield from sorted((run / "vectors").glob("*"))


class Known(NamedTuple):
    """Vectors [N,E] of a corpus, None where they are yet to be made; what makes them; are they on disk?"""

    vectors: np.ndarray | None
    maker: str
    stored: bool


def known_vectors(
    roots: Iterable[Path],
    model: Ralm | OpenQA,
    retriever: Any,
    corpus: Corpus,
    length: int,
    frozen: bool = True,
) -> Known:
    """The vectors that lie in `roots` of a corpus, by this passage tower or imported in its place.

    `frozen`: the tower will not be trained, so that imported vectors go on being those of its passages.
    """
    roots = list(roots)
    came = imported.find(roots, retriever["passage_tower"])
    if came is not None:
        why = "its passage tower is to be trained"
        if frozen:
            version = index.made_by(roots, came.encoder_hash, corpus.fingerprint)
            if version is not None:
                return Known(version.vectors, came.encoder_hash, stored=True)
            vectors, why = imported.in_order(came, corpus.ids)
            if vectors is not None:
                return Known(vectors, came.encoder_hash, stored=False)
        tqdm.write(
            f"{came.run}: the tower that made its passage vectors is not part of the model, and {why}: the "
            f"passages of {corpus.path} are embedded with its question tower",
            file=sys.stderr,
        )
    made_by = maker(model, retriever, corpus, length)
    version = index.made_by(roots, made_by, corpus.fingerprint)
    if version is None:
        return Known(None, made_by, stored=False)
    return Known(version.vectors, made_by, stored=True)


def corpus_vectors(run: Path, loaded: runs.Loaded, corpus: Corpus, lengths: Lengths) -> np.ndarray:
    """The corpus as the model embeds it, [N,E]: taken from the run where it has that, else kept there."""
    retriever = loaded.params["retriever"]
    known = known_vectors(folders(run), loaded.model, retriever, corpus, lengths.passage)
    if known.vectors is not None:
        return known.vectors if known.stored else _kept(run, loaded.step, corpus, known)
    held = any(index.versions(root) for root in folders(run))
    why = " (those that are kept are not by these parameters)" if held else ""
    what = f"embedding the corpus{why}"
    with tqdm(total=corpus.size, desc=what, unit=" passages", leave=False, delay=BAR_DELAY) as bar:
        vectors = embed_corpus(loaded.model, loaded.params, corpus, lengths, bar.update)
    return _kept(run, loaded.step, corpus, known._replace(vectors=vectors))


def _kept(run: Path, step: int, corpus: Corpus, known: Known) -> np.ndarray:
    vectors = known.vectors
    assert vectors is not None
    root = run / "vectors" / corpus.fingerprint[:16]
    try:
        writer = index.create(root, step, vectors.shape, corpus.fingerprint, known.maker)
        writer.write(0, vectors)
        kept = writer.commit()
        index.prune(root, {kept.step})
    except (OSError, UserError):
        # A run that cannot be written to can still be measured.
        return vectors
    return kept.vectors

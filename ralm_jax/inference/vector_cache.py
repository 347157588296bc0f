"""Passage vectors are made once: a run keeps them, and what starts from that run takes them over.

They are known by their maker: a digest of the tower that embedded, and of all that shapes what it gives.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.errors import UserError
from ralm_jax.inference.embedding import embed_corpus
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import index
from ralm_jax.runs import directory

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


def corpus_vectors(
    run: Path, loaded: directory.Loaded, corpus: Corpus, lengths: Lengths
) -> np.ndarray:
    """The corpus as the model embeds it, [N,E]: taken from the run where it has that, else kept there."""
    made_by = maker(loaded.model, loaded.params["retriever"], corpus, lengths.passage)
    found = index.made_by(folders(run), made_by, corpus.fingerprint)
    if found is not None:
        return found.vectors
    held = any(index.versions(root) for root in folders(run))
    why = " (those that are kept are not by these parameters)" if held else ""
    what = f"embedding the corpus{why}"
    with tqdm(total=corpus.size, desc=what, unit=" passages", leave=False, delay=BAR_DELAY) as bar:
        vectors = embed_corpus(loaded.model, loaded.params, corpus, lengths, bar.update)
    root = run / "vectors" / corpus.fingerprint[:16]
    try:
        writer = index.create(root, loaded.step, vectors.shape, corpus.fingerprint, made_by)
        writer.write(0, vectors)
        kept = writer.commit()
        index.prune(root, {kept.step})
    except (OSError, UserError):
        return vectors  # a run that cannot be written to can still be measured
    return kept.vectors

"""A corpus is embedded once by one encoder: its vectors are taken from a run that has them, or from a cache.

Vectors that were imported with a model are known by another name (see `retrieval.imported`). They
are known by their encoder hash: a digest of the tower that embedded, and of all that shapes what it
gives. The cache lies outside of runs, since whoever opens a run changes nothing in it.
"""

import dataclasses
import functools
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ralm_jax import cache
from ralm_jax.batches import Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.cutting import SPECIAL_TOKENS
from ralm_jax.errors import UserError
from ralm_jax.examples import features
from ralm_jax.inference.embedding import embed_rows, embed_texts
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.retrieval import imported, index
from ralm_jax.terminal import bar, say

# Bytes of vectors that are held at a time while a corpus is embedded.
BLOCK = 1 << 30

# Vectors [n,E] of all passages in order, so many at a time; begun anew by each call.
Blocks = Callable[[], Iterator[np.ndarray]]


def encoder_hash(model: Ralm | OpenQA, retriever: Any, corpus: Corpus, length: int) -> str:
    """Tells apart whatever would embed the corpus otherwise; `length` beyond its passages is all one."""
    longest = int(np.asarray(corpus.lengths).astype(int).sum(1).max())
    return _hash(model, retriever, min(length, longest + SPECIAL_TOKENS))


def _hash(model: Ralm | OpenQA, retriever: Any, length: int) -> str:
    config = dataclasses.replace(model.retriever_config, dropout=0.0, attention_dropout=0.0)
    kind = (config.record(), model.embedding, model.pooling, model.head, model.norm_eps)
    kind += (model.passage_prompt,) if model.passage_prompt else ()
    digest = hashlib.sha256(repr((kind, length)).encode())
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


class Found(NamedTuple):
    """Vectors [N,E] of a corpus, or None; the hash of their encoder; whether they are on disk."""

    vectors: np.ndarray | None
    encoder: str
    stored: bool


def find(
    runs: Iterable[Path | None],
    model: Ralm | OpenQA,
    retriever: Any,
    corpus: Corpus,
    length: int,
    frozen: bool = True,
) -> Found:
    """The vectors that runs or the cache have of a corpus, by this passage tower or imported in its place.

    `frozen`: the tower will not be trained, so that imported vectors go on being those of its passages.
    """
    roots = list(folders(*runs))
    came = imported.find(roots, retriever["passage_tower"])
    if came is not None:
        why = "its passage tower is to be trained"
        if frozen:
            version = _stored(roots, came.encoder_hash, corpus)
            if version is not None:
                return Found(version.vectors, came.encoder_hash, stored=True)
            vectors, why = imported.in_order(came, corpus.ids)
            if vectors is not None:
                return Found(vectors, came.encoder_hash, stored=False)
        say(
            f"{came.run}: the tower that made its passage vectors is not part of the model, and {why}: the "
            f"passages of {corpus.path} are embedded with its question tower",
            sys.stderr,
        )
    encoder = encoder_hash(model, retriever, corpus, length)
    version = _stored(roots, encoder, corpus)
    if version is None:
        return Found(None, encoder, stored=False)
    return Found(version.vectors, encoder, stored=True)


def _stored(roots: Sequence[Path], encoder: str, corpus: Corpus) -> index.Version | None:
    return index.made_by([*roots, cached(encoder, corpus)], encoder, corpus.fingerprint)


def known(
    runs: Sequence[Path | None],
    model: Ralm | OpenQA,
    params: dict,
    corpus: Corpus,
    lengths: Lengths,
) -> tuple[str, Blocks | None]:
    """The hash of their encoder, and the vectors of all passages where runs or the cache have them.

    Of those of an earlier version of the corpus, new passages are embedded as they are read.
    """
    found = find(runs, model, params["retriever"], corpus, lengths.passage)
    if found.vectors is not None:
        return found.encoder, functools.partial(iter, [found.vectors])
    return found.encoder, _updated(runs, model, params, corpus, lengths)


def corpus_vectors(
    runs: Sequence[Path | None],
    model: Ralm | OpenQA,
    params: dict,
    corpus: Corpus,
    lengths: Lengths,
) -> np.ndarray:
    """The corpus as the model embeds it, [N,E]: taken from runs or the cache, else embedded and cached."""
    given = (runs, model, params, corpus, lengths)
    found = find(runs, model, params["retriever"], corpus, lengths.passage)
    if found.vectors is None:
        blocks = _updated(*given) or functools.partial(_embedded, *given)
    elif found.stored:
        return found.vectors
    else:
        blocks = functools.partial(iter, [found.vectors])
    place, shape = cached(found.encoder, corpus), (corpus.size, model.embedding)
    try:
        kept = _cache(place, blocks, shape, corpus.fingerprint, found.encoder)
    except (OSError, UserError):
        # Without room for a copy the run can still be measured.
        return np.concatenate([*blocks()]) if found.vectors is None else found.vectors
    # What this encoder made of versions before the last.
    for encoder, fingerprint, _ in list(_earlier(model, params, corpus, lengths))[1:]:
        shutil.rmtree(_place(encoder, fingerprint), ignore_errors=True)
    return kept


def _updated(runs, model, params: dict, corpus: Corpus, lengths: Lengths) -> Blocks | None:
    """The vectors of an earlier version of a corpus that was updated, with those of its new passages.

    None where there are none by this encoder.
    """
    for encoder, fingerprint, rows in _earlier(model, params, corpus, lengths):
        roots = [*folders(*runs), _place(encoder, fingerprint)]
        version = index.made_by(roots, encoder, fingerprint)
        if version is not None:
            before = (version.vectors, rows)
            return functools.partial(_with_new, before, model, params, corpus, lengths)
    return None


def _with_new(
    before: tuple[np.ndarray, np.ndarray], model, params: dict, corpus: Corpus, lengths: Lengths
) -> Iterator[np.ndarray]:
    """Vectors [n,E] of all passages in order, from vectors of before and the row [N] of each among them."""
    vectors, rows = before
    for part in _blocks(model, corpus):
        new = rows[part] < 0
        taken = np.empty((len(part), vectors.shape[1]), np.float32)
        taken[~new] = vectors[rows[part][~new]]
        if new.any():
            text = features.passage_text(corpus, part[new], lengths.passage)
            taken[new] = embed_texts(model, params, text, "passages")
        yield taken


def _earlier(
    model, params: dict, corpus: Corpus, lengths: Lengths
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Versions of a corpus before this one, newest first: the hash of the encoder there, the fingerprint, and
    the row [N] there of each passage, -1 where it has none."""
    for about, rows in corpus.ancestors():
        length = min(lengths.passage, about["longest"] + SPECIAL_TOKENS)
        yield _hash(model, params["retriever"], length), about["fingerprint"], rows


def _embedded(runs, model, params: dict, corpus: Corpus, lengths: Lengths) -> Iterator[np.ndarray]:
    """Vectors [n,E] of all passages in order."""
    others = any(index.versions(root) for root in folders(*runs))
    why = " (the vectors in the run are not by these parameters)" if others else ""
    with bar(f"embedding the corpus{why}", corpus.size) as shown:
        for rows in _blocks(model, corpus):
            yield embed_rows(model, params, corpus, lengths, rows, shown.update)


def _blocks(model, corpus: Corpus) -> Iterator[np.ndarray]:
    """The rows of all passages in order, as many [n] at a time as have vectors of BLOCK bytes."""
    every = max(1, BLOCK // (4 * model.embedding))
    for start in range(0, corpus.size, every):
        yield np.arange(start, min(start + every, corpus.size))


def cached(encoder: str, corpus: Corpus) -> Path:
    """The folder of the cache for a corpus as embedded by the encoder of that hash."""
    return _place(encoder, corpus.fingerprint)


def _place(encoder: str, fingerprint: str) -> Path:
    name = encoder.rpartition(" ")[2]
    return cache.folder() / f"{name[:32]}-{fingerprint[:16]}"


def _cache(
    folder: Path,
    blocks: Blocks,
    shape: tuple[int, int],
    fingerprint: str,
    made_by: str,
) -> np.ndarray:
    """Keeps vectors in the cache by one rename, so that processes that embed the same do no harm.

    Raises OSError or UserError where there is no room for them, before anything is embedded.
    """
    if folder.exists():
        try:
            return index.open_version(folder, 0, fingerprint).vectors
        except UserError as error:
            say(f"{error}; embedded again", sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        with cache.adding(folder) as partial:
            writer = index.create(partial, 0, shape, fingerprint, made_by)
            if shutil.disk_usage(partial).free < 4 * shape[0] * shape[1]:
                raise UserError(f"{folder.parent}: no room for vectors")
            for vectors in blocks():
                writer.write(writer.rows, vectors)
            writer.commit()
    return index.open_version(folder, 0, fingerprint).vectors

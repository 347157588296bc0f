"""What a reader, or a scorer, makes of clozes with their candidates: read once, and kept.

Reading is the dearest part of training. A reader that is frozen finds the same in every epoch, and in every
run that asks the same of it; so it is known by a digest of the reader and of all that it reads.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax import cache, partition
from ralm_jax.batches import ClozeBatch, Lengths, Text
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.cloze_batches import Clozes
from ralm_jax.losses import microbatch
from ralm_jax.models.base import RetrievalModel
from ralm_jax.terminal import bar

# Clozes read, and kept, at a time: what is lost where reading is stopped.
CHUNK = 64


def likelihoods(
    model: RetrievalModel, params: dict, corpus: Corpus, lengths: Lengths, asked: Clozes, found
) -> np.ndarray:
    """log p(y_m|z,x) of clozes with candidate rows [n,K]: float32 [n,K,M], taken from the cache or read."""
    known = digest_of(model, params["reader"])
    given = (model, "likelihood", {"reader": params["reader"]})
    return _all(given, known, corpus, lengths, asked, found)


def relevances(
    model: RetrievalModel, params: dict, corpus: Corpus, lengths: Lengths, asked: Clozes, found
) -> np.ndarray:
    """What a scorer makes of the view that the retriever has, with candidate rows [n,K]: float32 [n,K,M].

    It is the same at every masked place, so that its mean over them, which distillation takes, is the score.
    """
    sizes = (model.scorer_config or model.reader_config, model.scorer_pooler)
    known = _digest((*sizes, "scorer"), params["scorer"])
    given = (model, "relevance", {"scorer": params["scorer"]})
    seen = dataclasses.replace(asked, masked=asked.query)
    return _all(given, known, corpus, lengths, seen, found)


def _all(given: tuple, known: str, corpus: Corpus, lengths: Lengths, asked: Clozes, found):
    model, method, params = given
    placed = partition.replicate(params)
    out = np.empty((*found.shape, lengths.masked), np.float32)
    with bar("reading clozes", len(found), " clozes") as shown:
        for start in range(0, len(found), CHUNK):
            # All chunks are of one shape, so that one program reads them.
            rows = np.minimum(np.arange(start, start + CHUNK), len(found) - 1)
            part = cloze_batches.taken(asked, rows)
            batch = cloze_batches.with_candidates(corpus, part, found[rows], lengths)
            read = _cached(known, batch, lambda b: _read(model, method, placed, b))
            out[start : start + CHUNK] = read[: len(found) - start]
            shown.update(min(CHUNK, len(found) - start))
    return out


def digest_of(model: RetrievalModel, reader: Any) -> str:
    """Tells apart readers that would find something else."""
    return _digest((model.reader_config, getattr(model, "copies", False)), reader)


def _digest(sizes: tuple, params: Any) -> str:
    digest = hashlib.sha256(repr(sizes).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def _reader(model: Any, method: str):
    def likelihood(params, given):
        return model.apply({"params": params}, *given, method="reading")[:, 0]  # [n,M]

    def relevance(params, given):
        joint, _, targets = given
        scores = model.apply({"params": params}, joint, method="rerank")  # [n,1]
        return jnp.broadcast_to(scores, targets.shape)

    return partition.gathered(likelihood if method == "likelihood" else relevance)


def _read(model: RetrievalModel, method: str, params: Any, batch: ClozeBatch) -> np.ndarray:
    """Each cloze with each candidate by itself, the short ones among themselves: [CHUNK,K,M].

    They are read at a quarter, half, three quarters or the whole of the length, on a CPU as many at a time as
    fit its cache.
    """
    (b, k, s), devices = batch.joint.tokens.shape, jax.device_count()
    joint = [np.asarray(x).reshape(b * k, 1, s) for x in batch.joint]
    asked = [np.repeat(x, k, axis=0) for x in (batch.positions, batch.targets)]
    needed, quarter = (joint[0] != 0).sum(-1)[:, 0], -(-s // 4)
    quarters = -(-needed // quarter)
    out = np.empty((b * k, batch.targets.shape[1]), np.float32)
    for width in np.unique(quarters) * quarter:
        places = np.flatnonzero(quarters * quarter == width)
        size = devices * (microbatch.few(int(width)) or max(1, b * k // (4 * devices)))
        for start in range(0, len(places), size):
            rows = np.resize(places[start : start + size], size)
            text = Text(*(x[rows, :, :width] for x in joint))
            given = partition.shard((text, *(x[rows] for x in asked)))
            out[rows] = _reader(cast(Hashable, model), method)(params, given)
    return out.reshape(b, k, -1)


def _cached(reader: str, batch: ClozeBatch, read) -> np.ndarray:
    """[CHUNK,K,M], from a file that is named by all that made it."""
    digest = hashlib.sha256(reader.encode())
    # The reader sees neither the retriever's view nor the passages as the retriever reads them.
    for array in (*batch.joint, batch.positions, batch.targets):
        digest.update(np.ascontiguousarray(array).data)
    folder, name = cache.folder() / "likelihoods", digest.hexdigest()[:32]
    shape = (*batch.valid.shape, batch.targets.shape[1])
    # The checksum of a file is a part of its name.
    for file in folder.glob(f"{name}-*.npy"):
        with contextlib.suppress(OSError, ValueError, EOFError):
            data = file.read_bytes()
            if file.stem.endswith(f"-{zlib.crc32(data):08x}"):
                found = np.load(io.BytesIO(data), allow_pickle=False)
                if found.shape == shape and found.dtype == np.float32:
                    return found
    found = read(batch)
    _write(folder, name, found)
    return found


def _write(folder: Path, name: str, found: np.ndarray) -> None:
    """By one rename; where there is no room, what was read is merely not kept."""
    buffer = io.BytesIO()
    np.save(buffer, found)
    file = folder / f"{name}-{zlib.crc32(buffer.getvalue()):08x}.npy"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=".writing_")
        with os.fdopen(handle, "wb") as out:
            out.write(buffer.getvalue())
        os.replace(partial, file)
    except OSError:
        return

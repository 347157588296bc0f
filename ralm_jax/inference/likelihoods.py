"""What a reader makes of clozes with their candidates: read once, and kept.

Reading is the dearest part of training. A reader that is frozen finds the same in every epoch, and in every
run that asks the same of it; so it is known by a digest of the reader and of all that it reads.
"""

import functools
import hashlib
import io
import os
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from tqdm import tqdm

from ralm_jax import cache, partition
from ralm_jax.batches import ClozeBatch, Lengths
from ralm_jax.data.corpus import Corpus
from ralm_jax.examples import cloze_batches
from ralm_jax.examples.cloze_batches import Clozes
from ralm_jax.inference import vector_cache
from ralm_jax.models.base import RetrievalModel

# Clozes read, and kept, at a time: what is lost where reading is stopped.
CHUNK = 64


def likelihoods(
    model: RetrievalModel, reader: Any, corpus: Corpus, lengths: Lengths, asked: Clozes, found
) -> np.ndarray:
    """log p(y_m|z,x) of clozes with candidate rows [n,K]: float32 [n,K,M], taken from the cache or read."""
    known, placed = digest_of(model, reader), partition.replicate({"reader": reader})
    out = np.empty((*found.shape, lengths.masked), np.float32)
    bar = tqdm(
        total=len(found), desc="reading clozes", unit=" clozes", delay=vector_cache.BAR_DELAY
    )
    with bar:
        for start in range(0, len(found), CHUNK):
            # All chunks are of one shape, so that one program reads them.
            rows = np.minimum(np.arange(start, start + CHUNK), len(found) - 1)
            part = cloze_batches.taken(asked, rows)
            batch = cloze_batches.with_candidates(corpus, part, found[rows], lengths)
            read = _cached(known, batch, lambda b: _read(model, placed, b))
            out[start : start + CHUNK] = read[: len(found) - start]
            bar.update(min(CHUNK, len(found) - start))
    return out


def digest_of(model: RetrievalModel, reader: Any) -> str:
    """Tells apart readers that would find something else."""
    digest = hashlib.sha256(repr((model.reader_config, getattr(model, "copies", False))).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(reader):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def _reader(model: Any):
    return partition.gathered(
        lambda params, batch: model.apply({"params": params}, batch, method="likelihood")
    )


def _read(model: RetrievalModel, params: Any, batch: ClozeBatch) -> np.ndarray:
    """As many at a time as there are devices: a device that reads one by one has it in its cache."""
    devices = jax.device_count()
    parts = []
    for start in range(0, CHUNK, devices):
        rows = np.arange(start, start + devices) % CHUNK
        part = jax.tree.map(lambda x, rows=rows: x[rows], batch)
        parts.append(np.asarray(_reader(cast(Hashable, model))(params, partition.shard(part))))
    return np.concatenate(parts)[:CHUNK]


def _cached(reader: str, batch: ClozeBatch, read) -> np.ndarray:
    """[CHUNK,K,M], from a file that is named by all that made it."""
    digest = hashlib.sha256(reader.encode())
    # The reader sees neither the retriever's view nor the passages as the retriever reads them.
    for array in (*batch.joint, batch.positions, batch.targets):
        digest.update(np.ascontiguousarray(array).data)
    file = cache.folder() / "likelihoods" / f"{digest.hexdigest()[:32]}.npy"
    shape = (*batch.valid.shape, batch.targets.shape[1])
    try:
        found = np.load(file)
        if found.shape == shape and found.dtype == np.float32:
            return found
    except (OSError, ValueError, EOFError):
        pass
    found = read(batch)
    _write(file, found)
    return found


def _write(file: Path, found: np.ndarray) -> None:
    """By one rename; where there is no room, what was read is merely not kept."""
    buffer = io.BytesIO()
    np.save(buffer, found)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=".writing_")
        with os.fdopen(handle, "wb") as out:
            out.write(buffer.getvalue())
        os.replace(partial, file)
    except OSError:
        return

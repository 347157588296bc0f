"""Vectors of a corpus as files: for numpy, and as Parquet, which vector databases load.

    vectors.npy                        [N, E] float32
    ids.npy                            [N] strings: content ids
    passages-00000-of-00003.parquet    id, title, text, vector of 65,536 passages each
    vectors.json                       N, E, what made them, the digest and the size of every other file

All are in the order of the corpus. Vectors are compared by their inner product.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ralm_jax import checksums, json_text
from ralm_jax.data.corpus import Corpus
from ralm_jax.data.corpus_writer import ArrayWriter
from ralm_jax.errors import UserError
from ralm_jax.names import beneath
from ralm_jax.retrieval.index import sync
from ralm_jax.terminal import watched

FORMAT = 1
MANIFEST = "vectors.json"
SHARD, _GROUP = 1 << 16, 1 << 12
# A list rather than one of a fixed size, which some databases do not read.
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "title", "text")] + [("vector", pa.list_(pa.float32()))]
)


def write(
    folder: Path, corpus: Corpus, vectors: Iterable[np.ndarray], width: int, about: dict[str, Any]
) -> None:
    """Fills `folder` with the vectors of a corpus.

    Args:
      vectors: float32 [n, E] each, together [N, E].
      width: E.
      about: what made them, for the manifest.
    Raises:
      UserError: a vector is not finite.
    """
    arrays = (
        ArrayWriter(folder / "vectors.npy", "<f4", (width,)),
        ArrayWriter(folder / "ids.npy", "<U32", ()),
    )
    groups = _groups(vectors)
    try:
        shards = -(-corpus.size // SHARD)
        rows = iter(watched(corpus.texts(), "writing passages", corpus.size))
        for shard in range(shards):
            file = folder / f"passages-{shard:05d}-of-{shards:05d}.parquet"
            with parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for group in itertools.islice(groups, SHARD // _GROUP):
                    if not np.isfinite(group).all():
                        raise UserError(
                            "vectors are not finite: the run has diverged; embed with one that has not"
                        )
                    table = _table(list(itertools.islice(rows, len(group))), group)
                    writer.write_table(table, row_group_size=_GROUP)
                    arrays[0].append(group)
                    arrays[1].append(table["id"].to_numpy().astype("<U32"))
        if arrays[0].rows != corpus.size:
            raise RuntimeError(f"{arrays[0].rows} vectors of {corpus.size} passages")
        for array in arrays:
            array.finish()
    finally:
        for array in arrays:
            array.close()
    _write_manifest(folder, {"format": FORMAT, "N": corpus.size, "E": width, **about})


def _groups(vectors: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of all arrays, as many at a time as a row group has, whatever the arrays are cut to."""
    left: list[np.ndarray] = []
    size = 0
    for rows in vectors:
        while len(rows):
            taken = rows[: _GROUP - size]
            left.append(taken)
            size, rows = size + len(taken), rows[len(taken) :]
            if size == _GROUP:
                yield np.concatenate(left)
                left, size = [], 0
    if size:
        yield np.concatenate(left)


def _table(passages: list[dict[str, Any]], vectors: np.ndarray) -> pa.Table:
    """Passages [n] as a corpus has them, and their vectors [n, E]."""
    columns = [[p[name].decode() for p in passages] for name in ("id", "title", "text")]
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    column = pa.ListArray.from_arrays(pa.array(offsets), values)
    return pa.Table.from_arrays(
        [*(pa.array(c, pa.string()) for c in columns), column], schema=SCHEMA
    )


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    written = sorted(file for file in folder.iterdir() if file.is_file())
    for file in written:
        sync(file)
    files = {file.name: checksums.sha256(file) for file in written}
    sizes = {file.name: file.stat().st_size for file in written}
    record = checksums.sealed({**about, "files": files, "sizes": sizes})
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def verify(folder: Path) -> None:
    """Reads every file. Raises UserError where one is missing or has changed; the line names it."""
    manifest = folder / MANIFEST
    try:
        record = checksums.unsealed(json_text.parse(manifest.read_text("utf-8")))
        for name, expected in record["files"].items():
            if checksums.sha256(beneath(folder, name, manifest)) != expected:
                raise checksums.DamagedError(f"{name} has changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        missing = getattr(error, "filename", None)
        reason = f"{Path(missing).name} is missing" if missing else str(error)
        raise UserError(f"the vectors {folder} are damaged: {reason}; embed again") from None

"""`ralm import`: a model the world has released becomes a run, whole or not at all."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.data.tokenizer import write_vocabulary
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.runs import directory
from ralm_jax.runs.checkpoint import Checkpoints
from ralm_jax.weights import block_records, families, sources
from ralm_jax.weights.tensors import write_tensors

STAGE = "import"
RECORDS, PASSAGES = "block_records.npy", "passages.jsonl"
UNUSED = "unused.safetensors"  # what nothing here reads of the source; an export gives it back


def import_model(
    source: str, out: str | Path, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Makes the run `out` of a model: directory, `package:NAME` or id of the hub.

    The released open-QA models bring passage vectors, kept as the run's index of step 0, and texts, kept
    as passages.jsonl, a line for each vector in the same order.

    Returns:
      What was imported: source, class, parameters, what was drawn since the source lacks it.

    Raises:
      UserError: there is no such source, a kind of model that is not read, a damaged file, a tokenizer
        of another vocabulary, or `out` exists. Nothing is left of `out` then.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; choose another --out")
    folder = sources.find(source)
    read = families.read(folder)
    pieces, lowercase = sources.vocabulary(folder, read.model.reader_config.vocab_size)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, read, source)
        write_vocabulary(partial, pieces, lowercase)
        passages = _keep_passages(partial, folder, read)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sizes = {part: _size(tree) for part, tree in read.params.items()}
    report = {
        "source": source,
        "model": type(read.model).__name__,
        "parameters": sizes,
        "vocabulary": len(pieces),
        "drawn": read.drawn,
        **passages,
    }
    say(f"{out}: {', '.join(f'{part} {size:,} parameters' for part, size in sizes.items())}")
    for part in read.drawn:
        say(f"drawn at random, for {source} has none: {part}")
    return report


def _write(run: Path, read: families.Read, source: str) -> None:
    record = {
        "corpus": None,
        "fingerprint": None,
        "source": source,
        "stages": [STAGE],
        "lengths": dataclasses.asdict(read.lengths),
        "held_out": 0.01,
        "seed": 0,
        "drawn": read.drawn,
        "class": read.kind,
    }
    directory.write_atomically(run / directory.RUN, json.dumps(record, indent=1) + "\n")
    directory.keep_model(run, read.model)
    unused = {name: x for name, x in read.unused.items() if name != families.BLOCKS}
    if unused:
        write_tensors(unused, run / UNUSED)
    checkpoints = Checkpoints(directory.checkpoint_folder(run, STAGE))
    try:
        checkpoints.save(0, {"state": {"params": read.params}}, wait=True)
    finally:
        checkpoints.close()


def _keep_passages(run: Path, folder: Path, read: families.Read) -> dict[str, Any]:
    """Vectors and texts of an open-QA model, where it has them."""
    vectors = read.unused.get(families.BLOCKS)
    if vectors is None:
        return {}
    if vectors.ndim != 2 or vectors.shape[1] != read.model.embedding:
        raise UserError(
            f"{folder}: the tensor {families.BLOCKS} is {vectors.shape}, and its config asks for "
            f"(passages, {read.model.embedding})"
        )
    writer = index.create(directory.index_folder(run, STAGE), 0, vectors.shape, fingerprint=STAGE)
    writer.write(0, np.asarray(vectors, np.float32))
    writer.commit()
    texts = folder / RECORDS
    if not texts.is_file():
        return {"vectors": len(vectors), "passages": 0}
    count = 0
    with (run / PASSAGES).open("w", encoding="utf-8") as file:
        for text in block_records.read(texts):
            file.write(json.dumps({"id": str(count), "title": "", "text": text}) + "\n")
            count += 1
    if count != len(vectors):
        raise UserError(f"{texts} holds {count:,} texts for {len(vectors):,} vectors")
    return {"vectors": len(vectors), "passages": count}


def _size(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(_size(branch) for branch in tree.values())
    return int(tree.size)

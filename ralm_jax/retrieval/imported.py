"""Passage vectors that came with an imported model, and the corpus that they are the vectors of.

A released open-QA model has a question tower and the vectors of its passages. The tower that made these
vectors is not part of it: it stayed as it was while the question tower learnt. Such vectors are known by the
question tower they came with, which stands in for the missing one, and by the content ids of their passages.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ralm_jax import json_text
from ralm_jax.data.passages import content_id
from ralm_jax.errors import UserError
from ralm_jax.retrieval import index
from ralm_jax.terminal import watched

# The fingerprint of vectors as they were imported. They are of no corpus, but of RUN/passages.jsonl.
FINGERPRINT = "import"
PASSAGES = "passages.jsonl"
PREFIX = "imported with "


class Imported(NamedTuple):
    """What a run has of imported vectors."""

    encoder_hash: str
    run: Path
    # The vectors [N,E] as they came; None in a run that was trained from the one that has them.
    version: index.Version | None


def encoder_hash(tower: Any) -> str:
    """The name under which vectors are kept that came with a question tower (nested arrays)."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tower):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return PREFIX + digest.hexdigest()


def find(roots: Iterable[Path], tower: Any) -> Imported | None:
    """The imported vectors in `roots` that a passage tower stands in for; None where it made its vectors.

    Args:
      roots: folders of indexes, each `RUN/*/NAME`.

    Raises UserError where imported vectors are damaged.
    """
    name = ""
    found = None
    for root, step, stamp in _stamps(roots):
        # Imports of the first releases were not stamped, and no other index is without a stamp.
        unstamped = stamp == (FINGERPRINT, "")
        if not (unstamped or stamp[1].startswith(PREFIX)):
            continue
        name = name or encoder_hash(tower)
        if stamp == (FINGERPRINT, name) or unstamped:
            version = index.open_version(root, step, FINGERPRINT)
            return Imported(name, root.parent.parent, version)
        if stamp[1] == name:
            found = Imported(name, root.parent.parent, None)
    return found


def _stamps(roots: Iterable[Path]) -> Iterator[tuple[Path, int, tuple[str, str]]]:
    """(root, step, (fingerprint, what embedded)) of each version."""
    for root in roots:
        for step in index.versions(root):
            manifest = index.folder(root, step) / index.MANIFEST
            try:
                record = json_text.parse(manifest.read_text("utf-8"))
                stamp = str(record.get("fingerprint", "")), str(index.encoder_of(record))
            except (ValueError, AttributeError):
                raise UserError(f"{manifest} is damaged; restore that folder from a copy") from None
            yield root, step, stamp


def in_order(imported: Imported, ids: np.ndarray) -> tuple[np.ndarray | None, str]:
    """The imported vectors of passages with these content ids ([n] S32), in their order [n,E].

    Returns:
      None in their place where some passage has none, and why.

    Raises UserError where the file of the imported passages is damaged.
    """
    if imported.version is None:
        return None, "these vectors are of another corpus"
    file = imported.run / PASSAGES
    if not file.is_file():
        return None, "these vectors came without their texts"
    vectors = imported.version.vectors
    rows = _rows(_content_ids(file, len(vectors)), np.asarray(ids))
    missing = int((rows < 0).sum())
    if missing:
        return None, f"{missing:,} of {len(rows):,} passages have none of these vectors"
    return vectors[rows], ""


def _content_ids(file: Path, count: int) -> np.ndarray:
    """Content ids of the imported passages [N] S32, as `prepare` makes them of these texts."""
    try:
        with file.open(encoding="utf-8") as lines:
            records = map(json_text.parse, watched(lines, "matching imported passages", count))
            ids = (content_id(x["title"], x["text"].strip()).encode() for x in records)
            return np.fromiter(ids, "S32", count)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); import the model again") from None


def _rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted id stands among the ids, -1 where it does not: [n] int64."""
    order = np.argsort(ids, kind="stable")
    places = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(places, len(ids) - 1)]
    return np.where(ids[rows] == wanted, rows, -1)

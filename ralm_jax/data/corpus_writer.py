"""Writes a corpus directory: arrays appended as they come, texts once their documents are known."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ralm_jax.checksums import sealed, sha256
from ralm_jax.data.corpus import DOCUMENTS, FORMAT, fingerprint_of
from ralm_jax.data.cutting import Passages, tokens_dtype
from ralm_jax.data.texts import write_texts
from ralm_jax.errors import UserError


class ArrayWriter:
    """A .npy file that grows by rows; `finish` writes the header that says how many."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...]):
        self._dtype, self._row_shape, self.rows = np.dtype(dtype), row_shape, 0
        self._file = path.open("wb")
        self._header()

    def _header(self) -> None:
        # NumPy pads the header so that its length does not depend on the first dimension.
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.rows, *self._row_shape),
            },
        )

    def append(self, rows: np.ndarray) -> None:
        """Appends `rows`, [n, *row_shape]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def finish(self) -> None:
        """Completes the file and forces it to disk."""
        self._file.seek(0)
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, whether it is complete or not."""
        self._file.close()


class Repeats(NamedTuple):
    """Of a batch of n passages: which of them no batch before has, [n] bool; and by the row of such a one in
    the batch the further documents that hold it, in order."""

    new: np.ndarray
    more: dict[int, list[str]]


class CorpusWriter:
    """Fills the directory `path`, which becomes a corpus when it is renamed."""

    def __init__(self, path: Path, vocabulary_size: int, width: int):
        """The tokenizer is in `path` already."""
        self._path = path
        layout: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
            "tokens": (tokens_dtype(vocabulary_size), (width,)),
            "lengths": (np.uint16, (2,)),
            "ids": ("S32", ()),
            "sentences": (np.int32, (3,)),
            "spans": (np.int32, (4,)),
            "span_groups": (np.uint64, ()),
        }
        # Closed however this ends: the disk may be full when the third file is opened, or when what is
        # left of the first is written at its closing.
        with contextlib.ExitStack() as files:
            self._arrays = {
                name: files.enter_context(
                    contextlib.closing(ArrayWriter(path / f"{name}.npy", *columns))
                )
                for name, columns in layout.items()
            }
            self._spool = files.enter_context((path / "spool.jsonl").open("w+", encoding="utf-8"))
            self._sources = files.enter_context((path / DOCUMENTS).open("w", encoding="utf-8"))
            self._files = files.pop_all()
        # Content id -> row; row -> further documents with that passage.
        self._rows: dict[str, int] = {}
        self._more: dict[int, list[str]] = {}
        self._kinds: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    def add(self, batch: Passages, repeats: Repeats | None = None) -> None:
        """Appends a batch; passages already in the corpus only add to their list of documents.

        repeats: which these are, where that is known for all batches together.
        """
        contents: dict[str, list[str]] = {}
        for content, document in zip(batch.ids, batch.documents, strict=True):
            contents.setdefault(document, []).append(content)
        for id, digest_of in batch.sources:
            self._sources.write(json.dumps([id, digest_of, contents.get(id, [])]) + "\n")
        known = self.passages
        new = self._first(batch) if repeats is None else repeats.new
        rows = known + np.cumsum(new) - 1
        for i in np.flatnonzero(new).tolist():
            line = [batch.ids[i], batch.documents[i], *batch.texts[i]]
            self._spool.write(json.dumps(line) + "\n")
        if repeats is not None:
            self._more |= {int(rows[i]): documents for i, documents in repeats.more.items()}
        self._append(batch, new, known)
        self.counts.update(batch.counts)
        self.counts["rejected: passage given twice"] += int(np.count_nonzero(~new))

    def _first(self, batch: Passages) -> np.ndarray:
        """[n] bool, the passages that no batch before had; the documents of the others are kept."""
        new = np.zeros(len(batch.ids), bool)
        for i, (content, document) in enumerate(zip(batch.ids, batch.documents, strict=True)):
            if content in self._rows:
                self._more.setdefault(self._rows[content], []).append(document)
            else:
                new[i] = True
                self._rows[content] = len(self._rows)
        return new

    def _append(self, batch: Passages, new: np.ndarray, first_row: int) -> None:
        """Appends the passages `new` [n] bool, from row `first_row` on, and what lies in them."""
        arrays = self._arrays
        # [n] batch row -> corpus row, where new.
        rows = first_row + np.cumsum(new) - 1
        kept = new[batch.sentences[:, 0]]
        sentence_rows = arrays["sentences"].rows + np.cumsum(kept) - 1
        sentences = batch.sentences[kept]
        sentences[:, 0] = rows[sentences[:, 0]]
        kept_spans = kept[batch.spans[:, 0]]
        spans = batch.spans[kept_spans]
        spans[:, 0] = sentence_rows[spans[:, 0]]
        for kind in batch.kinds:
            self._kinds.setdefault(kind, len(self._kinds))
        if len(spans):
            spans[:, 3] = np.array([self._kinds[kind] for kind in batch.kinds])[spans[:, 3]]
            passages = batch.sentences[batch.spans[kept_spans, 0], 0]
            self.counts["passages with spans"] += len(np.unique(passages))
        arrays["tokens"].append(batch.tokens[new])
        arrays["lengths"].append(batch.lengths[new])
        arrays["ids"].append(np.array(batch.ids, "S32")[new])
        arrays["sentences"].append(sentences)
        arrays["spans"].append(spans)
        arrays["span_groups"].append(batch.span_groups[kept_spans])

    @property
    def passages(self) -> int:
        """How many there are so far."""
        return self._arrays["ids"].rows

    def finish(self, **settings: Any) -> dict[str, int]:
        """Completes every file, the manifest last; returns the counts in it."""
        if not self.passages:
            raise UserError(
                "no document has any text that gives a wordpiece; a corpus needs at least one passage"
            )
        for array in self._arrays.values():
            array.finish()
        write_texts(self._path / "texts", self._texts(), self.passages)
        self._sources.flush()
        os.fsync(self._sources.fileno())
        self.close()
        (self._path / "spool.jsonl").unlink()
        counts = {name: count for name, count in sorted(self.counts.items()) if count}
        counts |= {"passages": self.passages}
        counts |= {name: self._arrays[name].rows for name in ("sentences", "spans")}
        write_manifest(self._path, counts, **settings, kinds=list(self._kinds))
        return counts

    def close(self) -> None:
        """Closes the files, whether they are complete or not."""
        self._files.close()

    def _texts(self) -> Iterator[dict[str, list[str]]]:
        self._spool.seek(0)
        for row, line in enumerate(self._spool):
            content, document, title, text = json.loads(line)
            documents = [document, *self._more.get(row, ())]
            yield {"id": [content], "documents": documents, "title": [title], "text": [text]}


def write_manifest(path: Path, counts: dict[str, int], **settings: Any) -> str:
    """Completes a corpus: digests and sizes of its files, and what it holds; returns its fingerprint."""
    written = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = {str(file.relative_to(path)): sha256(file) for file in written}
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in written}
    fingerprint = fingerprint_of(files)
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        **settings,
        "counts": counts,
        "files": files,
        "sizes": sizes,
    }
    with (path / "manifest.json").open("w", encoding="utf-8") as file:
        json.dump(sealed(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return fingerprint

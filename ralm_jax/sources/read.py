"""Where documents come from: files and folders in the formats people have, data sets by name.

What a file holds is told by its first bytes and its first record, not by its name. Whatever is wrong with a
source is a `UserError` that names the file and the line.
"""

import contextlib
import functools
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ralm_jax.errors import UserError
from ralm_jax.formats import arrow, tables
from ralm_jax.formats.json_records import json_records
from ralm_jax.formats.lines import Records, first_line
from ralm_jax.formats.sets import corpus_files
from ralm_jax.metrics.plain_text import blank
from ralm_jax.sources.documents import Document
from ralm_jax.sources.folder import SUFFIXES, read_file, read_folder
from ralm_jax.sources.records import TEXTS, USUAL, Columns, documents_of

FORMS = (
    "a file or a folder of JSON, CSV, TSV, Parquet, Arrow or text, tfds:NAME, hf:OWNER/NAME, or - for "
    "standard input"
)
STDIN = "-"


class Source(NamedTuple):
    """A source as it was given, what it was taken for in words, and its documents in an order of its own.

    `documents` is called with where to count what is left out.
    """

    name: str
    kind: str
    documents: Callable[[Counter[str]], Iterator[Document]]

    def read(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """The documents that have text.

        Args:
          counts: gets the numbers of what was rejected, by reason, when all documents have been read.
        Raises:
          UserError: the source cannot be read, is malformed or has no document.
        """
        rejected: Counter[str] = Counter()
        found = False
        try:
            for document in self.documents(rejected):
                # Most texts begin with something visible, which spares searching all of the text.
                if blank(document.text[:100]) and blank(document.text):
                    rejected["rejected: document without text"] += 1
                    continue
                found = True
                yield document
        except OSError as error:
            # It must not pass for a failure to write what is made of the documents.
            raise UserError(f"{self.name} cannot be read: {error.strerror or error}") from error
        if not found:
            raise UserError(_no_documents(self.name, rejected))
        if counts is not None:
            counts.update(rejected)


def read_documents(
    source: str, counts: Counter[str] | None = None, columns: Columns = USUAL
) -> Iterator[Document]:
    """The documents of a source, as `recognise` and `Source.read` say."""
    yield from recognise(source, columns).read(counts)


def recognise(source: str, columns: Columns = USUAL) -> Source:
    """What a source is.

    Records of JSON lines, a JSON array, CSV or TSV with a header, Parquet or Arrow have a text and, if you
    have them, an id, a title and (in JSON) `spans`, each with `start`, `stop`, `kind` and perhaps `fact`,
    under the names that `records` knows. MS MARCO's TSV has no header. A folder is a set of BEIR, MTEB,
    `datasets` or LlamaIndex, records in several files, or texts and pages, a document each. Any file may be
    compressed by gzip or bzip2. `tfds:NAME[/CONFIG][:SPLIT]` and `hf:OWNER/NAME[/CONFIG][:SPLIT]` are data
    sets by name.

    Raises UserError where there is no such source, or nothing that is known here.
    """
    if source.startswith("tfds:"):
        # Importing TFDS takes half a second, which other sources need not wait for.
        from ralm_jax.sources.tfds import read_tfds

        name = source.removeprefix("tfds:")
        return Source(source, "a TFDS data set", lambda rejected: read_tfds(name))
    if source.startswith("hf:"):
        from ralm_jax.sources.hub import dataset_files

        files = dataset_files(source.removeprefix("hf:"))
        return _records(source, "Parquet of the Hugging Face hub", files, columns)
    path = Path(source)
    if path.is_dir():
        if (found := corpus_files(path)) is not None:
            return _records(source, found.kind, found.files, columns)
        return Source(source, "a folder of texts", functools.partial(read_folder, path))
    if not path.exists():
        raise UserError(f"the source {source} does not exist; give {FORMS}")
    if not path.is_file():
        raise UserError(f"{source}: cannot read documents from this; give {FORMS}")
    if path.suffix.lower() in SUFFIXES:
        return Source(source, "one text", lambda rejected: iter([read_file(path, path.parent)]))
    return _records(source, _kind(path, columns), [path], columns)


@contextlib.contextmanager
def opened(source: str, columns: Columns = USUAL) -> Iterator[Source]:
    """A source that can be read more than once: standard input, named -, is copied to a file meanwhile.

    Raises UserError as `recognise` does.
    """
    if source != STDIN:
        yield recognise(source, columns)
        return
    with tempfile.TemporaryDirectory(prefix="ralm-") as folder:
        path = Path(folder, "stdin")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield recognise(str(path), columns)._replace(name="standard input")
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from None


def _records(name: str, kind: str, files: Sequence[Path], columns: Columns) -> Source:
    def documents(rejected: Counter[str]) -> Iterator[Document]:
        each = (record for file in files for record in records(file, columns))
        return documents_of(each, columns)

    return Source(name, kind, documents)


def records(path: Path, columns: Columns = USUAL) -> Records:
    """Where each record of a file of documents stands, and its fields."""
    if arrow.is_columnar(path):
        return arrow.column_records(path)
    first = first_line(path)
    if not first or first[0] in "{[":
        return json_records(path)
    if (names := tables.header(path, _known(columns))) is not None:
        return tables.table_records(path, names)
    return (
        (where, {"id": id, "text": text})
        for where, (id, text) in tables.bare_rows(path, 2, "id and text")
    )


def _kind(path: Path, columns: Columns) -> str:
    """Raises UserError for a file that holds nothing known."""
    if arrow.is_columnar(path):
        return "Parquet" if arrow.is_parquet(path) else "Arrow"
    first = first_line(path)
    if not first or first[0] in "{[":
        return (
            "JSON lines" if first.startswith("{") else "a JSON array" if first else "an empty file"
        )
    if (names := tables.header(path, _known(columns))) is not None:
        return f"a table of {', '.join(names)}"
    if first.count("\t") == 1:
        return "a TSV of ids and texts without a header"
    named = f"there is no column {columns.text!r}" if columns.text else "no column is called text"
    raise UserError(
        f"{path}, line 1: cannot read documents from a file of this kind: {named} in "
        f"{first[:80]!r}; name the column with --text-column, or give {FORMS}"
    )


def _known(columns: Columns) -> Sequence[str]:
    return (columns.text,) if columns.text else TEXTS


def _no_documents(source: str, rejected: Counter[str]) -> str:
    seen = [f"{reason}: {number}" for reason, number in sorted(rejected.items())]
    message = f"{source}: no documents ({', '.join(seen) or 'it is empty'})"
    if os.path.isdir(source):
        return f"{message}; give a folder with {', '.join(SUFFIXES)} files"
    return f"{message}; a corpus needs at least one"

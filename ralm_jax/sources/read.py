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
from collections.abc import Callable, Generator, Iterator, Sequence
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
from ralm_jax.sources.shards import expand, is_sharded, local

FORMS = (
    "a file or a folder of JSON, CSV, TSV, Parquet, Arrow or text, a pattern of files, tfds:NAME, "
    "hf:OWNER/NAME, or - for standard input"
)
STDIN, EMPTY = "-", "an empty file"
WITHOUT_TEXT = "rejected: document without text"


class Source(NamedTuple):
    """A source as it was given, what it was taken for in words, and its documents in an order of its own.

    `documents` is called with where to count what is left out.
    """

    name: str
    kind: str
    documents: Callable[[Counter[str]], Iterator[Document]]
    # Those that hold its records, if any do, and whether they must be of one kind.
    files: tuple[str, ...] = ()
    alike: bool = False

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
                if not has_text(document):
                    rejected[WITHOUT_TEXT] += 1
                    continue
                found = True
                yield document
        except OSError as error:
            # It must not pass for a failure to write what is made of the documents.
            raise UserError(f"{self.name} cannot be read: {error.strerror or error}") from error
        if not found:
            raise no_documents(self.name, rejected)
        if counts is not None:
            counts.update(rejected)


def has_text(document: Document) -> bool:
    """Whether there is anything to see in a document."""
    # Most texts begin with something visible, which spares searching all of the text.
    return not (blank(document.text[:100]) and blank(document.text))


def read_documents(
    source: str | Sequence[str], counts: Counter[str] | None = None, columns: Columns = USUAL
) -> Iterator[Document]:
    """The documents of a source, as `recognise` and `Source.read` say."""
    yield from recognise(source, columns).read(counts)


def recognise(source: str | Sequence[str], columns: Columns = USUAL) -> Source:
    """What a source is: one file, folder or name, or files of records as `shards` has them.

    Records of JSON lines, a JSON array, CSV or TSV with a header, Parquet or Arrow have a text and, if you
    have them, an id, a title and (in JSON) `spans`, each with `start`, `stop`, `kind` and perhaps `fact`,
    under the names that `records` knows. MS MARCO's TSV has no header. A folder is a set of BEIR, MTEB,
    `datasets` or LlamaIndex, records in several files, or texts and pages, a document each. Any file may be
    compressed by gzip or bzip2. `tfds:NAME[/CONFIG][:SPLIT]` and `hf:OWNER/NAME[/CONFIG][:SPLIT]` are data
    sets by name.

    Raises UserError where there is no such source, or nothing that is known here.
    """
    if is_sharded(source):
        names = expand(source)
        name = source if isinstance(source, str) else " ".join(source)
        kind = f"{len(names)} file{'s' if len(names) > 1 else ''} of records"
        return _records(name, kind, names, columns, alike=True)
    assert isinstance(source, str)
    if source.startswith("tfds:"):
        # Importing TFDS takes half a second, which other sources need not wait for.
        from ralm_jax.sources.tfds import read_tfds

        name = source.removeprefix("tfds:")
        return Source(source, "a TFDS data set", lambda rejected: read_tfds(name))
    if source.startswith("hf:"):
        from ralm_jax.sources.hub import dataset_files

        files = dataset_files(source.removeprefix("hf:"))
        return _records(source, "Parquet of the Hugging Face hub", _names(files), columns)
    path = Path(source)
    if path.is_dir():
        if (found := corpus_files(path)) is not None:
            return _records(source, found.kind, _names(found.files), columns)
        return Source(source, "a folder of texts", functools.partial(read_folder, path))
    if not path.exists():
        raise UserError(f"the source {source} does not exist; give {FORMS}")
    if not path.is_file():
        raise UserError(f"{source}: cannot read documents from this; give {FORMS}")
    if path.suffix.lower() in SUFFIXES:
        return Source(source, "one text", lambda rejected: iter([read_file(path, path.parent)]))
    return _records(source, kind_of(path, columns), [source], columns)


def _names(files: Sequence[Path]) -> list[str]:
    return [str(file) for file in files]


@contextlib.contextmanager
def opened(source: str | Sequence[str], columns: Columns = USUAL) -> Generator[Source]:
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


def _records(
    name: str, kind: str, files: Sequence[str], columns: Columns, *, alike: bool = False
) -> Source:
    def records_of() -> Records:
        kinds: dict[str, str] = {}
        for file in files:
            with local(file) as path:
                if alike:
                    kinds[file] = kind_of(path, columns)
                    check_alike(kinds)
                yield from records(path, columns)

    def documents(rejected: Counter[str]) -> Iterator[Document]:
        return documents_of(records_of(), columns)

    return Source(name, kind, documents, tuple(files), alike)


def check_alike(kinds: dict[str, str]) -> None:
    """Raises UserError where files, by their names, are not of one kind. Empty ones are of any."""
    first = next((name for name, kind in kinds.items() if kind != EMPTY), None)
    for name, kind in kinds.items():
        if first is not None and kind not in (EMPTY, kinds[first]):
            raise UserError(
                f"{name} is {kind}, and {first} is {kinds[first]}; give files of one kind"
            )


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


def kind_of(path: Path, columns: Columns) -> str:
    """What a file of records holds, in words. Raises UserError where it is nothing known."""
    if arrow.is_columnar(path):
        return "Parquet" if arrow.is_parquet(path) else "Arrow"
    first = first_line(path)
    if not first or first[0] in "{[":
        return "JSON lines" if first.startswith("{") else "a JSON array" if first else EMPTY
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


def no_documents(source: str, rejected: Counter[str]) -> UserError:
    """The error for a source in which there is no text."""
    seen = [f"{reason}: {number}" for reason, number in sorted(rejected.items())]
    message = f"{source}: no documents ({', '.join(seen) or 'it is empty'})"
    if os.path.isdir(source):
        return UserError(f"{message}; give a folder with {', '.join(SUFFIXES)} files")
    return UserError(f"{message}; a corpus needs at least one")

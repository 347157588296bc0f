"""The first pass on Apache Beam: a worker reads each file of the source, and looks at what is in it.

What a worker finds is left in the working folder, which all of them share with the process that began.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from ralm_jax.engines import runner
from ralm_jax.engines.runner import Runner
from ralm_jax.errors import UserError
from ralm_jax.sources.documents import Document
from ralm_jax.sources.read import (
    WITHOUT_TEXT,
    Source,
    check_alike,
    has_text,
    kind_of,
    no_documents,
    recognise,
    records,
)
from ralm_jax.sources.records import Columns, documents_of, is_numbered
from ralm_jax.sources.shards import local


class File(NamedTuple):
    """A file of records, or a source of another kind as a whole.

    `begun`: records of the files before it. `numbered`: whether the first of all has no id; None where that
    is to be seen from this one.
    """

    name: str
    number: int
    columns: Columns
    is_records: bool = True
    begun: int = 0
    numbered: bool | None = None

    def read(self, rejected: Counter[str]) -> Iterator[Document]:
        """The documents that have text, as `Source.read` gives them of the whole."""
        if self.is_records:
            with local(self.name) as path:
                found = documents_of(
                    records(path, self.columns), self.columns, self.begun, self.numbered
                )
                yield from _with_text(found, rejected)
            return
        source = recognise(self.name, self.columns)
        yield from _with_text(source.documents(rejected), rejected)


def _with_text(documents: Iterable[Document], rejected: Counter[str]) -> Iterator[Document]:
    for document in documents:
        if has_text(document):
            yield document
        else:
            rejected[WITHOUT_TEXT] += 1


class Found(NamedTuple):
    """What is in a file: records, what was left out of them, whether any came without spans; its kind in
    words; and the characters of each document, int64 [n]."""

    records: int
    rejected: dict[str, int]
    untagged: bool
    kind: str
    lengths: np.ndarray


def files_of(source: Source, columns: Columns) -> list[File]:
    """What workers read of a source, each by itself."""
    if not source.files:
        return [File(source.name, 0, columns, is_records=False)]
    numbered = None
    if len(source.files) > 1:
        with local(source.files[0]) as path:
            first = next((record for _, record in records(path, columns)), None)
        numbered = is_numbered(first, columns)
    return [
        File(name, number, columns, numbered=None if number == 0 else numbered)
        for number, name in enumerate(source.files)
    ]


def survey(engine: Runner, source: Source, files: list[File], folder: Path) -> list[Found]:
    """Goes over all files.

    Raises UserError where one cannot be read or is malformed, an id is in two of them, they are not of one
    kind, or there is no document.
    """

    def build(pipeline):
        ids = pipeline | beam.Create(files) | beam.Reshuffle()
        ids = ids | "look" >> beam.FlatMap(functools.partial(_look, folder=folder))
        twice = ids | beam.GroupByKey() | beam.FlatMap(_more_than_one)
        twice | "report" >> beam.Map(functools.partial(_report_twice, folder=folder))

    runner.run(engine, build, folder)
    found = [_found(folder, file.number) for file in files]
    if source.alike:
        check_alike({file.name: each.kind for file, each in zip(files, found, strict=True)})
    for report in sorted(folder.glob("twice-*.json")):
        id, first, second = json.loads(report.read_text("utf-8"))
        raise UserError(
            f"{files[second].name}: the id {id!r} already occurs in {files[first].name}; give every document "
            "an id of its own"
        )
    if not any(len(each.lengths) for each in found):
        raise no_documents(source.name, sum((Counter(each.rejected) for each in found), Counter()))
    return found


def _look(file: File, folder: Path) -> Iterator[tuple[str, int]]:
    """Leaves what is in a file, and gives each id with the number of the file."""
    rejected: Counter[str] = Counter()
    lengths, untagged, ids = [], False, []
    with runner.reported(folder, file.number):
        for document in file.read(rejected):
            untagged |= document.spans is None
            lengths.append(len(document.text))
            ids.append(document.id)
        about: dict[str, Any] = {
            "records": len(lengths) + rejected[WITHOUT_TEXT],
            "rejected": rejected,
            "untagged": untagged,
            "kind": _kind(file),
        }
    np.save(folder / f"lengths-{file.number:08d}.npy", np.array(lengths, np.int64))
    runner.write_json(folder / f"found-{file.number:08d}.json", about)
    # Numbers given to documents are all unlike.
    if file.is_records and not file.numbered:
        yield from ((id, file.number) for id in ids)


def _kind(file: File) -> str:
    if not file.is_records:
        return ""
    with local(file.name) as path:
        return kind_of(path, file.columns)


def _more_than_one(group: tuple[str, Iterable[int]]) -> Iterator[tuple[str, int, int]]:
    id, numbers = group
    if len(found := sorted(numbers)) > 1:
        yield id, found[0], found[1]


def _report_twice(twice: tuple[str, int, int], folder: Path) -> None:
    """Of several, that which comes first is reported, whichever worker comes first."""
    runner.write_json(folder / f"twice-{twice[2]:08d}-{twice[0].encode().hex()[:64]}.json", twice)


def _found(folder: Path, number: int) -> Found:
    about = json.loads((folder / f"found-{number:08d}.json").read_text("utf-8"))
    return Found(**about, lengths=np.load(folder / f"lengths-{number:08d}.npy"))

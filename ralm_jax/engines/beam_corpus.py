"""A corpus prepared on Apache Beam: the very bytes that one machine writes (see `data.prepare`).

Workers read files, and cut the batches of documents that one machine would cut. Passages that occur more than
once are found by their content ids, over all batches; the first is kept. The process that began puts the
batches together in order, which is no more than copying.
"""

import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from ralm_jax.data import salient
from ralm_jax.data.corpus import TAGGER
from ralm_jax.data.corpus_writer import Repeats
from ralm_jax.data.cutting import Cutter, Passages
from ralm_jax.data.prepare import EvenSample, Survey, grouped
from ralm_jax.data.workers import CutterMaker
from ralm_jax.engines import beam_files, runner
from ralm_jax.engines.beam_files import File
from ralm_jax.engines.runner import Runner
from ralm_jax.errors import UserError
from ralm_jax.sources.documents import Document, GivenSpan
from ralm_jax.sources.read import Source
from ralm_jax.sources.records import USUAL, Columns

# (row of a batch, further documents that hold its passage); None where the passage itself is known already.
_Row = tuple[int, list[str] | None]
_ARRAYS = ("tokens", "lengths", "sentences", "spans", "span_groups")


class Slice(NamedTuple):
    """A file, the number of its first document among those of all files, and how many it has."""

    file: File
    first: int
    documents: int

    def read(self, folder: Path) -> Iterator[tuple[int, Document]]:
        """Its documents with their numbers. Raises UserError where it is not as it was."""
        number = self.first
        with runner.reported(folder, self.file.number):
            for number, document in enumerate(self.file.read(Counter()), self.first + 1):
                yield number - 1, document
            if number - self.first != self.documents:
                raise UserError(f"{self.file.name} has changed while it was read; prepare it again")


class BeamPasses:
    """The two passes of `data.prepare.prepare` on an engine that shares the folder of the corpus."""

    def __init__(self, engine: Runner, columns: Columns = USUAL):
        self._engine, self._columns = engine, columns

    def survey(self, source: Source, folder: Path) -> Survey:
        """As `data.prepare.Passes` says; what is in the files is seen first, then the sample is fetched."""
        self._folder = folder.absolute() / "engine"
        self._folder.mkdir()
        files = beam_files.files_of(source, self._columns)
        found = beam_files.survey(self._engine, source, files, self._folder)
        self._rejected = sum((Counter(each.rejected) for each in found), Counter())
        self._slices, begun, first = [], 0, 0
        for file, each in zip(files, found, strict=True):
            size = len(each.lengths)
            self._slices.append(Slice(file._replace(begun=begun), first, size))
            begun, first = begun + each.records, first + size
        lengths = np.concatenate([each.lengths for each in found]).tolist()
        sizes = [len(batch) for batch in grouped(lengths, int)]
        # The number of the first document of each batch.
        self._begins = np.cumsum([0, *sizes[:-1]])
        sample = EvenSample[int](int)
        for length in lengths:
            sample.add(length)
        untagged = any(each.untagged for each in found)
        return Survey(self._sample(sample.stride), untagged, len(lengths))

    def _sample(self, stride: int) -> list[str]:
        take = functools.partial(_take, stride=stride, folder=self._folder)
        runner.run(
            self._engine,
            lambda pipeline: (
                pipeline | beam.Create(self._slices) | beam.Reshuffle() | beam.Map(take)
            ),
            self._folder,
        )
        files = sorted(self._folder.glob("sample-*.json"))
        return [text for file in files for text in json.loads(file.read_text("utf-8"))]

    def cut(
        self, cutting: CutterMaker, rejected: Counter[str]
    ) -> Iterator[tuple[Passages, Repeats | None]]:
        """As `data.prepare.Passes` says."""
        read = functools.partial(_batched, begins=self._begins, folder=self._folder)

        def build(pipeline):
            batches = (
                pipeline
                | beam.Create(self._slices)
                | beam.Reshuffle()
                | "read" >> beam.FlatMap(read)
                | "batches" >> beam.GroupByKey()
            )
            (
                batches
                | "cut" >> beam.ParDo(_Cut(_light(cutting), self._folder))
                | "contents" >> beam.GroupByKey()
                | "repeats" >> beam.FlatMap(_repeated)
                | "rows" >> beam.GroupByKey()
                | "keep" >> beam.Map(functools.partial(_keep, folder=self._folder))
            )

        runner.run(self._engine, build, self._folder)
        for number in range(len(self._begins)):
            passages = _read(self._folder / f"passages-{number:08d}.npz")
            yield passages, _repeats(self._folder, number, len(passages.ids))
        rejected.update(self._rejected)
        shutil.rmtree(self._folder)


def _light(cutting: CutterMaker) -> CutterMaker:
    """Without a tagger that was learnt, which is in a file, and too large to be sent with a pipeline."""
    cutting = cutting._replace(vocab_file=cutting.vocab_file.absolute())
    learnt = isinstance(cutting.tagger, salient.CorpusTagger)
    return cutting._replace(tagger=salient.no_spans) if learnt else cutting


def _take(part: Slice, stride: int, folder: Path) -> None:
    texts = [document.text for number, document in part.read(folder) if number % stride == 0]
    runner.write_json(folder / f"sample-{part.file.number:08d}.json", texts)


def _batched(part: Slice, begins: np.ndarray, folder: Path) -> Iterator[tuple[int, tuple]]:
    """Documents as plain tuples, which every engine can send, with the number of their batch."""
    for number, document in part.read(folder):
        batch = int(np.searchsorted(begins, number, "right")) - 1
        spans = document.spans and tuple(tuple(span) for span in document.spans)
        yield batch, (number, *document[:3], spans)


class _Cut(beam.DoFn):
    """Cuts a batch, leaves its passages in a file, and gives each content id with where it stands."""

    def __init__(self, cutting: CutterMaker, folder: Path):
        self._cutting, self._folder = cutting, folder
        self._cutter: Cutter | None = None

    def setup(self) -> None:
        # An engine has a process a core already.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        cutting, file = self._cutting, self._folder.parent / TAGGER
        if cutting.tagger is salient.no_spans and file.exists():
            cutting = cutting._replace(tagger_file=file)
        self._cutter = cutting.make()

    def process(
        self, element: tuple[int, Iterable[tuple]]
    ) -> Iterator[tuple[str, tuple[int, int, str]]]:
        assert self._cutter is not None
        number, found = element
        documents = [
            Document(id, title, text, spans and tuple(GivenSpan(*span) for span in spans))
            for _, id, title, text, spans in sorted(found, key=lambda each: each[0])
        ]
        passages = self._cutter(documents)
        _write(self._folder / f"passages-{number:08d}.npz", passages)
        for row, (id, document) in enumerate(zip(passages.ids, passages.documents, strict=True)):
            yield id, (number, row, document)


def _repeated(group: tuple[str, Iterable[tuple[int, int, str]]]) -> Iterator[tuple[int, _Row]]:
    """Of a passage that stands in several places: the first keeps it, with the documents of the others."""
    (batch, row, _), *others = sorted(group[1])
    if others:
        yield batch, (row, [document for *_, document in others])
        yield from ((number, (again, None)) for number, again, _ in others)


def _keep(group: tuple[int, Iterable[_Row]], folder: Path) -> None:
    runner.write_json(folder / f"repeats-{group[0]:08d}.json", list(group[1]))


def _repeats(folder: Path, number: int, size: int) -> Repeats:
    file = folder / f"repeats-{number:08d}.json"
    rows: list[_Row] = json.loads(file.read_text("utf-8")) if file.exists() else []
    new = np.ones(size, bool)
    new[[row for row, documents in rows if documents is None]] = False
    return Repeats(new, {row: documents for row, documents in rows if documents is not None})


def _write(file: Path, passages: Passages) -> None:
    """Arrays as they are, and the rest as JSON."""
    record: dict[str, Any] = {k: v for k, v in passages._asdict().items() if k not in _ARRAYS}
    arrays = {name: getattr(passages, name) for name in _ARRAYS}
    arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    partial = file.with_name(f".{file.name}.{os.getpid()}.{id(arrays)}")
    with partial.open("wb") as opened:
        np.savez(opened, **arrays)
    partial.replace(file)


def _read(file: Path) -> Passages:
    with np.load(file) as arrays:
        record = json.loads(arrays["record"].tobytes())
        record["counts"] = Counter(record["counts"])
        for name in ("texts", "sources"):
            record[name] = [tuple(pair) for pair in record[name]]
        return Passages(**record, **{name: arrays[name] for name in _ARRAYS})

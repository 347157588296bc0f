"""The texts of passages: a TFDS dataset in ArrayRecord, read at random and without TensorFlow.

    texts/            id, documents, title and text of each record
    text_rows.npy     [N] int64: the record of each passage; not there where they are in the same order

An update adds records to those before it and leaves them as they are: files are shared between versions.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax import json_text, versions
from ralm_jax.arrays import mapped
from ralm_jax.errors import UserError
from ralm_jax.terminal import watched

TEXTS, ROWS = "texts", "text_rows.npy"
_TEXTS_PER_SHARD, _READ_TOGETHER = 1 << 18, 1 << 12


class Texts:
    """Random access to the id, documents, title and text of each passage, as bytes."""

    def __init__(self, folder: Path):
        with _explained(folder):
            self.source: Any = _source(folder / TEXTS)
        self._folder = folder
        self.rows = np.array(mapped(folder / ROWS)) if (folder / ROWS).exists() else None

    @property
    def shards(self) -> int:
        """Files that hold the records."""
        return len(self.source.dataset_info.splits["train"].shard_lengths)

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        with _explained(self._folder):
            return self.source[int(row) if self.rows is None else int(self.rows[row])]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), _READ_TOGETHER):
            yield from self.read(range(start, min(start + _READ_TOGETHER, len(self))))

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Those of some passages, all at once: some thirty times as fast as one by one."""
        # Without what TFDS does for datasets of any features.
        from tensorflow_datasets.proto import tf_example_pb2

        # Of no rows its reader finds no threads to read them with.
        if not len(rows):
            return []
        decoded: Any = tf_example_pb2
        numbers = list(rows) if self.rows is None else self.rows[rows].tolist()
        with _explained(self._folder):
            found = self.source.data_source.__getitems__(numbers)
            return [_record(decoded.Example.FromString(raw).features.feature) for raw in found]


def _record(features: Any) -> dict[str, Any]:
    """Raises ValueError where it is none of ours."""
    named = {name: list(features[name].bytes_list.value) for name in ("id", "title", "text")}
    record: dict[str, Any] = {name: value for name, (value,) in named.items()}
    return {**record, "documents": list(features["documents"].bytes_list.value)}


@contextlib.contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Of a damaged dataset, TFDS and its readers raise whatever they meet."""
    try:
        yield
    except (OSError, IndexError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the corpus {folder} is damaged: {TEXTS} cannot be read ({said}); prepare it again"
        ) from None


def _source(path: Path) -> Any:
    """The dataset, given that it has our features. Raises ValueError where it has others."""
    # The import takes half a second, and training needs no texts.
    import tensorflow_datasets as tfds

    # TFDS imports the classes that are named here, and a corpus may be a stranger's.
    for name in _classes(json_text.parse((path / "features.json").read_text("utf-8"))):
        if not str(name).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"its features are of {name}")
    source: Any = tfds.builder_from_directory(path).as_data_source(split="train")
    if repr(source.dataset_info.features) != repr(_features()):
        raise ValueError("its features are others")
    return source


def _classes(found: Any) -> Iterator[Any]:
    """The names of classes in the features of a dataset, in the forms that TFDS has had for them."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key.replace("_", "").lower() in ("pythonclassname", "type"):
                yield value
            yield from _classes(value)
    elif isinstance(found, list):
        for value in found:
            yield from _classes(value)


def _features() -> Any:
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    several = {"documents": tfds.features.Sequence(text)}
    return tfds.features.FeaturesDict({"id": text, **several, "title": text, "text": text})


def write_texts(
    path: Path,
    records: Iterator[dict[str, list[str]]],
    size: int,
    before: Path | None = None,
) -> None:
    """Writes `size` records as a TFDS dataset, behind those of the dataset `before`, which it shares."""
    # Half a second to import, and worker processes have no use for it.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    # Its classes are made at run time.
    messages: Any = tf_example_pb2
    path.mkdir()
    features = _features()
    template = tfds.core.ShardedFileTemplate(
        data_dir=path, dataset_name="texts", split="train", filetype_suffix="array_record"
    )
    num_bytes, shared, files = _shards(before)
    records = watched(records, "writing texts", size)
    new = [min(_TEXTS_PER_SHARD, size - first) for first in range(0, size, _TEXTS_PER_SHARD)]
    shards = shared + new
    for shard, length in enumerate(shards):
        file = template.sharded_filepath(shard_index=shard, num_shards=len(shards))
        if shard < len(shared):
            versions.link(files[shard], Path(file))
            continue
        with _record_writer(file) as writer:
            for record in itertools.islice(records, length):
                example = messages.Example()
                for name, values in record.items():
                    encoded_values = [value.encode() for value in values]
                    example.features.feature[name].bytes_list.value.extend(encoded_values)
                encoded = example.SerializeToString(deterministic=True)
                num_bytes += len(encoded)
                writer.write(encoded)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="texts", version=tfds.core.Version("1.0.0"), data_dir=str(path), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=features,
        description="The passages of a ralm_jax corpus, in row order.",
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=shards, num_bytes=num_bytes, filename_template=template
    )
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(path)


def _shards(before: Path | None) -> tuple[int, list[int], list[Path]]:
    """Bytes, numbers of records and files of a dataset; of none, nothing."""
    if before is None:
        return 0, [], []
    import tensorflow_datasets as tfds

    split = tfds.builder_from_directory(before).info.splits["train"]
    return split.num_bytes, list(split.shard_lengths), [Path(file) for file in split.filepaths]


@contextlib.contextmanager
def _record_writer(file: Path) -> Generator[Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        # One record a chunk, for random access.
        writer = ArrayRecordWriter(str(file), "group_size:1")
        yield writer
        writer.close()
    except RuntimeError as error:
        # The system's error comes as text: "write() failed: File too large; writing FILE; at byte ..."
        raise OSError(str(error).split(";")[0]) from error

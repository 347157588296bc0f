"""Documents of a TFDS dataset, read without TensorFlow.

Understands any dataset with a text field, the markup of wiki40b, and the spans of
salient_span_wikipedia, which are byte offsets.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ralm_jax.errors import UserError
from ralm_jax.sources.documents import Document, GivenSpan

TEXT_FIELDS = ("text", "plain_text", "body", "article", "document", "content")
_ARTICLE = re.compile(r"_START_ARTICLE_\n(.*)\n")
_PARAGRAPH = re.compile(r"_START_PARAGRAPH_\n(.*?)(?=\n_START_|\Z)", re.DOTALL)


def read_tfds(name: str) -> Iterator[Document]:
    """The documents of `NAME[/CONFIG][:SPLIT]`, by default of its train split, with text or without.

    Raises UserError where the dataset cannot be read here or has no field of text.
    """
    name, split, records = open_split(name)
    field = next((field for field in TEXT_FIELDS if field in records.features), None)
    if field is None:
        raise UserError(
            f"tfds:{name} has none of the fields {', '.join(TEXT_FIELDS)}, only "
            f"{', '.join(records.features)}; export it as JSONL"
        )
    return (_document(record, field, f"{split}-{i}") for i, record in enumerate(records))


class Records:
    """The records of a split, in order, and the features that each of them has."""

    def __init__(self, source: Any, features: Any):
        self._source, self.features = source, features

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._source[i] for i in range(len(self._source)))


def open_split(name: str) -> tuple[str, str, Records]:
    """The name, the split (train by default) and the records of `NAME[/CONFIG][:SPLIT]`.

    A dataset that has been prepared in a format with random access is read where TFDS finds it
    (TFDS_DATA_DIR); any other is downloaded and prepared.

    Raises:
      UserError: there is no such split, or reading or preparing the dataset needs TensorFlow, or
        the download failed.
    """
    name, _, split = name.partition(":")
    split = split or "train"
    builder = _builder(name)
    if split not in builder.info.splits:
        raise UserError(
            f"tfds:{name} has no split {split!r}; it has {', '.join(builder.info.splits)}"
        )
    try:
        records = builder.as_data_source(split=split)
    except (NotImplementedError, ImportError):
        raise UserError(_needs_tensorflow(name, "it was prepared as TFRecord")) from None
    return name, split, Records(records, builder.info.features)


def _builder(name: str) -> Any:
    try:
        return tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.registered.DatasetNotFoundError:
        # It has not been prepared yet.
        pass
    try:
        builder = tfds.builder(name, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(
            _needs_tensorflow(name, "TFDS finds neither files nor a builder of that name")
        ) from None
    try:
        builder.download_and_prepare()
    except ImportError as error:
        raise UserError(_needs_tensorflow(name, f"preparing it needs {error.name}")) from None
    except OSError as error:
        raise UserError(f"tfds:{name} could not be downloaded: {error}") from None
    return builder


def _needs_tensorflow(name: str, why: str) -> str:
    dataset = name.partition("/")[0]
    return (
        f"tfds:{name} cannot be read here: {why}. Where TensorFlow is installed run "
        f"`tfds build {name} --file_format=array_record`, then set TFDS_DATA_DIR to the folder "
        f"that contains {dataset}/ (or export it as JSONL)"
    )


def _document(record: dict[str, Any], field: str, key: str) -> Document:
    data: bytes = record[field]
    text = data.decode("utf-8", "replace")
    title = record.get("title", b"").decode("utf-8", "replace")
    if article := _ARTICLE.search(text):
        paragraphs = (p.replace("_NEWLINE_", "\n\n").strip() for p in _PARAGRAPH.findall(text))
        return Document(key, article[1].strip(), "\n\n".join(paragraphs))
    spans = None
    if isinstance(record.get("spans"), dict) and "limit" in record["spans"]:
        spans = _character_spans(data, record["spans"])
    return Document(key, title, text, spans)


def _character_spans(data: bytes, spans: dict[str, np.ndarray]) -> tuple[GivenSpan, ...]:
    """Converts offsets in bytes of UTF-8 text to offsets in characters."""
    begins_character = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    # The number of characters before each byte.
    characters = np.concatenate(([0], np.cumsum(begins_character)))
    starts, stops = (characters[np.asarray(spans[key], int)].tolist() for key in ("start", "limit"))
    kinds = [kind.decode().lower() for kind in spans["type"]]
    return tuple(map(GivenSpan, starts, stops, kinds))

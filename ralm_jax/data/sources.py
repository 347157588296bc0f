"""Where documents come from."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ralm_jax.errors import UserError


class GivenSpan(NamedTuple):
    """A salient span that came with the data, text[start:stop]; two passages that state one fact share `fact`."""

    start: int
    stop: int
    kind: str
    fact: str | None = None


class Document(NamedTuple):
    """One document; `spans` is None where the data says nothing about salient spans."""

    id: str
    title: str
    text: str
    spans: tuple[GivenSpan, ...] | None = None


def read_documents(source: str) -> Iterator[Document]:
    """The documents of `source`, in order; a `UserError` names the file and the line of what is wrong."""
    path = Path(source)
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        return _read_jsonl(path)
    raise UserError(f"unknown source {source!r}: give a .jsonl or .jsonl.gz file")


def _read_jsonl(path: Path) -> Iterator[Document]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}, after line {number}: broken gzip ({error}); fetch the file again"
        ) from None


def _parse(line: bytes, place: str) -> Document:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: not UTF-8 (byte {error.start}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected an object with id, title and text")
    for field in ("id", "title", "text"):
        value = record.get(field)
        if field not in record:
            raise UserError(f"{place}: the field {field!r} is missing")
        if not isinstance(value, str):
            raise UserError(
                f"{place}: the field {field!r} must be a string, not {json.dumps(value)[:40]}"
            )
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{place}: the field {field!r} holds half of a surrogate pair"
                ) from None
    if not record["text"].strip():
        raise UserError(f"{place}: the passage {record['id']!r} has no text")
    return Document(record["id"], record["title"], record["text"], _parse_spans(record, place))


def _parse_spans(record: dict, place: str) -> tuple[GivenSpan, ...] | None:
    if record.get("spans") is None:
        return None
    spans = []
    for entry in record["spans"]:
        try:
            span = GivenSpan(entry["start"], entry["stop"], entry["kind"], entry.get("fact"))
            valid = 0 <= span.start < span.stop <= len(record["text"]) and isinstance(
                span.kind, str
            )
        except (KeyError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise UserError(
                f"{place}: a span needs character offsets start < stop within the text, and a kind; "
                f"not {json.dumps(entry)[:80]}"
            )
        spans.append(span)
    return tuple(spans)

"""Where documents come from: JSON lines, a folder of text files, a TFDS dataset.

Whatever is wrong with a source is a `UserError` that names the file and the line.
"""

import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.metrics.plain_text import blank
from ralm_jax.sources.documents import Document, GivenSpan
from ralm_jax.sources.folder import SUFFIXES, read_folder

_FORMS = "a .jsonl[.gz] file, a folder or tfds:NAME"


def read_documents(source: str, counts: Counter[str] | None = None) -> Iterator[Document]:
    """The documents of a source that have text, in an order that depends on the source alone.

    Args:
      source: a file `*.jsonl` or `*.jsonl.gz` with `id` (or `_id`), `text` and, if you have them,
        `title` and `spans` (each with `start`, `stop`, `kind` and perhaps `fact`); a folder of
        .txt, .text, .md, .markdown and .rst files; or `tfds:NAME[/CONFIG][:SPLIT]`.
      counts: gets the numbers of what was rejected, by reason, when all documents have been read.
    Raises:
      UserError: the source does not exist, cannot be read, is malformed or has no document.
    """
    rejected: Counter[str] = Counter()
    found = False
    for document in _open(source, rejected):
        # Most texts begin with something visible, which spares searching all of the text.
        if blank(document.text[:100]) and blank(document.text):
            rejected["rejected: document without text"] += 1
            continue
        found = True
        yield document
    if not found:
        raise UserError(_no_documents(source, rejected))
    if counts is not None:
        counts.update(rejected)


def _open(source: str, rejected: Counter[str]) -> Iterator[Document]:
    if source.startswith("tfds:"):
        # Importing TFDS takes half a second, which other sources need not wait for.
        from ralm_jax.sources.tfds import read_tfds

        return read_tfds(source.removeprefix("tfds:"))
    if os.path.isdir(source):
        return read_folder(Path(source), rejected)
    if not os.path.exists(source):
        raise UserError(f"the source {source} does not exist; give {_FORMS}")
    if os.path.isfile(source) and source.endswith((".jsonl", ".jsonl.gz")):
        return _read_jsonl(Path(source))
    raise UserError(f"{source}: cannot read documents from a file of this kind; give {_FORMS}")


def _no_documents(source: str, rejected: Counter[str]) -> str:
    seen = [f"{reason}: {number}" for reason, number in sorted(rejected.items())]
    message = f"{source}: no documents ({', '.join(seen) or 'it is empty'})"
    if os.path.isdir(source):
        return f"{message}; give a folder with {', '.join(SUFFIXES)} files"
    return f"{message}; a corpus needs at least one"


def _read_jsonl(path: Path) -> Iterator[Document]:
    first_lines: dict[str, int] = {}
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}, line {number}"
                text = _decode(line, where)
                if not text:
                    continue
                document = _parse(text, where)
                if document.id in first_lines:
                    raise UserError(
                        f"{where}: the id {document.id!r} already occurs in line "
                        f"{first_lines[document.id]}; give every document an id of its own"
                    )
                first_lines[document.id] = number
                yield document
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}, after line {number}: damaged gzip file ({error}); download or copy it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _decode(line: bytes, where: str) -> str:
    try:
        # A byte order mark stands at the start of a file, and of each file that was appended to it.
        return line.decode("utf-8").strip("\ufeff \t\r\n\v\f")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not encoded in UTF-8 (byte {error.start + 1}); save the file as UTF-8"
        ) from None


def _parse(line: str, where: str) -> Document:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: invalid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: invalid JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object with the fields id, title and text")
    # BEIR writes _id. A field that is null counts as missing.
    record = {field: value for field, value in record.items() if value is not None}
    name = "id" if "id" in record or "_id" not in record else "_id"
    for field in (name, "text"):
        if field not in record:
            raise UserError(f"{where}: the field {field!r} is missing")
    if isinstance(record[name], int | float) and not isinstance(record[name], bool):
        if math.isfinite(record[name]):
            record[name] = json.dumps(record[name])
    record.setdefault("title", "")
    for field in (name, "title", "text"):
        _check_string(record[field], field, where)
    return Document(record[name], record["title"], record["text"], _parse_spans(record, where))


def _check_string(value: Any, field: str, where: str) -> None:
    if not isinstance(value, str):
        raise UserError(
            f"{where}: the field {field!r} must be a string, not {json.dumps(value)[:40]}"
        )
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(
            f"{where}: the field {field!r} has half of a surrogate pair, which is not Unicode text; "
            "remove or replace it"
        )


def _parse_spans(record: dict[str, Any], where: str) -> tuple[GivenSpan, ...] | None:
    if "spans" not in record:
        return None
    if not isinstance(record["spans"], list):
        raise UserError(f"{where}: the field 'spans' must be a list")
    return tuple(_parse_span(entry, len(record["text"]), where) for entry in record["spans"])


def _parse_span(entry: Any, length: int, where: str) -> GivenSpan:
    match entry:
        case {"start": int(start), "stop": int(stop), "kind": str(kind)} if (
            0 <= start < stop <= length
        ):
            fact = entry.get("fact")
            if fact is None or isinstance(fact, str):
                return GivenSpan(start, stop, kind, fact)
    raise UserError(
        f"{where}: a span needs a start before its stop, both within the text, and a kind; "
        f"not {json.dumps(entry)[:80]}"
    )

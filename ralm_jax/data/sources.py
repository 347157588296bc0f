"""Where documents come from: JSON lines, a folder of text files, a TFDS dataset.

Whatever is wrong with a source is a `UserError` that names the file and the line.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralm_jax.data.documents import Document, GivenSpan
from ralm_jax.errors import UserError

SUFFIXES = (".txt", ".md", ".rst")


def read_documents(source: str) -> Iterator[Document]:
    """The documents of a source, in an order that depends on the source alone.

    Args:
      source: a file `*.jsonl` or `*.jsonl.gz` with `id`, `title`, `text` and, if you have them,
        `spans` (each with `start`, `stop`, `kind` and perhaps `fact`); a folder of .txt, .md and
        .rst files; or `tfds:NAME[/CONFIG][:SPLIT]`.
    Raises:
      UserError: there is no such source, or no document in it, or one that is not as it should be.
    """
    documents = _open(source)
    number = 0
    for number, document in enumerate(documents, 1):  # noqa: B007
        yield document
    if not number:
        raise UserError(f"{source}: no documents; a corpus needs at least one")


def _open(source: str) -> Iterator[Document]:
    path = Path(source)
    if source.startswith("tfds:"):
        from ralm_jax.data.tfds_source import read_tfds  # half a second that others need not wait

        return read_tfds(source.removeprefix("tfds:"))
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(
            f"there is no source {source}; give a .jsonl[.gz] file, a folder or tfds:NAME"
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _read_jsonl(path)
    raise UserError(
        f"{source} is of an unknown kind; give a .jsonl[.gz] file, a folder or tfds:NAME"
    )


def _read_jsonl(path: Path) -> Iterator[Document]:
    places: dict[str, int] = {}
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                document = _parse(line, f"{path}, line {number}")
                if document.id in places:
                    raise UserError(
                        f"{path}, line {number}: the id {document.id!r} is that of line "
                        f"{places[document.id]}; every id must be different"
                    )
                places[document.id] = number
                yield document
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}, after line {number}: broken gzip ({error}); fetch it again"
        ) from None


def _parse(line: bytes, place: str) -> Document:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: not an object; each line needs an id, a title and a text")
    for field in ("id", "title", "text"):
        if field not in record:
            raise UserError(f"{place}: the field {field!r} is missing")
        value = record[field]
        if not isinstance(value, str):
            raise UserError(
                f"{place}: the field {field!r} must be a string, not {json.dumps(value)[:40]}"
            )
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise UserError(
                f"{place}: the field {field!r} is not Unicode (half of a surrogate pair)"
            )
    if not record["text"].strip():
        raise UserError(f"{place}: the passage {record['id']!r} has no text")
    return Document(record["id"], record["title"], record["text"], _parse_spans(record, place))


def _parse_spans(record: dict, place: str) -> tuple[GivenSpan, ...] | None:
    if record.get("spans") is None:
        return None
    if not isinstance(record["spans"], list):
        raise UserError(f"{place}: the field 'spans' must be a list")
    return tuple(_parse_span(entry, len(record["text"]), place) for entry in record["spans"])


def _parse_span(entry: Any, length: int, place: str) -> GivenSpan:
    match entry:
        case {"start": int(start), "stop": int(stop), "kind": str(kind)} if (
            0 <= start < stop <= length
        ):
            fact = entry.get("fact")
            if fact is None or isinstance(fact, str):
                return GivenSpan(start, stop, kind, fact)
    raise UserError(
        f"{place}: a span needs a start before its stop, both within the text, and a kind; "
        f"not {json.dumps(entry)[:80]}"
    )


def _read_folder(folder: Path) -> Iterator[Document]:
    """One document a file, in the order of their paths; what is hidden is left alone."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in name.parts):
            continue
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"{path}, line {line}: not UTF-8; save it as UTF-8") from None
        title, body = _split_title(text, path)
        if not body.strip():
            raise UserError(f"{path}: there is no text in it")
        yield Document(name.as_posix(), title, body)


_MARKDOWN_TITLE = re.compile(
    r"\s*(?:#\s+(?P<hash>\S.*?)\s*#*|(?P<line>\S.*)\n[=]{3,}[ \t]*)(?:\n|\Z)"
)
_RST_TITLE = re.compile(
    r"\s*(?:([^\w\s])\1{2,}[ \t]*\n)?[ \t]*(?P<line>\S.*)\n([^\w\s])\3{2,}[ \t]*(?:\n|\Z)"
)
_FRONT_MATTER = re.compile(r"---\n.*?\n---\n", re.DOTALL)


def _split_title(text: str, path: Path) -> tuple[str, str]:
    """The heading that a file begins with and what follows, or the file's name and all of it."""
    match path.suffix.lower():
        case ".md":
            if front := _FRONT_MATTER.match(text):
                text = text[front.end() :]
            found = _MARKDOWN_TITLE.match(text)
            title = found and (found["hash"] or found["line"])
        case ".rst":
            found = _RST_TITLE.match(text)
            title = found and found["line"]
        case _:
            found = title = None
    if not found or not title:
        return re.sub(r"[_\s-]+", " ", path.stem).strip(), text
    return title.strip(), text[found.end() :]

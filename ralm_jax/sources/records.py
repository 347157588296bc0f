"""One document of each record, whichever of the usual names its fields have.

The names are those of BEIR, MTEB, DPR, MS MARCO, MIRACL, KILT, FlashRAG, pyserini, LangChain and LlamaIndex.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ralm_jax.errors import UserError
from ralm_jax.formats.lines import Records
from ralm_jax.sources.documents import Document, GivenSpan

IDS = ("id", "_id", "docid", "doc_id", "id_", "wikipedia_id", "passage_id", "pid")
TEXTS = ("text", "contents", "content", "page_content", "passage", "body")
TITLES = ("title", "wikipedia_title")
# KILT's paragraphs say so what they are.
_KILT_MARK = re.compile(r"(?:Section|BULLET)::::(?:-\s*)?")
_LINK = re.compile(r"</?a\b[^<>]*>")


class Columns(NamedTuple):
    """Which field is which, where the names are not the usual ones."""

    text: str | None = None
    title: str | None = None
    id: str | None = None


USUAL = Columns()


def documents_of(
    records: Records, columns: Columns = USUAL, begun: int = 0, numbered: bool | None = None
) -> Iterator[Document]:
    """A document of each record, in order. Where the first has no id, all are numbered from 1.

    Args:
      begun: records of the files before this one, where each is read by itself.
      numbered: whether the first of all has no id, where this is not the first file.
    Raises:
      UserError: a field is missing or of another kind, or an id occurs twice; the line names the record.
    """
    before: dict[str, int | str] = {}
    for number, (where, given) in enumerate(records, begun + 1):
        if not isinstance(given, dict):
            raise UserError(f"{where}: expected an object with the fields id, title and text")
        record = _unwrapped(given)
        if numbered is None:
            numbered = _lacks_id(record, columns)
            _check_has_text(record, columns, where)
        document = _document(record, columns, where, str(number) if numbered else None)
        if document.id in before:
            unit = where.rsplit(" ", 2)[-2]
            raise given_twice(document.id, where, f"{unit} {before[document.id]}")
        # A number, of which there may be millions, rather than the words.
        place = where.rpartition(" ")[2]
        before[document.id] = int(place) if place.isdecimal() else place
        yield document


def given_twice(id: str, where: str, there: str) -> UserError:
    """The error for two documents of one id."""
    return UserError(
        f"{where}: the id {id!r} already occurs in {there}; give every document an id of its own"
    )


def is_numbered(given: Any, columns: Columns) -> bool:
    """Whether the documents of a source are numbered, given its first record."""
    return isinstance(given, dict) and _lacks_id(_unwrapped(given), columns)


def _lacks_id(record: dict[str, Any], columns: Columns) -> bool:
    return columns.id is None and _first(record, IDS) is None


def _document(record: dict[str, Any], columns: Columns, where: str, id: str | None) -> Document:
    if id is None:
        name, value = _field(record, columns.id, IDS, where)
        id = _id(value, name, where)
    name, value = _field(record, columns.text, TEXTS, where)
    wanted = (columns.title,) if columns.title else TITLES
    title = next((record[key] for key in wanted if key in record), "")
    _check_string(title, wanted[0], where)
    text = _joined(value, title) if isinstance(value, list) else value
    _check_string(text, name, where)
    if name == "contents" and not title:
        title, text = _split_contents(text)
    spans = _parse_spans(record, len(text), where) if "spans" in record else None
    return Document(id, title, text, spans)


def _unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """What is in a record, out of what LangChain and LlamaIndex put around it; a null counts as missing."""
    if record.get("lc") is not None and isinstance(record.get("kwargs"), dict):
        record = record["kwargs"]
    record = {field: value for field, value in record.items() if value is not None}
    resource, more = record.get("text_resource"), record.get("metadata")
    if isinstance(resource, dict) and resource.get("text") is not None:
        record = {**record, "text": resource["text"]}
    if isinstance(more, dict) and isinstance(more.get("title"), str):
        record = {"title": more["title"], **record}
    return record


def _check_has_text(record: dict[str, Any], columns: Columns, where: str) -> None:
    if columns.text is None and _first(record, TEXTS) is None:
        raise UserError(
            f"{where}: the field 'text' is missing: there are {', '.join(map(repr, record)) or 'none'}; "
            "name the one that holds the text with --text-column"
        )


def _field(record: dict[str, Any], given: str | None, usual: tuple[str, ...], where: str):
    """The name and the value of a field. Raises UserError where there is none."""
    name = given if given in record else None if given else _first(record, usual)
    if name is None:
        raise UserError(f"{where}: the field {given or usual[0]!r} is missing")
    return name, record[name]


def _first(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _id(value: Any, name: str, where: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    # Integers may be too large for a float, which asks whether it is finite.
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    _check_string(value, name, where)
    return str(value)


def _joined(parts: list[Any], title: str) -> Any:
    """Paragraphs as one text: KILT's, of which the first repeats the title; HotpotQA's, in sentences."""
    flat = [
        _LINK.sub("", "".join(part)) if isinstance(part, list) and _strings(part) else part
        for part in parts
    ]
    if not _strings(flat):
        return parts
    cut = [_KILT_MARK.sub("", paragraph).strip() for paragraph in flat]
    if cut and cut[0] == title:
        cut = cut[1:]
    return "\n\n".join(paragraph for paragraph in cut if paragraph)


def _strings(parts: list[Any]) -> bool:
    return all(isinstance(part, str) for part in parts)


def _split_contents(text: str) -> tuple[str, str]:
    """Title and text of FlashRAG's contents, whose first line is the title in quotes.

    >>> _split_contents('"Aaron"\\nAaron is a prophet.')
    ('Aaron', 'Aaron is a prophet.')
    >>> _split_contents('Aaron is\\na prophet.')
    ('', 'Aaron is\\na prophet.')
    """
    line, _, rest = text.partition("\n")
    quoted = re.fullmatch(r'\s*"(.+)"\s*', line)
    return (quoted[1], rest) if quoted and rest.strip() else ("", text)


def _check_string(value: Any, field: str, where: str) -> None:
    if not isinstance(value, str):
        raise UserError(
            f"{where}: the field {field!r} must be a string, not {json.dumps(value, default=str)[:40]}"
        )
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(
            f"{where}: the field {field!r} has half of a surrogate pair, which is not Unicode text; "
            "remove or replace it"
        )


def _parse_spans(record: dict[str, Any], length: int, where: str) -> tuple[GivenSpan, ...]:
    if not isinstance(record["spans"], list):
        raise UserError(f"{where}: the field 'spans' must be a list")
    return tuple(_parse_span(entry, length, where) for entry in record["spans"])


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

"""Queries and, apart from them, which documents answer each: BEIR, MTEB, MS MARCO and TREC."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.formats import arrow, sets, tables
from ralm_jax.formats.json_records import json_records
from ralm_jax.formats.lines import Records, first_line, text_lines
from ralm_jax.questions.records import IDS, QUESTIONS

QUERY, DOCUMENT, GRADE = "query-id", "corpus-id", "score"
# As MTEB and as ir_datasets names them.
_NAMES = ((QUERY, "query_id"), (DOCUMENT, "doc_id"), (GRADE, "relevance"))
_TOPIC = re.compile(r"<(?:top|topic)\b([^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(
    r"<num>\s*+(?:Number:\s*+)?([^\s<]+)|number\s*=\s*[\"']([^\"']+)", re.IGNORECASE
)
_TITLE = re.compile(r"<(?:title|query)>\s*(?:Topic:)?\s*([^<]+)", re.IGNORECASE)
NOT_ASKED = "judged, but not among the queries"


def set_parts(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """Files of queries and of judgments of a BEIR or MTEB set, of its test split where it has several.

    None for another folder. Raises UserError where one of the two is missing.
    """
    queries = sets.part(folder, "queries", "test")
    judgments = sets.part(folder, "qrels", "test") or sets.part(folder, "default", "test")
    sets.check_inside(folder, [*queries, *judgments])
    if not queries and not judgments:
        return None
    if not queries or not judgments:
        lacking = "qrels/test.tsv" if queries else "queries.jsonl"
        raise UserError(f"{folder}: the set lacks {lacking}; copy it whole")
    if len(judgments) > 1 and (test := [file for file in judgments if file.stem == "test"]):
        judgments = test
    elif len({file.stem for file in judgments if file.suffix == ".tsv"}) > 1:
        names = ", ".join(str(file) for file in judgments)
        raise UserError(f"{folder} has several splits; give the qrels of one: {names}")
    return queries, judgments


def judged_questions(
    queries: Sequence[Path], judgments: Sequence[Path], notes: dict[str, int]
) -> Records:
    """A question for each query that the judgments name, with the grades of its documents.

    Args:
      notes: gets the number of queries that are judged and not there, when all have been read.
    Raises UserError, naming the line, for what has another form.
    """
    gold: dict[str, dict[str, int]] = {}
    for file in judgments:
        for query, document, grade in _judgments(file):
            grades = gold.setdefault(query, {})
            grades[document] = max(grade, grades.get(document, grade))
    asked = 0
    for file in queries:
        for where, query, text in _queries(file):
            if query in gold:
                asked += 1
                yield where, {"id": query, "question": text, "answers": [], "gold_ids": gold[query]}
    if missing := len(gold) - asked:
        notes[NOT_ASKED] = missing


def _judgments(path: Path) -> Iterator[tuple[str, str, int]]:
    """(query, document, grade) of each judgment of a file."""
    if arrow.is_columnar(path):
        for where, row in arrow.column_records(path):
            yield _judgment(_named(row), where)
        return
    if first_line(path).startswith("{"):
        yield from _json_judgments(path)
        return
    rows = [(where, line.split()) for where, line in text_lines(path)]
    rows = [(where, cells) for where, cells in rows if not {*cells[:1]} & {*_NAMES[0]}]
    idle = _says_nothing([cells for _, cells in rows])
    for where, cells in rows:
        three = [*cells[:idle], *cells[idle + 1 :]] if len(cells) == 4 else cells
        yield _judgment(three, where)


def _says_nothing(rows: Sequence[list[str]]) -> int:
    """Which of four cells is not of a judgment: TREC's second, or the last, where ir_datasets puts it."""
    four = [cells for cells in rows if len(cells) == 4]
    second, last = ({cells[n] for cells in four} for n in (1, 3))
    return 3 if len(second) > 1 and len(last) == 1 else 1


def _named(record: dict[str, Any]) -> list[Any]:
    """Query, document and grade of a record, None for what it has not."""
    return [next((record[key] for key in names if key in record), None) for names in _NAMES]


def _json_judgments(path: Path) -> Iterator[tuple[str, str, int]]:
    """A judgment a line; or `{query: {document: grade}}`, as pytrec_eval and BEIR take it."""
    for where, record in json_records(path):
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a judgment, or the grades of documents by query")
        if isinstance(_named(record)[1], str | int):
            yield _judgment(_named(record), where)
            continue
        for query, found in record.items():
            if not isinstance(found, dict):
                raise UserError(
                    f"{path}, query {query}: expected the grades of its documents by id"
                )
            for document, grade in found.items():
                yield _judgment([query, document, grade], f"{path}, query {query}")


def _judgment(cells: Sequence[Any], where: str) -> tuple[str, str, int]:
    try:
        query, document, grade = cells
        if query is None or document is None:
            raise ValueError
        return str(query), str(document), int(grade)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where}: expected a query, a document and a grade, or the four columns of TREC; found "
            f"{json.dumps(cells, default=str)[:80]}"
        ) from None


def _queries(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, id, text) of each query of a file."""
    if arrow.is_columnar(path):
        yield from (_query(where, row) for where, row in arrow.column_records(path))
        return
    first = first_line(path)
    if first.startswith("<"):
        yield from _topics(path)
    elif first[:1] in ("{", "["):
        yield from (_query(where, record) for where, record in json_records(path))
    elif (names := tables.header(path, ("text", *QUESTIONS))) is not None:
        yield from (_query(where, row) for where, row in tables.table_records(path, names))
    else:
        for where, (id, text) in tables.bare_rows(path, 2, "id and query"):
            yield where, id, text


def _query(where: str, record: Any) -> tuple[str, str, str]:
    record = record if isinstance(record, dict) else {}
    id = next((record[key] for key in IDS if record.get(key) is not None), None)
    texts = (record[key] for key in ("text", *QUESTIONS) if isinstance(record.get(key), str))
    text = next(texts, None)
    if id is None or text is None:
        raise UserError(f"{where}: a query needs an _id and a text")
    return where, str(id), text


def _topics(path: Path) -> Iterator[tuple[str, str, str]]:
    """TREC's topics: elements that may not be closed, or XML."""
    whole = "\n".join(line for _, line in text_lines(path))
    starts = [match.start() for match in _TOPIC.finditer(whole)]
    if not starts:
        raise UserError(f"{path}: there is no <top> or <topic>; give the topics of TREC")
    for start, stop in zip(starts, [*starts[1:], len(whole)], strict=True):
        topic = whole[start:stop]
        number, title = _NUMBER.search(topic), _TITLE.search(topic)
        if not number or not title:
            place = whole.count("\n", 0, start) + 1
            raise UserError(f"{path}, topic at line {place}: it needs a number and a title")
        yield f"{path}, topic {number[1] or number[2]}", number[1] or number[2], title[1].strip()

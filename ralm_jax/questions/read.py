"""Where questions come from: files and folders in the formats people have, data sets by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.formats import arrow, tables
from ralm_jax.formats.json_records import json_records
from ralm_jax.formats.lines import Records, first_line
from ralm_jax.questions.judgments import judged_questions, set_parts
from ralm_jax.questions.question import Questions, collect
from ralm_jax.questions.records import ANSWERS, QUESTIONS, listed, named_as_ours
from ralm_jax.sources.hub import dataset_files
from ralm_jax.sources.tfds import open_split

FORMS = (
    "a file of JSON, CSV, TSV or Parquet with question and answers or gold_ids, a BEIR or MTEB folder, "
    "QUERIES+QRELS, tfds:NAME or hf:OWNER/NAME"
)


def read_questions(source: str | Path) -> Questions:
    """Reads questions, answers and gold passages.

    FILE              records of JSON lines, a JSON array, CSV or TSV with a header, Parquet or Arrow:
                      question, answers (or answer), optionally id, gold_ids, regex, or the fields of NQ-open,
                      DPR, KILT, FlashRAG, HotpotQA; the JSON of SQuAD 1.1 or 2.0; the TSV of CuratedTREC (id,
                      kind, question, regular expression) and of DPR (question, list of answers)
    FOLDER            a BEIR or MTEB set: the queries that the qrels of its test split name
    FOLDER/qrels/dev.tsv          another split of it
    QUERIES+QRELS     two files: queries or topics of MS MARCO, TREC or BEIR, and their judgments
    tfds:NAME[/CONFIG][:SPLIT]    natural_questions_open, natural_questions/longt5, trivia_qa,
                      web_questions, squad, or any data set with the fields of one of those; the split is
                      train unless another is named
    hf:OWNER/NAME[/CONFIG][:SPLIT]    the Parquet that the Hugging Face hub keeps of a data set

    Files may be compressed by gzip or bzip2. Byte order marks and NUL bytes are skipped wherever they stand.
    A document of any positive grade is a gold passage; nDCG tells the grades apart.

    Raises UserError, naming file and line, for what cannot be read or has another form.
    """
    name = str(source)
    if name.startswith("tfds:"):
        return collect(_tfds(name), name)
    if pair := _pair(name):
        return _judged(*pair, name)
    if name.startswith("hf:"):
        return collect(_records(dataset_files(name.removeprefix("hf:"))), name)
    path = Path(source)
    if path.is_dir():
        if arrow.is_saved(path):
            return collect(_records(arrow.saved_files(path, "test")), name)
        parts = set_parts(path)
        if parts is None:
            raise UserError(f"{path}: there are no queries and qrels in this folder; give {FORMS}")
        return _judged(*parts, name)
    if not path.is_file():
        raise UserError(f"there is no file of questions at {path}; give {FORMS}")
    if path.parent.name == "qrels" and (parts := set_parts(path.parent.parent)):
        return _judged(parts[0], [path], name)
    return collect(_records([path]), name)


def _pair(name: str) -> tuple[list[Path], list[Path]] | None:
    """The files of QUERIES+QRELS; None where the name is that of one file."""
    queries, plus, judgments = name.rpartition("+")
    if not plus or Path(name).exists():
        return None
    return _files(queries), _files(judgments)


def _files(name: str) -> list[Path]:
    if name.startswith("hf:"):
        return dataset_files(name.removeprefix("hf:"))
    if not Path(name).is_file():
        raise UserError(f"there is no file {name}; give QUERIES+QRELS, two files joined by a plus")
    return [Path(name)]


def _judged(queries: Sequence[Path], judgments: Sequence[Path], name: str) -> Questions:
    more: dict[str, int] = {}
    found = collect(judged_questions(queries, judgments, more), name)
    return found._replace(notes=found.notes | more)


def _records(files: Sequence[Path]) -> Records:
    return (record for file in files for record in _file(file))


def _file(path: Path) -> Records:
    if arrow.is_columnar(path):
        return named_as_ours(arrow.column_records(path))
    first = first_line(path)
    if not first or first[0] in "{[":
        return named_as_ours(_unnested(path, json_records(path)))
    if (names := tables.header(path, QUESTIONS)) is not None:
        return named_as_ours(_cells(tables.table_records(path, names)))
    cells = first.count("\t") + 1
    if cells == 2 and first.split("\t")[1].lstrip("\"' ").startswith("["):
        return _dpr(path)
    if cells > 2:
        expected = "id, kind, question and pattern"
        return (
            (where, {"id": id, "question": question, "answers": [pattern], "regex": True})
            for where, (id, _, question, pattern) in tables.bare_rows(path, 4, expected)
        )
    raise UserError(f"{path}: unknown kind of file; give {FORMS}")


def _cells(rows: Records) -> Records:
    """Rows of a table, with the lists that stand in cells."""
    lists = (*ANSWERS, "gold_ids")
    for where, row in rows:
        yield where, {n: listed(cell, where) if n in lists else cell for n, cell in row.items()}


def _dpr(path: Path) -> Records:
    for where, cells in tables.quoted_rows(path, "\t"):
        if len(cells) != 2:
            raise UserError(f"{where}: found {len(cells)} cells; expected question and answers")
        yield where, {"question": cells[0], "answers": listed(cells[1], where)}


def _unnested(path: Path, records: Records) -> Records:
    """Records as they are; where the first is all of SQuAD, its questions."""
    for where, record in records:
        if isinstance(record, dict) and isinstance(record.get("data"), list):
            yield from _squad(path, record["data"])
        else:
            yield where, record


def _squad(path: Path, articles: list[Any]) -> Records:
    try:
        asked = [qa for article in articles for p in article["paragraphs"] for qa in p["qas"]]
        for qa in asked:
            where = f"{path}, question {qa['id']}"
            texts = list(dict.fromkeys(answer["text"] for answer in qa["answers"]))
            yield where, {"id": qa["id"], "question": qa["question"], "answers": texts}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not in the JSON format of SQuAD ({type(error).__name__}: {error})"
        ) from None


def _tfds(source: str) -> Records:
    name, split, records = open_split(source.removeprefix("tfds:"))
    if "annotations" in records.features:
        raise UserError(
            f"tfds:{name} has nested answers, which TFDS can only read with TensorFlow: give "
            "tfds:natural_questions_open, or tfds:natural_questions/longt5"
        )
    for number, record in enumerate(records):
        where = f"tfds:{name}, {split} {number}"
        if "question" not in record:
            raise UserError(f"tfds:{name} has no field question, only {', '.join(record)}")
        id = next(
            (record[key] for key in ("question_id", "id") if key in record), f"{split}-{number}"
        )
        given = list(dict.fromkeys(_text(a) for a in _answers(record, name)))
        yield (
            where,
            {
                "id": _text(id),
                "question": _text(record["question"]),
                "answers": [a for a in given if a],
            },
        )


def _answers(record: dict[str, Any], name: str) -> list[Any]:
    """The answers, in the layout of whichever dataset it is."""
    # natural_questions/longt5 has all_answers.
    for field in ("all_answers", "answers", "answer"):
        if field not in record:
            continue
        given = record[field]
        if not isinstance(given, dict):
            return list(given) if not isinstance(given, (str, bytes)) else [given]
        # SQuAD, and else TriviaQA.
        if "text" in given:
            return list(given["text"])
        return [given["value"], *given["aliases"]]
    raise UserError(
        f"tfds:{name} has no field of answers, only {', '.join(record)}; export it as JSONL"
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

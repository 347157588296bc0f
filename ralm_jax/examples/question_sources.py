"""Where questions come from: JSONL, SQuAD's JSON, CuratedTREC's TSV, or a TFDS dataset."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.examples.questions import Questions, collect
from ralm_jax.metrics.plain_text import blank
from ralm_jax.sources.tfds import open_split

# Where a record stands, and its fields.
Records = Iterator[tuple[str, dict[str, Any]]]
FORMS = "FILE.jsonl[.gz], a SQuAD FILE.json, a CuratedTREC FILE.tsv, or tfds:NAME[/CONFIG][:SPLIT]"


def read_questions(source: str | Path) -> Questions:
    """Reads questions and answers.

    FILE.jsonl[.gz]   one object per line: question, answers (or answer), optionally id, gold_ids, regex
    FILE.json[.gz]    SQuAD 1.1 or 2.0
    FILE.tsv[.gz]     CuratedTREC: id, kind, question, regular expression
    tfds:NAME[/CONFIG][:SPLIT]    natural_questions_open, natural_questions/longt5, trivia_qa,
                      web_questions, squad, or any data set with the fields of one of those; the split is
                      train unless another is named

    Byte order marks and NUL bytes are skipped wherever they stand.

    Raises UserError, naming file and line, for what cannot be read or has another form.
    """
    if str(source).startswith("tfds:"):
        return collect(_tfds(str(source)), source)
    path = Path(source)
    if not path.is_file():
        raise UserError(f"there is no file of questions at {path}; give {FORMS}")
    bare = path.with_suffix("") if path.suffix == ".gz" else path
    read = {".jsonl": json_lines, ".json": _squad, ".tsv": _trec}.get(bare.suffix)
    if read is None:
        raise UserError(f"{path}: unknown kind of file; give {FORMS}")
    try:
        return collect(read(path), path)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not encoded in UTF-8; convert the file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            # A byte order mark stands at the start of a file, and of each file that was appended to it.
            if not blank(line):
                yield number, line.replace("\0", "").rstrip("\n").strip("\ufeff")


def json_lines(path: Path) -> Records:
    """Where each line stands, and its value. Raises UserError for a line of invalid JSON."""
    for number, line in _lines(path):
        try:
            yield f"{path}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: invalid JSON ({error.msg})") from None


def _trec(path: Path) -> Records:
    for number, line in _lines(path):
        cells = line.split("\t")
        where = f"{path}, line {number}"
        if len(cells) != 4:
            raise UserError(
                f"{where}: found {len(cells)} cells; expected id, kind, question and pattern, "
                "separated by tabs"
            )
        yield where, {"id": cells[0], "question": cells[2], "answers": [cells[3]], "regex": True}


def _squad(path: Path) -> Records:
    try:
        whole = json.loads("".join(line for _, line in _lines(path)))
        paragraphs = [p for article in whole["data"] for p in article["paragraphs"]]
        asked = [qa for paragraph in paragraphs for qa in paragraph["qas"]]
        for qa in asked:
            where = f"{path}, question {qa['id']}"
            texts = list(dict.fromkeys(answer["text"] for answer in qa["answers"]))
            yield where, {"id": qa["id"], "question": qa["question"], "answers": texts}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not in the JSON format of SQuAD ({type(error).__name__}: {error}); a file with "
            "one object per line must be named .jsonl"
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

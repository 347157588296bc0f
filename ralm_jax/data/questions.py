"""Questions with answers, from JSONL: `id`, `question`, `answers`, and `gold_ids` where known."""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

from ralm_jax.errors import UserError


class Question(NamedTuple):
    id: str
    question: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...]  # source ids of documents that answer it; may be empty


def read_questions(path: str | Path) -> list[Question]:
    """Reads FILE.jsonl or FILE.jsonl.gz.

    Raises UserError, naming file and line, for a file or a line that is not as described above.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file of questions at {path}; give a .jsonl or .jsonl.gz")
    opened = gzip.open if path.suffix == ".gz" else open
    questions = []
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    questions.append(_question(json.loads(line), f"{path}, line {number}", number))
    except json.JSONDecodeError as error:
        number = len(questions) + 1
        raise UserError(f"{path}, about line {number}: not JSON ({error.msg}); mend it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, after line {len(questions)}: not UTF-8; convert it") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not questions:
        raise UserError(f"{path} holds no questions; one JSON object a line is expected")
    return questions


def _question(record, where: str, number: int) -> Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise UserError(f'{where}: no "question"; each line is an object with question and answers')
    answers = record.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise UserError(f'{where}: "answers" must be a list of strings')
    if not record["question"].strip():
        raise UserError(f"{where}: the question is empty")
    gold = record.get("gold_ids", [])
    if not isinstance(gold, list) or not all(isinstance(g, str) for g in gold):
        raise UserError(f'{where}: "gold_ids" must be a list of document ids')
    id = record.get("id", str(number))
    return Question(str(id), record["question"], tuple(answers), tuple(gold))

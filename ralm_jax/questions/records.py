"""A question of each record, whichever of the usual names its fields have.

The names are those of ORQA, SQuAD, TriviaQA, NQ-open, DPR, KILT, FlashRAG, HotpotQA and 2WikiMultihopQA.
"""

import ast
from collections.abc import Iterable
from typing import Any

from ralm_jax import json_text
from ralm_jax.errors import UserError
from ralm_jax.formats.lines import Records

IDS = ("id", "_id", "qid", "query_id", "question_id")
QUESTIONS = ("question", "query", "input")
ANSWERS = ("answers", "answer", "golden_answers")
# DPR marks by it what a person found, beside what BM25 did.
_FOUND_BY_A_PERSON = 1000


def named_as_ours(records: Records) -> Records:
    """Records with question, answers, id, gold_ids and regex, as `question.collect` takes them."""
    for where, record in records:
        yield where, _renamed(record) if isinstance(record, dict) else record


def listed(cell: str, where: str) -> Any:
    """A cell of a table: a list as JSON or Python write it, or the text itself.

    Raises UserError where a list is not closed.
    """
    text = cell.strip()
    if not text.startswith("["):
        return cell
    for parse in (json_text.parse, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise UserError(f"{where}: {text[:40]!r} begins as a list and is none; close it")


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    ours = dict(record)
    for name, usual in (("question", QUESTIONS), ("answers", ANSWERS), ("id", IDS)):
        found = next((key for key in usual if record.get(key) is not None), None)
        if found is not None:
            ours[name] = record[found]
    if "input" in record and "question" not in record:
        # Tests have no output.
        ours |= _kilt(record.get("output") or [])
    elif isinstance(record.get("positive_ctxs"), list):
        ours.setdefault("gold_ids", _positives(record["positive_ctxs"]))
    if isinstance(ours.get("answers"), dict):
        ours["answers"] = _nested(ours["answers"])
    return ours


def _kilt(output: Any) -> dict[str, Any]:
    """Answers and pages of KILT, which may stand in different entries."""
    entries = _objects(output)
    pages = (page for entry in entries for page in _objects(entry.get("provenance")))
    return {
        "answers": [entry["answer"] for entry in entries if entry.get("answer") is not None],
        "gold_ids": _ids(page.get("wikipedia_id") for page in pages),
    }


def _positives(given: list[Any]) -> list[Any]:
    """Ids of DPR's positive passages: those that a person found, or all where none are marked so."""
    contexts = _objects(given)
    found = [context for context in contexts if context.get("score") == _FOUND_BY_A_PERSON]
    return _ids(context.get("passage_id", context.get("psg_id")) for context in found or contexts)


def _objects(given: Any) -> list[dict[str, Any]]:
    several = given if isinstance(given, list) else []
    return [one for one in several if isinstance(one, dict)]


def _ids(found: Iterable[Any]) -> list[str]:
    """As strings, each once, in order."""
    return list(dict.fromkeys(str(id) for id in found if id is not None))


def _nested(answers: dict[str, Any]) -> Any:
    """SQuAD's list of texts, or TriviaQA's value and aliases; else what was given."""
    if isinstance(answers.get("text"), list):
        return _each_once(answers["text"])
    if "value" in answers:
        aliases = answers.get("aliases")
        return _each_once([answers["value"], *(aliases if isinstance(aliases, list) else ())])
    return answers


def _each_once(given: list[Any]) -> list[Any]:
    # Whatever stands in a list of JSON; what is no text is refused later, with its line.
    return list({repr(one): one for one in given}.values())

"""Questions with their answers, as every part of the package takes them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.errors import UserError
from ralm_jax.metrics import qa


class Question(NamedTuple):
    id: str
    question: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...] = ()  # source ids of documents that answer it; may be empty
    patterns: bool = False  # the answers are regular expressions (CuratedTREC)

    def answered_by(self, text: str) -> bool:
        """Exact match: equal to an answer, both normalised; or a pattern matches from the start."""
        match = qa.regex_match if self.patterns else qa.exact_match
        return match(text, self.answers)

    def f1(self, text: str) -> float:
        """Overlap of words with the best answer. For patterns, which have no words, the exact match."""
        return float(self.answered_by(text)) if self.patterns else qa.f1(text, self.answers)

    def answer_in(self, text: str) -> bool:
        """Whether a passage holds an answer."""
        holds = qa.has_match if self.patterns else qa.has_answer
        return holds(text, self.answers)


class Questions(NamedTuple):
    """What a source holds, and how many of it was left out or joined, by reason."""

    asked: list[Question]
    notes: dict[str, int]


NO_ANSWER = "no answer and no gold passage is given"
ASKED_TWICE = "asked before: the answers were joined"


def collect(records: Iterable[tuple[str, dict[str, Any]]], source: str | Path) -> Questions:
    """(where, record) pairs -> questions. A record has question, answers, and maybe id, gold_ids, regex.

    A question that is asked twice is kept once, with the answers of both (the official evaluations know
    a question by its words).

    Raises UserError, saying where, for a record that is not so, or where nothing is left.
    """
    kept: dict[str, Question] = {}
    notes: dict[str, int] = {}
    for number, (where, record) in enumerate(records, 1):
        question = _question(record, where, number)
        if not question.answers and not question.gold_ids:
            notes[NO_ANSWER] = notes.get(NO_ANSWER, 0) + 1
            continue
        before = kept.get(question.question)
        if before is not None:
            if before.patterns != question.patterns:
                raise UserError(f"{where}: asked before, with answers of the other kind (regex)")
            notes[ASKED_TWICE] = notes.get(ASKED_TWICE, 0) + 1
            question = before._replace(
                answers=tuple(dict.fromkeys(before.answers + question.answers)),
                gold_ids=tuple(dict.fromkeys(before.gold_ids + question.gold_ids)),
            )
        kept[question.question] = question
    if not kept:
        raise UserError(f"{source} holds no questions with answers")
    return Questions(list(kept.values()), notes)


def _question(record: Any, where: str, number: int) -> Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise UserError(f'{where}: no "question"; each line is an object with question and answers')
    given = record.get("answers", record.get("answer"))  # "answer" in the files of ORQA
    if not isinstance(given, list) or not all(isinstance(a, str) for a in given):
        raise UserError(f'{where}: "answers" must be a list of strings')
    if not record["question"].strip():
        raise UserError(f"{where}: the question is empty")
    gold = record.get("gold_ids", [])
    if not isinstance(gold, list) or not all(isinstance(g, str) for g in gold):
        raise UserError(f'{where}: "gold_ids" must be a list of document ids')
    patterns = record.get("regex", False)
    if not isinstance(patterns, bool):
        raise UserError(f'{where}: "regex" must be true or false')
    for pattern in given if patterns else ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{where}: the answer {pattern!r} is no regular expression ({error}); mend it"
            ) from None
    id = str(record.get("id", number))
    return Question(id, record["question"].strip(), tuple(given), tuple(gold), patterns)

"""Questions with their answers, as every part of the package takes them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from ralm_jax.errors import UserError
from ralm_jax.metrics import qa
from ralm_jax.metrics.plain_text import blank


class Question(NamedTuple):
    id: str
    question: str
    # May be empty where there are gold_ids: such a question is neither answered nor missed.
    answers: tuple[str, ...]
    # Source ids of documents that answer it; may be empty.
    gold_ids: tuple[str, ...] = ()
    # The answers are regular expressions (CuratedTREC).
    patterns: bool = False
    # Of each of gold_ids, 1 and more; empty where all are alike.
    grades: tuple[int, ...] = ()

    @property
    def relevance(self) -> dict[str, int]:
        """The grade of each document that answers it."""
        return dict(zip(self.gold_ids, self.grades or [1] * len(self.gold_ids), strict=True))

    def __repr__(self) -> str:
        """What a fine-tuning compares when it goes on: grades show where there are any."""
        shown = dict(list(self._asdict().items())[: None if self.grades else -1])
        return f"Question({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def answered_by(self, text: str) -> bool:
        """Exact match: equal to an answer, both normalised; or a pattern matches from the start."""
        match = qa.regex_match if self.patterns else qa.exact_match
        return match(text, self.answers)

    def f1(self, text: str) -> float:
        """Overlap of words with the best answer; for patterns, which have no words, the exact match."""
        return float(self.answered_by(text)) if self.patterns else qa.f1(text, self.answers)

    def answer_in(self, text: str) -> bool:
        """Whether the text of a passage contains an answer."""
        contains = qa.has_match if self.patterns else qa.has_answer
        return contains(text, self.answers)


class Questions(NamedTuple):
    """The questions of a source, and how many were left out or joined, by reason."""

    asked: list[Question]
    notes: dict[str, int]


NO_ANSWER = "no answer and no gold passage is given"
ASKED_TWICE = "asked more than once, so their answers were merged"


def collect(records: Iterable[tuple[str, dict[str, Any]]], source: str | Path) -> Questions:
    """(where, record) pairs -> questions. A record has question, answers, and maybe id, gold_ids, regex.

    Answers and gold_ids are lists, or a single one of them; ids are strings or numbers, also under _id. With
    grades, gold_ids are {id: grade}, and those of a grade below 1 answer nothing.
    Blank answers are dropped. A question that is asked twice is kept once, with the answers of both (the
    official evaluations know a question by its words).

    Raises UserError for a record that is different, saying where it stands, and where no question is left.
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
            both = before.answers and question.answers
            if both and before.patterns != question.patterns:
                raise UserError(
                    f"{where}: this question was asked before; give all its answers as text, "
                    'or all as patterns ("regex": true)'
                )
            notes[ASKED_TWICE] = notes.get(ASKED_TWICE, 0) + 1
            question = before._replace(
                answers=tuple(dict.fromkeys(before.answers + question.answers)),
                patterns=(before if before.answers else question).patterns,
                **_judged(before.relevance, question.relevance),
            )
        kept[question.question] = question
    if not kept:
        raise UserError(
            f"{source}: no question has an answer or a gold passage; give at least one that does"
        )
    return Questions(list(kept.values()), notes)


def cut_notes(tokenizer: Tokenizer, questions: Sequence[str], query_length: int) -> dict[str, int]:
    """How many questions are longer than `[CLS] question [SEP]` may be, as a note; none if none is."""
    encoded = tokenizer.encode_batch(list(questions), add_special_tokens=False)
    return note_cuts([len(e.ids) for e in encoded], query_length)


def note_cuts(wordpieces: Iterable[int], query_length: int) -> dict[str, int]:
    """The same where the number of wordpieces of each question is known."""
    room = query_length - 2
    cut = sum(count > room for count in wordpieces)
    return {f"cut to {room} wordpieces": cut} if cut else {}


def lines_of(notes: Mapping[str, int]) -> list[str]:
    """A line for each note: how many questions, and what became of them.

    >>> lines_of({"cut to 22 wordpieces": 1})
    ['1 question: cut to 22 wordpieces']
    """
    return [f"{counted(number)}: {what}" for what, number in notes.items()]


def counted(number: int) -> str:
    """
    >>> counted(1), counted(2000)
    ('1 question', '2,000 questions')
    """
    return f"{number:,} question{'' if number == 1 else 's'}"


def _question(record: Any, where: str, number: int) -> Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise UserError(f'{where}: expected an object with "question" and "answers"')
    if blank(record["question"]):
        raise UserError(f"{where}: the question is empty")
    # The files of ORQA say "answer".
    given = record["answers"] if record.get("answers") is not None else record.get("answer")
    if given is None and not record.keys() & {"answers", "answer", "gold_ids"}:
        raise UserError(f'{where}: "answers" is missing; give a string or a list of strings')
    texts = _strings(given, f'{where}: "answers" must be a string or a list of strings')
    gold = _relevance(record.get("gold_ids"), where)
    patterns = record.get("regex", False)
    if not isinstance(patterns, bool):
        raise UserError(f'{where}: "regex" must be true or false')
    if any("\ud800" <= c <= "\udfff" for text in (record["question"], *texts, *gold) for c in text):
        raise UserError(f"{where}: not valid Unicode (half of a surrogate pair)")
    texts = [text for text in texts if not blank(text)]
    for pattern in texts if patterns else ():
        try:
            qa.compile_pattern(pattern)
        except re.error as error:
            raise UserError(
                f"{where}: the answer {pattern!r} is not a valid regular expression ({error})"
            ) from None
    id = next((record[key] for key in ("id", "_id") if record.get(key) is not None), number)
    asked = Question(str(id), record["question"].strip(), tuple(texts), patterns=patterns)
    return asked._replace(**_judged(gold))


def _relevance(given: Any, where: str) -> dict[str, int]:
    """The grade of each document that answers a question, from ids or from {id: grade}."""
    if isinstance(given, dict) and given:
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in given.values()):
            raise UserError(f'{where}: the grades in "gold_ids" must be whole numbers')
        return {str(id): n for id, n in given.items() if n > 0}
    said = f'{where}: "gold_ids" must be the id of a document, a list of ids, or grades by id'
    return dict.fromkeys(_strings(given, said), 1)


def _judged(*several: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a question whose documents have these grades; a document keeps the highest of its own."""
    best: dict[str, int] = {}
    for relevance in several:
        for id, grade in relevance.items():
            best[id] = max(grade, best.get(id, 0))
    alike = all(grade == 1 for grade in best.values())
    return {"gold_ids": tuple(best), "grades": () if alike else tuple(best.values())}


def _strings(given: Any, message: str) -> list[str]:
    """One or several strings or whole numbers, as strings. Raises UserError with `message` for others."""
    if given is None:
        return []
    several = given if isinstance(given, list) else [given]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in several):
        raise UserError(message)
    return [str(one) for one in several]

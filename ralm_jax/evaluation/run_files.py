"""Rankings as other evaluations read them: runs and judgments of TREC, and the results of BEIR."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ralm_jax.errors import UserError
from ralm_jax.inference.embedding import Ranking
from ralm_jax.questions.question import Question

# trec_eval sorts by score: equal ones are told apart by so much, which six decimals still show (Anserini).
_STEP = 1e-6


def check(questions: Sequence[Question], folder: Path) -> None:
    """Raises UserError where rankings of these questions could not be written to a folder."""
    twice = [id for id, count in Counter(q.id for q in questions).items() if count > 1]
    if twice:
        raise UserError(
            f"--rankings: the id {twice[0]!r} is that of several questions; give each one of its own"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--rankings: {folder} cannot be made ({error.strerror})") from None


def write_rankings(
    folder: Path,
    questions: Sequence[Question],
    documents: Callable[[Sequence[int]], Sequence[Sequence[str]]],
    found: Mapping[str, Ranking],
) -> None:
    """For each row of a report ROW.trec and ROW.json, {question: {document: score}}; and qrels of both kinds.

    Args:
      documents: of each passage, by its row, the ids of the documents that it stands in.
      found: rankings of the questions by the name of their row.

    White space in ids, which TREC's columns cannot hold, is written as in addresses (%20) in its files.
    """
    gold = {q.id: q.relevance for q in questions if q.gold_ids}
    _write_json(folder / "qrels.json", gold)
    judged = ((q, d, grade) for q, found in gold.items() for d, grade in found.items())
    _write(folder / "qrels.trec", (f"{_word(q)} 0 {_word(d)} {grade}" for q, d, grade in judged))
    for name, ranking in found.items():
        scored = {
            question.id: _scored(documents(rows.tolist()), scores.tolist())
            for question, rows, scores in zip(questions, ranking.rows, ranking.scores, strict=True)
        }
        _write_json(folder / f"{name}.json", scored)
        _write(folder / f"{name}.trec", _run(scored, name))


def _scored(named: Sequence[Sequence[str]], scores: Sequence[float]) -> dict[str, float]:
    """Documents in the order of a question's passages, each once, with scores that fall."""
    out: dict[str, float] = {}
    last = float("inf")
    for several, score in zip(named, scores, strict=True):
        for document in several:
            if document not in out:
                # As the file shows it, so that the order is the same in both.
                last = out[document] = round(min(score, last - _STEP), 6)
    return out


def _run(scored: Mapping[str, Mapping[str, float]], tag: str) -> Iterator[str]:
    for question, found in scored.items():
        for rank, (document, score) in enumerate(found.items(), 1):
            yield f"{_word(question)} Q0 {_word(document)} {rank} {score:.6f} {tag}"


def _word(id: str) -> str:
    return re.sub(r"[\s%]", lambda match: quote(match[0]), id)


def _write_json(file: Path, value: Mapping) -> None:
    _write(file, [json.dumps(value, ensure_ascii=False)])


def _write(file: Path, lines: Iterator[str] | Sequence[str]) -> None:
    try:
        with file.open("w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in lines)
    except OSError as error:
        raise UserError(f"--rankings: {file} cannot be written ({error.strerror})") from None

"""How well questions are answered, beside the pipelines of today: BM25 or a frozen retriever, same reader."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax import answers
from ralm_jax.answering import Answered, Opened, answer, read
from ralm_jax.data import features
from ralm_jax.data.questions import Question
from ralm_jax.embedding import Ranking
from ralm_jax.evaluation import Judge
from ralm_jax.retrieval.bm25 import Bm25

ROWS = {
    "retriever": "fine-tuned retriever",
    "frozen": "frozen retriever, same reader",
    "bm25": "BM25, same reader",
}


def evaluate_answers(
    opened: Opened,
    questions: Sequence[Question],
    *,
    beam: int = 100,
    candidates: int = 5,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Exact match and F1 of SQuAD with 95% bootstrap intervals, recall of the beam, the reader's oracle.

    Args:
      predictions: a JSON line for each question is written there: what was answered, and from where.

    Returns:
      {"questions": n, row: {"exact_match", "f1": [value, low, high], "reader_oracle", "recall"}} for the
      rows "retriever" (as fine-tuned), "frozen" (the tower of the passages asks, as before) and "bm25".
      reader_oracle: the share of questions with an answer in a passage that is read.
    """
    asked = [q.question for q in questions]
    judge = Judge(opened.corpus, questions)
    beam = min(beam, opened.corpus.size)
    ours = answer(opened, asked, beam=beam, candidates=candidates)
    retriever = opened.params["retriever"]
    still = {**retriever, "query_tower": retriever["passage_tower"]}
    before = opened._replace(params={**opened.params, "retriever": still})
    lexical = Ranking(*Bm25(judge.texts()).search(asked, beam))
    pieces = opened.tokenizer.encode_batch(asked, add_special_tokens=False)
    ids = [np.array(p.ids, np.int32) for p in pieces]
    text = features.query_text(opened.corpus, ids, opened.lengths.query)
    # BM25's scores are of another kind than the reader's: it chooses what is read, and no more.
    flat = Ranking(lexical.rows, np.where(lexical.rows < 0, -np.inf, 0.0))
    found = {
        "retriever": ours,
        "frozen": answer(before, asked, beam=beam, candidates=candidates),
        "bm25": read(opened, text, flat, candidates),
    }
    report: dict[str, Any] = {"questions": len(questions), "read": candidates}
    for name, answered in found.items():
        report[name] = _score(judge, questions, answered, candidates)
    if predictions is not None:
        _write(predictions, opened, questions, ours)
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [f"{report['questions']:,} questions, {report['read']} passages read"]
    lines.append(f"{'':<32}{'EM':>22}{'F1':>22}{'oracle':>9}{'@5':>8}{'@20':>8}")
    for name, label in ROWS.items():
        row = report[name]
        cells = "".join(
            f"{value:>10.1%} ({low:.1%}-{high:.1%})".rjust(22)
            for value, low, high in (row["exact_match"], row["f1"])
        )
        recall = "".join(f"{row['recall'].get(k, float('nan')):>8.1%}" for k in ("5", "20"))
        lines.append(f"{label:<32}{cells}{row['reader_oracle']:>9.1%}{recall}")
    return "\n".join(lines)


def _score(judge: Judge, questions, answered: Sequence[Answered], read: int) -> dict[str, Any]:
    said = [a.answers[0].text if a.answers else "" for a in answered]
    pairs = list(zip(said, questions, strict=True))
    rows = np.stack([a.rows for a in answered])
    held = [
        any(judge.holds(int(row), q.answers) for row in found[:read])
        for found, q in zip(rows, questions, strict=True)
    ]
    recall = judge.score(Ranking(rows, np.zeros(rows.shape)))["holds_answer"]["recall"]
    return {
        "exact_match": interval([float(answers.exact_match(s, q.answers)) for s, q in pairs]),
        "f1": interval([answers.f1(s, q.answers) for s, q in pairs]),
        "reader_oracle": float(np.mean(held)),
        "recall": recall,
    }


def interval(values: Sequence[float], draws: int = 1000) -> list[float]:
    """Mean, and the 2.5 and 97.5 percentiles of the means of bootstrap samples (seed 0)."""
    array = np.asarray(values)
    rng = np.random.default_rng(0)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(draws)]
    return [float(array.mean()), *(float(x) for x in np.percentile(means, [2.5, 97.5]))]


def _write(file: Path, opened: Opened, questions, answered: Sequence[Answered]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for question, found in zip(questions, answered, strict=True):
            record = {"id": question.id, "question": question.question}
            record |= as_record(opened, found)
            record["answers"] = list(question.answers)
            said = record["answer"] or ""
            record["exact_match"] = answers.exact_match(said, question.answers)
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def as_record(
    opened: Opened, found: Answered, runners_up: int = 3, beam: int = 5
) -> dict[str, Any]:
    """An answer as JSON: its text, where it stands, what else was likely, and the first of the beam."""
    best = found.answers[0] if found.answers else None
    record: dict[str, Any] = {"answer": None, "probability": 0.0, "evidence": None}
    if best is not None:
        held = opened.texts[best.row]
        record["answer"], record["probability"] = best.text, best.probability
        record["evidence"] = {
            "id": held["id"].decode(),
            "documents": [d.decode() for d in held["documents"]],
            "title": held["title"].decode(),
            "text": held["text"].decode(),
            "start": best.start,
            "stop": best.stop,
        }
    record["runners_up"] = [
        {"answer": a.text, "probability": a.probability} for a in found.answers[1 : 1 + runners_up]
    ]
    record["passages"] = [
        {"id": opened.texts[int(row)]["id"].decode(), "probability": float(p)}
        for row, p in zip(found.rows[:beam], found.probabilities[:beam], strict=True)
        if row >= 0
    ]
    return record

"""How well questions are answered, beside the pipelines of today: BM25 or a frozen retriever, same reader."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.evaluation.retrieval import Relevance, notes
from ralm_jax.examples.matching import wordpieces
from ralm_jax.examples.questions import Questions
from ralm_jax.inference.answering import Answered, read, reranked
from ralm_jax.inference.embedding import Ranking
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.records import as_record
from ralm_jax.retrieval.lexical import Bm25

ROWS = {
    "retriever": "fine-tuned retriever",
    "frozen": "frozen retriever, same reader",
    "bm25": "BM25, same reader",
    "reranked": "fine-tuned, re-ranked by scorer",
}


def evaluate_answers(
    opened: OpenRun,
    given: Questions,
    *,
    beam: int = 100,
    candidates: int = 5,
    predictions: Path | None = None,
    bm25: bool = True,
) -> dict[str, Any]:
    """Exact match and F1 of SQuAD with 95% bootstrap intervals, recall of the beam, the reader's oracle.

    Args:
      predictions: a JSON line for each question is written there: what was answered, and from where.

    Returns:
      {"questions", "answerable": n, "asking": row, row: {"exact_match", "f1": [value, low, high],
      "reader_oracle", "recall", ...}} for the rows "retriever" (as fine-tuned), "frozen" (the tower of the
      passages asks, as before), "bm25", and where the run has a scorer "reranked", of the best passages
      alone. asking: the one of these that `ralm ask` does, and what is predicted.
      reader_oracle: the share of questions with an answer in a passage that is read. Under "answerable":
      exact match and F1 of the questions that some passage of the corpus answers, by wordpieces.
    """
    questions, asked = given.asked, [q.question for q in given.asked]
    relevance = Relevance(opened.corpus, questions)
    beam = min(beam, opened.corpus.size)
    text = opened.encode(asked)
    retriever = opened.params["retriever"]
    still = {**retriever, "query_tower": retriever["passage_tower"]}
    before = dataclasses.replace(
        opened,
        params={**opened.params, "retriever": still},
        embedded=opened.vectors,
        source=opened.corpus,
    )
    rankings = {"retriever": opened.search(text, beam), "frozen": before.search(text, beam)}
    if bm25:
        lexical = Ranking(*Bm25(relevance.texts()).search(asked, beam))
        # BM25's scores are of another kind than the reader's: it chooses what is read, and no more.
        flat = np.where(lexical.rows < 0, -np.inf, 0.0)
        rankings["bm25"] = Ranking(lexical.rows, flat)
    if opened.model.with_scorer:
        rankings["reranked"] = reranked(opened, text, rankings["retriever"])
    read_each = read(opened, text, list(rankings.values()), candidates)
    found = dict(zip(rankings, read_each, strict=True))
    answerable = np.array([len(rows) > 0 for rows in wordpieces(opened.corpus, questions)])
    report: dict[str, Any] = {"questions": len(questions), "answerable": int(answerable.sum())}
    report |= {"left_out": given.notes, "read": candidates}
    report["asking"] = "reranked" if opened.rerank else "retriever"
    for name, answered in found.items():
        report[name] = _score(relevance, questions, answered, candidates, answerable)
    if predictions is not None:
        _write(predictions, opened, questions, found[report["asking"]])
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['questions']:,} questions, {report['answerable']:,} of them answered by some passage; "
        f"{report['read']} passages read",
        *notes(report),
        f"{'':<32}{'EM':>22}{'F1':>22}{'oracle':>9}{'@1':>8}{'@5':>8}{'@20':>8}{'EM ans.':>9}",
    ]
    for name, label in ROWS.items():
        if name not in report:
            continue
        row = report[name]
        cells = "".join(
            f"{value:>10.1%} ({low:.1%}-{high:.1%})".rjust(22)
            for value, low, high in (row["exact_match"], row["f1"])
        )
        recall = "".join(f"{row['recall'].get(k, float('nan')):>8.1%}" for k in ("1", "5", "20"))
        lines.append(
            f"{label:<32}{cells}{row['reader_oracle']:>9.1%}{recall}"
            f"{row['answerable']['exact_match'][0]:>9.1%}"
        )
        if row["nothing_found"]:
            lines.append(f"  ({row['nothing_found']:,} questions for which no passage was found)")
    if "reranked" in report:
        does = "re-ranks" if report["asking"] == "reranked" else "does not re-rank"
        lines.append(f"ralm ask {does}: development questions decide, and without any it does not")
    return "\n".join(lines)


def _score(
    relevance: Relevance, questions, answered: Sequence[Answered], read: int, answerable: np.ndarray
) -> dict[str, Any]:
    said = [a.answers[0].text if a.answers else "" for a in answered]
    rows = np.stack([a.rows for a in answered])
    held = [
        any(relevance.has_answer(int(row), q) for row in found[:read])
        for found, q in zip(rows, questions, strict=True)
    ]
    recall = relevance.score(Ranking(rows, np.zeros(rows.shape)))["holds_answer"]["recall"]
    pairs = list(zip(said, questions, strict=True))
    right = np.array([float(q.answered_by(s)) for s, q in pairs])
    overlap = np.array([q.f1(s) for s, q in pairs])
    return {
        "exact_match": interval(right),
        "f1": interval(overlap),
        "answerable": {
            "exact_match": interval(right[answerable]),
            "f1": interval(overlap[answerable]),
        },
        "nothing_found": int((rows < 0).all(1).sum()),
        "reader_oracle": float(np.mean(held)),
        "recall": recall,
    }


def interval(values: Sequence[float] | np.ndarray, draws: int = 1000) -> list[float]:
    """Mean, and the 2.5 and 97.5 percentiles of the means of bootstrap samples (seed 0); of none, 0."""
    array = np.asarray(values)
    if not len(array):
        return [0.0, 0.0, 0.0]
    rng = np.random.default_rng(0)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(draws)]
    return [float(array.mean()), *(float(x) for x in np.percentile(means, [2.5, 97.5]))]


def _write(file: Path, opened: OpenRun, questions, answered: Sequence[Answered]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for question, found in zip(questions, answered, strict=True):
            record = {"id": question.id, "question": question.question}
            record |= as_record(opened, found)
            record["answers"] = list(question.answers)
            said = record["answer"] or ""
            record["exact_match"], record["f1"] = question.answered_by(said), question.f1(said)
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

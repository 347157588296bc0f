"""How well questions are answered, beside the pipelines of today: BM25 or a frozen retriever, same reader."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.evaluation.retrieval import TITLES, Relevance, notes
from ralm_jax.examples.matching import wordpieces
from ralm_jax.inference.answering import Answered, read, reranked
from ralm_jax.inference.embedding import Ranking, embed_texts
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.inference.records import as_record
from ralm_jax.lexical.bm25 import Bm25
from ralm_jax.metrics.intervals import interval
from ralm_jax.questions.question import Questions, counted, cut_notes

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

    Figures that compare with answers are over the questions that have any; no row has them where none has.

    Args:
      predictions: a file to write one JSON line per question to, with its prediction and the evidence.

    Returns:
      {"questions", "with_answers", "answerable": n, "asking": row, row: {"exact_match", "f1": [value, low,
      high], "reader_oracle", "recall", "gold_passage", ...}} for the rows "retriever" (as fine-tuned),
      "frozen" (queries are embedded by the passage tower, as before fine-tuning), "bm25", and where the run
      has a scorer "reranked", which ranks the best passages only. asking: the row that `ralm ask` is like,
      and whose predictions are written. reader_oracle: the share of questions with an answer in a passage
      that is read. Under "answerable" of a row: exact match and F1 over the questions that some passage of
      the corpus answers, by wordpieces; None where there is no such question. gold_passage: recall and MRR
      over the questions with a gold passage in the corpus.
    """
    questions, asked = given.asked, [q.question for q in given.asked]
    relevance = Relevance(opened.corpus, questions)
    beam = min(beam, opened.corpus.size)
    text = opened.encode(asked)
    retriever = opened.params["retriever"]
    still = {**retriever, "query_tower": retriever["passage_tower"]}
    before = embed_texts(opened.model, {**opened.params, "retriever": still}, text)
    # Both among the same vectors, which are on the devices once.
    rankings = {
        "retriever": opened.search(text, beam),
        "frozen": opened.nearest(text, before, beam),
    }
    if bm25:
        lexical = Ranking(*Bm25(relevance.texts()).search(asked, beam))
        # BM25's scores are of another kind than the reader's: it chooses what is read, and no more.
        flat = np.where(lexical.rows < 0, -np.inf, 0.0)
        rankings["bm25"] = Ranking(lexical.rows, flat)
    if opened.model.with_scorer:
        rankings["reranked"] = reranked(opened, text, rankings["retriever"])
    read_each = read(opened, text, list(rankings.values()), candidates)
    found = dict(zip(rankings, read_each, strict=True))
    answerable = wordpieces(opened.corpus, questions).anywhere()
    report: dict[str, Any] = {"questions": len(questions), "answerable": int(answerable.sum())}
    report |= {"with_answers": sum(bool(q.answers) for q in questions)}
    report |= {"left_out": given.notes, "read": min(candidates, beam)}
    cut = cut_notes(opened.tokenizer, asked, opened.lengths.query)
    report["notes"] = relevance.notes | cut
    report["asking"] = "reranked" if opened.rerank else "retriever"
    for name, answered in found.items():
        report[name] = _score(relevance, questions, answered, candidates, answerable)
    if predictions is not None:
        _write(predictions, opened, questions, found[report["asking"]])
    return report


def table(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [_heading(report), *notes(report)]
    rows = {label: report[name] for name, label in ROWS.items() if name in report}
    if report["with_answers"]:
        columns = "".join(f"{name:>8}" for name in ("@1", "@5", "@20"))
        lines.append(f"{'':<32}{'EM':>22}{'F1':>22}{'oracle':>9}{columns}{'EM ans.':>9}")
        for label, row in rows.items():
            lines.append(f"{label:<32}{_answer_cells(row)}")
            if row["nothing_found"]:
                missed = counted(row["nothing_found"])
                lines.append(f"  (no passage was found for {missed})")
    golds = {label: row["gold_passage"] for label, row in rows.items() if "gold_passage" in row}
    if golds:
        over = counted(next(iter(golds.values()))["questions"])
        lines += ["", f"{TITLES['gold_passage']}, over {over}"]
        lines.append(f"{'':<32}{'@1':>8}{'@5':>8}{'@20':>8}{'MRR':>8}")
        for label, gold in golds.items():
            lines.append(f"{label:<32}{_recall_cells(gold['recall'])}{gold['mrr']:>8.3f}")
    if "reranked" in report:
        lines.append(
            "ralm ask re-ranks: it answered more development questions that way"
            if report["asking"] == "reranked"
            else "ralm ask does not re-rank: it does only if that answers more development questions"
        )
    return "\n".join(lines)


def _heading(report: dict[str, Any]) -> str:
    """How many questions, and over how many of them each figure is."""
    asked, answered = report["questions"], report["with_answers"]
    read = f"{report['read']} passages read"
    some = f"{report['answerable']:,} of them answered by some passage"
    if answered == asked:
        return f"{counted(asked)}, {some}; {read}"
    if not answered:
        return f"{counted(asked)}, none with an answer to compare with; {read}"
    return f"{counted(asked)}; EM, F1, oracle and @k are over the {answered:,} with answers, {some}; {read}"


def _answer_cells(row: dict[str, Any]) -> str:
    cells = "".join(
        f"{value:>10.1%} ({low:.1%}-{high:.1%})".rjust(22)
        for value, low, high in (row["exact_match"], row["f1"])
    )
    best = row["answerable"]
    answerable = f"{best['exact_match'][0]:.1%}" if best else "-"
    return f"{cells}{row['reader_oracle']:>9.1%}{_recall_cells(row['recall'])}{answerable:>9}"


def _recall_cells(recall: dict[str, float]) -> str:
    """Recall at 1, 5 and 20; a dash at depths that were not searched."""
    shown = (f"{recall[k]:.1%}" if k in recall else "-" for k in ("1", "5", "20"))
    return "".join(f"{cell:>8}" for cell in shown)


def _score(
    relevance: Relevance, questions, answered: Sequence[Answered], read: int, answerable: np.ndarray
) -> dict[str, Any]:
    """The figures of one row. Those of answers are over the questions that have any."""
    said = [a.answers[0].text if a.answers else "" for a in answered]
    rows = np.stack([a.rows for a in answered])
    found = relevance.score(Ranking(rows, np.zeros(rows.shape)))
    row: dict[str, Any] = {"nothing_found": int((rows < 0).all(1).sum())}
    if "gold_passage" in found:
        row["gold_passage"] = found["gold_passage"]
    known = np.array([bool(q.answers) for q in questions])
    if not known.any():
        return row
    read_right = [
        bool(relevance.holding(passages[:read].tolist(), q))
        for passages, q in zip(rows, questions, strict=True)
        if q.answers
    ]
    pairs = list(zip(said, questions, strict=True))
    right = np.array([float(q.answered_by(s)) for s, q in pairs])
    overlap = np.array([q.f1(s) for s, q in pairs])
    best = None
    if answerable.any():
        best = {"exact_match": interval(right[answerable]), "f1": interval(overlap[answerable])}
    return row | {
        "exact_match": interval(right[known]),
        "f1": interval(overlap[known]),
        "answerable": best,
        "reader_oracle": float(np.mean(read_right)),
        "recall": found["holds_answer"]["recall"],
    }


def _write(file: Path, opened: OpenRun, questions, answered: Sequence[Answered]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for question, found in zip(questions, answered, strict=True):
            record = {"id": question.id, "question": question.question}
            record |= as_record(opened, found)
            record["answers"] = list(question.answers)
            said = record["answer"] or ""
            # Null where there is no answer to compare with.
            known = bool(question.answers)
            record["exact_match"] = question.answered_by(said) if known else None
            record["f1"] = question.f1(said) if known else None
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

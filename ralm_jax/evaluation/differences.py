"""Is a run better than what a person could have for nothing? Paired, on the same questions."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ralm_jax.evaluation.rankings import ROWS
from ralm_jax.inference.embedding import Ranking
from ralm_jax.metrics.intervals import interval, paired
from ralm_jax.questions.question import Question

# Of the run, and what each is compared with.
OURS = {"retriever": ("start",), "mixed": ("bm25", "start", "rrf", "fixed_mix")}
DEPTH = 5
# That intervals are of; the others are in the file of each question.
MEASURES = (f"recall@{DEPTH}", "ndcg@10")


# Of each row, by measure, a value [q] for each question that is counted.
Values = Mapping[str, Mapping[str, np.ndarray]]


def by_question(relevance, found: Mapping[str, Ranking]) -> Values:
    """Hits at 1, 5 and 20 and nDCG@10 of every row, over questions that have a gold passage in the corpus.

    Where none has, hits alone, of passages that contain an answer; no row where none has an answer either.
    """
    if any(relevance.gold):
        return {
            name: _hits(relevance.gold_found, ranking)
            | {"ndcg@10": relevance.judged(ranking)["ndcg@10"]}
            for name, ranking in found.items()
        }
    if relevance.counted():
        return {name: _hits(relevance.answer_found, ranking) for name, ranking in found.items()}
    return {}


def _hits(among: Callable[[Ranking, int], np.ndarray], ranking: Ranking) -> dict[str, np.ndarray]:
    return {f"recall@{k}": among(ranking, k).astype(float) for k in (1, DEPTH, 20)}


def differences(values: Values) -> dict[str, dict[str, Any]]:
    """{"mixed - bm25": {"recall@5": {"difference", "low", "high", "p"}, "ndcg@10": {...}}, ...}."""
    return {
        f"{ours} - {theirs}": {
            measure: paired(values[ours][measure], values[theirs][measure])
            for measure in MEASURES
            if measure in values[ours]
        }
        for ours, others in OURS.items()
        for theirs in others
        if ours in values and theirs in values
    }


def intervals(values: Values) -> dict[str, dict[str, list[float]]]:
    """{"bm25": {"recall@5": [mean, low, high], "ndcg@10": [...]}, ...}: 95%, over questions."""
    return {
        name: {measure: interval(each[measure]) for measure in MEASURES if measure in each}
        for name, each in values.items()
    }


def said(report: Mapping[str, Any]) -> list[str]:
    """A line for each difference at DEPTH, for a person."""
    lines = []
    for pair, measured in report.get("differences", {}).items():
        ours, theirs = (ROWS[name] for name in pair.split(" - "))
        at = measured[f"recall@{DEPTH}"]
        lines.append(
            f"{ours} less {theirs}: {100 * at['difference']:+.1f} points at {DEPTH} "
            f"({100 * at['low']:+.1f} to {100 * at['high']:+.1f}, p {at['p']:.2g})"
        )
    return ["", *lines] if lines else []


def write_each(file: Path, counted: Sequence[Question], values: Values) -> None:
    """A JSON line for each question that is counted: its id, and each row's hits and, if known, nDCG@10."""
    with file.open("w", encoding="utf-8") as out:
        for i, question in enumerate(counted):
            rows = {
                name: {measure: float(each[i]) for measure, each in measured.items()}
                for name, measured in values.items()
            }
            line = {"id": question.id, "question": question.question, **rows}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")

"""Rows compared question by question: over gold passages, and over answers where no passage is known."""

import json

import numpy as np
import passages_of
import pytest

from ralm_jax.evaluation.differences import by_question, differences, intervals, said, write_each
from ralm_jax.evaluation.retrieval import Relevance
from ralm_jax.inference.embedding import Ranking
from ralm_jax.questions.question import Question

CORPUS = passages_of.corpus("Paris in May", "Rome", "Oslo", "Paris again", "Bern", "Riga", "Kyiv")
# The start finds Paris sixth for the first question; the run finds it first.
FOUND = {
    "start": Ranking(np.array([[1, 2, 4, 5, 6, 0], [1, 0, 2, 3, 4, 5]]), np.zeros((2, 6))),
    "retriever": Ranking(np.array([[3, 1, 2, 4, 5, 6], [1, 0, 2, 3, 4, 5]]), np.zeros((2, 6))),
}


def asked(name, answers, gold=()):
    return Question(name, "?", tuple(answers), tuple(gold))


def test_questions_without_gold_passages_are_compared_by_answers(tmp_path):
    questions = [asked("a", ["Paris"]), asked("b", ["Rome"]), asked("none", [])]
    found = {
        name: Ranking(np.vstack([x.rows, x.rows[:1]]), np.zeros((3, 6)))
        for name, x in FOUND.items()
    }
    relevance = Relevance(CORPUS, questions)
    values = by_question(relevance, found)
    assert values["start"]["recall@5"].tolist() == [0, 1]
    assert values["start"]["recall@20"].tolist() == [1, 1]
    assert values["retriever"]["recall@1"].tolist() == [1, 1]
    between = differences(values)["retriever - start"]
    assert list(between) == ["recall@5"] and between["recall@5"]["difference"] == 0.5
    assert intervals(values)["start"]["recall@5"][0] == 0.5
    assert "+50.0 points at 5" in said({"differences": differences(values)})[1]
    write_each(tmp_path / "each", relevance.counted(), values)
    lines = [json.loads(line) for line in (tmp_path / "each").read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["a", "b"]
    # What each question counts for is what the report is the mean of.
    report = relevance.score(found["start"])["holds_answer"]
    assert report["recall"]["5"] == values["start"]["recall@5"].mean() == 0.5


def test_gold_passages_go_before_answers():
    questions = [asked("a", ["Paris"], ["d3"]), asked("b", ["Rome"])]
    relevance = Relevance(CORPUS, questions)
    values = by_question(relevance, FOUND)
    assert [q.id for q in relevance.counted()] == ["a"]
    assert values["start"]["recall@5"].tolist() == [0]
    assert values["start"]["recall@20"].tolist() == [0]  # d0 holds the answer, and is not the gold
    assert values["retriever"]["ndcg@10"].tolist() == [pytest.approx(1)]
    assert list(differences(values)["retriever - start"]) == ["recall@5", "ndcg@10"]


def test_nothing_is_compared_of_questions_of_which_nothing_is_known():
    relevance = Relevance(CORPUS, [asked("a", []), asked("b", [], ["elsewhere"])])
    assert by_question(relevance, FOUND) == differences({}) == intervals({}) == {}

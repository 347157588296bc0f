"""Which passages answer a question: gold passages, and those that contain an answer; by hand."""

import numpy as np
import passages_of
import pytest

from ralm_jax.evaluation import retrieval
from ralm_jax.evaluation.retrieval import Relevance
from ralm_jax.inference.embedding import Ranking
from ralm_jax.questions.question import Question


def passages(*texts):
    """Stands for a corpus of these texts; passage i came from document i, the last from two."""
    made = passages_of.corpus(*texts)
    made.texts()[-1]["documents"].append(b"copy")
    return made


def asked(answers, gold=()):
    return Question("q", "?", tuple(answers), tuple(gold))


def test_passages_are_read_together_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(retrieval, "KEPT", 4)
    corpus = passages("Paris", "Rome", "Oslo", "Bern", "Riga", "Paris again")
    together = []
    read = type(corpus.texts()).read
    monkeypatch.setattr(
        type(corpus.texts()), "read", lambda self, rows: together.append(rows) or read(self, rows)
    )
    relevance, question = Relevance(corpus, [asked(["Paris"])]), asked(["Paris"])
    assert relevance.holding([5, 1, -1, 0, 1], question) == {0, 5}
    assert relevance.documents([1, -1, 5]) == [["d1"], [], ["d5", "copy"]]
    assert relevance.holding([0, 2, 3], question) == {0}
    assert relevance.holding([-1], question) == set()
    # Of four at the most: the fifth made room for itself.
    assert [rows for rows in together if rows] == [[0, 1, 5], [0, 2, 3]]


def test_relevance_by_hand():
    corpus = passages("Paris in May", "The Seine, and paris.", "Nothing", "Rome")
    questions = [
        asked(["Paris"], ["d1"]),
        asked(["Title"], ["copy", "elsewhere"]),  # in every title, which is no answer
        asked(["Rome"]),
    ]
    relevance = Relevance(corpus, questions)
    assert relevance.gold == [{1}, {3}, set()]
    rows = np.array([[2, 0, 1, 3, -1], [3, 2, 1, 0, -1], [0, 1, 2, 3, -1]], np.int32)
    found = relevance.score(Ranking(rows, np.zeros(rows.shape)))
    answered, gold = found["holds_answer"], found["gold_passage"]
    assert answered["questions"] == 3
    assert answered["recall"] == pytest.approx({"1": 0, "5": 2 / 3, "20": 2 / 3, "100": 2 / 3})
    assert answered["mrr"] == pytest.approx((1 / 2 + 0 + 1 / 4) / 3)
    # By gold passages only questions that name one in this corpus are judged.
    assert gold["questions"] == 2
    assert gold["recall"] == pytest.approx({"1": 1 / 2, "5": 1, "20": 1, "100": 1})
    assert gold["mrr"] == pytest.approx((1 / 3 + 1) / 2)
    none = Relevance(corpus, [asked(["Rome"], ["elsewhere"])])
    assert "gold_passage" not in none.score(Ranking(rows[:1], np.zeros((1, 5))))
    assert relevance.texts()[3] == "Title Rome"
    assert not relevance.holding([-1], asked(["Rome"]))


ROWS = np.array([[2, 0, 1, 3], [3, 2, 1, 0], [0, 1, 2, 3]], np.int32)


def test_questions_without_answers_count_in_no_figure_of_answers():
    corpus = passages("Paris in May", "The Seine", "Nothing", "Rome")
    given = [asked(["Paris"]), asked([], ["d1"]), asked(["Rome"], ["d3"])]
    found = Relevance(corpus, given).score(Ranking(ROWS, np.zeros(ROWS.shape)))
    answer, gold = found["holds_answer"], found["gold_passage"]
    # The second question's ranking has neither part in the first table nor the first in the second.
    assert answer["questions"] == 2 and answer["recall"]["1"] == 0 and answer["recall"]["5"] == 1
    assert answer["mrr"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert gold["questions"] == 2 and gold["mrr"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    # Where no question has an answer there is no such table at all.
    only = Relevance(corpus, given[1:2]).score(Ranking(ROWS[1:2], np.zeros((1, 4))))
    assert only.keys() == {"gold_passage"}


def test_gold_ids_that_are_not_in_the_corpus_are_counted_and_said():
    corpus = passages("Paris in May", "The Seine", "Nothing", "Rome")
    given = [asked(["Paris"], ["d0"]), asked([], ["no"]), asked(["Rome"], ["no", "nor"])]
    relevance = Relevance(corpus, given)
    assert relevance.notes == {retrieval.UNKNOWN_GOLD: 2}
    found = relevance.score(Ranking(ROWS, np.zeros(ROWS.shape)))
    assert found["gold_passage"]["questions"] == 1 and found["holds_answer"]["questions"] == 2
    assert retrieval.notes({"notes": relevance.notes}) == [
        "2 questions: none of their gold ids is in the corpus"
    ]
    # One that is there is enough, and so is none given.
    assert not Relevance(corpus, [asked(["x"], ["no", "d1"]), asked(["x"])]).notes
    nowhere = Relevance(corpus, [asked([], ["no"])])
    assert nowhere.score(Ranking(ROWS[:1], np.zeros((1, 4)))) == {}


def test_a_question_that_is_a_document_does_not_find_itself():
    """By id and text, as in ArguAna; an id alone may be that of another document by chance."""
    corpus = passages("Paris in May", "The Seine", "Nothing", "Rome")
    same = Question("d1", "The Seine is long", (), ("d0",))
    chance = Question("d3", "Venice?", (), ("d3",))
    relevance = Relevance(corpus, [same, chance])
    assert relevance.notes == {retrieval.ITSELF: 1}
    given = Ranking(np.array([[1, 0, 2], [3, 1, 0]], np.int32), np.array([[3.0, 2, 1], [3, 2, 1]]))
    found = relevance.without_itself(given)
    np.testing.assert_array_equal(found.rows, [[0, 2, -1], [3, 1, 0]])
    np.testing.assert_array_equal(found.scores, [[2, 1, -np.inf], [3, 2, 1]])
    assert relevance.score(found)["gold_passage"]["recall"]["1"] == 1


def test_recall_beyond_the_corpus_is_that_over_all_passages():
    """The same in a ranking that was cut to the corpus and in one that was filled up."""
    corpus = passages("Paris in May", "The Seine", "Nothing", "Rome")
    given = [asked(["Paris"], ["d3"]), asked(["Seine"], ["d2"]), asked(["Venice"], ["d0"])]
    short = Relevance(corpus, given).score(Ranking(ROWS, np.zeros(ROWS.shape)))
    filled = np.pad(ROWS, ((0, 0), (0, 96)), constant_values=-1)
    assert short == Relevance(corpus, given).score(Ranking(filled, np.zeros(filled.shape)))
    share = pytest.approx(2 / 3)
    assert short["holds_answer"]["recall"] == {"1": 0, "5": share, "20": share, "100": share}
    assert short["gold_passage"]["recall"]["100"] == 1
    # A beam that leaves passages out tells nothing of greater depths.
    beam = Relevance(corpus, given).score(Ranking(ROWS[:, :2], np.zeros((3, 2))))
    assert list(beam["holds_answer"]["recall"]) == ["1"]


def test_a_document_cut_into_passages_is_found_with_any_of_them():
    corpus = passages("Paris", "in May", "Nothing")
    corpus.texts()[1]["documents"].append(b"d0")
    relevance = Relevance(corpus, [asked(["May"], ["d0"]), asked(["x"], ["d0", "d2"])])
    assert relevance.gold == [{0, 1}, {0, 1, 2}]


def test_a_document_gains_its_grade():
    graded = asked([], ["d0", "d1", "nowhere"])._replace(grades=(1, 2, 3))
    relevance = Relevance(passages("Paris", "Rome"), [graded])
    found = relevance.judged(Ranking(np.array([[0, 1]]), np.zeros((1, 2))))
    second = 1 / np.log2(3)
    np.testing.assert_allclose(found["ndcg@10"], [(1 + 2 * second) / (2 + second)], rtol=1e-6)

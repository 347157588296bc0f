import doctest
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.metrics import means
from ralm_jax.metrics.means import Mean
from ralm_jax.metrics.ranking import all_ranked, fused, judged, mrr, recall_at_k

RANKED = np.array([[4, 7, 2, 9], [1, 0, 3, 5], [8, 6, -1, -1], [0, 1, 2, 3]])
GOLD = [{2, 9}, {1}, {5}, set()]  # found third, first, never, nothing to find


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(means).failed == 0


def test_recall_by_hand():
    found = recall_at_k(RANKED, GOLD, [1, 2, 3, 4])
    assert found == {1: (1, 4), 2: (1, 4), 3: (2, 4), 4: (2, 4)}


def test_mrr_by_hand():
    total, count = mrr(RANKED, GOLD)
    assert (total, count) == (pytest.approx(1 / 3 + 1), 4)


def test_a_padding_id_is_never_gold():
    assert recall_at_k(np.array([[-1]]), [{-1}], [1]) == {1: (0, 1)}


def test_recall_deeper_than_the_ranking_is_refused():
    with pytest.raises(ValueError, match="recall at \\[5\\]"):
        recall_at_k(RANKED, GOLD, [1, 5])


def test_one_gold_set_for_each_query():
    with pytest.raises(ValueError, match="zip"):
        mrr(RANKED, GOLD[:3])


def test_merging_is_counting_everything_at_once():
    values = np.arange(12.0)
    whole = Mean.of({"loss": (values.sum(), 12)})
    parts = Mean()
    for share in np.split(values, [1, 5, 6]):  # unequal: a mean of means would differ
        parts = parts.merge(Mean.of({"loss": (jnp.sum(share), len(share))}))
    assert parts.compute() == whole.compute() == {"loss": 5.5}


def test_names_may_come_from_either_side():
    merged = Mean.of({"a": (1, 2)}).merge(Mean.of({"b": (3, 4)}))
    assert merged.compute() == {"a": 0.5, "b": 0.75}


def test_nothing_counted_is_nan():
    assert math.isnan(Mean.of({"accuracy": (0, 0)}).compute()["accuracy"])


def test_recall_beyond_the_corpus_is_that_over_all_passages():
    ranked = np.array([[2, 0, 1], [1, 2, -1]])
    whole = all_ranked(ranked, passages=3, depth=5)
    assert whole.tolist() == [[2, 0, 1, -1, -1], [1, 2, -1, -1, -1]]
    assert recall_at_k(whole, [{1}, {0}], [1, 3, 5]) == {1: (0, 2), 3: (1, 2), 5: (1, 2)}
    assert all_ranked(ranked, passages=4, depth=5) is ranked
    assert all_ranked(ranked, passages=3, depth=2) is ranked


def test_the_measures_of_trec_eval_by_hand():
    ranked = [["a", "b", "c"], ["x", "y"], []]
    gold = [{"b": 1, "d": 1}, {"x": 1}, {"q": 1}]
    found = judged(ranked, gold)
    # The ideal list of two has gains 1 and 1 / log2(3); here the one found stands second.
    ideal = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(found["ndcg@10"], [1 / math.log2(3) / ideal, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(found["mrr@10"], [1 / 2, 1, 0])
    # Of both relevant documents one is found, at a precision of one half.
    np.testing.assert_allclose(found["map"], [1 / 4, 1, 0])


def test_ndcg_gains_grades_by_hand():
    found = judged([["a", "b", "c"]], [{"a": 1, "c": 3, "d": 2}])
    gained = 1 + 3 / math.log2(4)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(found["ndcg@10"], [gained / ideal], rtol=1e-6)
    np.testing.assert_allclose(found["mrr@10"], [1])
    np.testing.assert_allclose(found["map"], [(1 + 2 / 3) / 3])


def test_names_do_not_break_ties_between_ranks():
    for ranked in (["a", "b"], ["b", "a"]):
        found = judged([ranked], [{"a": 1}])
        assert found["mrr@10"][0] == 1 / (1 + ranked.index("a"))


def test_reciprocal_rank_fusion_by_hand():
    first, second = np.array([[3, 1, 2]]), np.array([[2, 3, -1]])
    # 3: 1/61 + 1/62; 2: 1/63 + 1/61; 1: 1/62.
    assert fused([first, second], 4).tolist() == [[3, 2, 1, -1]]
    assert fused([first, second], 1).tolist() == [[3]]
    # Alike by rank: the lower row first.
    assert fused([np.array([[9, 4]]), np.array([[4, 9]])], 2).tolist() == [[4, 9]]

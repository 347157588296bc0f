import tracemalloc

import numpy as np
import pytest

from ralm_jax.retrieval import searcher


def test_exact_equals_a_full_sort():
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(5, 4)), rng.normal(size=(50, 4))
    scores = queries @ vectors.T
    wanted = np.argsort(-scores, axis=1)[:, :7]
    for rows in 3, 7, 50, 1000:
        ids, found = searcher.exact(queries, vectors, 7, rows=rows)
        np.testing.assert_array_equal(ids, wanted)
        np.testing.assert_allclose(found, np.take_along_axis(scores, wanted, 1), rtol=1e-6)


def test_of_equal_scores_the_lower_id_comes_first():
    vectors = np.array([[1], [3], [2], [3], [2], [2], [3], [1]], np.float32)
    for rows in 1, 2, 3, 8:
        ids, _ = searcher.exact(np.ones((1, 1), np.float32), vectors, 5, rows=rows)
        assert ids.tolist() == [[1, 3, 6, 2, 4]]


def test_fewer_passages_than_asked_for():
    ids, scores = searcher.exact(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), 4)
    assert ids.tolist() == [[0, 1, -1, -1]] * 2
    assert scores.tolist() == [[3, 3, -np.inf, -np.inf]] * 2
    assert ids.dtype == np.int32 and scores.dtype == np.float32


def test_recall_counts_each_query_by_itself():
    wanted = np.array([[1, 2], [3, 4], [5, -1]])
    assert searcher.recall(wanted, wanted) == 1
    assert searcher.recall(wanted[:, ::-1], wanted) == 1
    assert searcher.recall(np.array([[2, 9, 9], [1, 2, 9], [-1, 5, 9]]), wanted) == pytest.approx(
        2 / 5
    )


def test_recall_of_thousands_takes_little_memory():
    """A table of all pairs of found and wanted would take 400 MB."""
    wanted = np.arange(10 * 6400).reshape(10, 6400)
    found = wanted[:, ::-1].copy()
    found[:, :1600] = -1
    tracemalloc.start()
    assert searcher.recall(found, wanted) == 0.75
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()

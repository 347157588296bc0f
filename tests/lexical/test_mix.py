"""Lexical and dense in one score, by hand and against scoring every passage."""

import numpy as np
import pytest

from ralm_jax.lexical.index import LexicalIndex
from ralm_jax.lexical.mix import Mix
from ralm_jax.retrieval.searcher import exact


@pytest.fixture(scope="module")
def lexical(tiny):
    return LexicalIndex(tiny.corpus)


def asked(corpus, rows, length=8):
    """The first wordpieces of the bodies, as queries of one length."""
    title = np.asarray(corpus.lengths)[rows, 0].astype(int)
    return np.stack([corpus.tokens[r, t : t + length] for r, t in zip(rows, title, strict=True)])


def test_the_best_passage_has_one_whatever_the_query_is_long(tiny, lexical):
    for length in (3, 12):
        for row, query in zip(range(20), asked(tiny.corpus, np.arange(20), length), strict=True):
            scores = lexical.scores(query)
            assert scores.shape == (tiny.corpus.size,) and scores.dtype == np.float32
            assert scores.max() == 1 and scores.min() >= 0
            assert scores[row] > np.median(scores)


def test_special_pieces_say_nothing(tiny, lexical):
    v = tiny.corpus.vocabulary
    query = asked(tiny.corpus, np.array([3]))[0]
    framed = np.r_[v.cls, query, v.mask, v.sep, 0, 0]
    np.testing.assert_array_equal(lexical.scores(framed), lexical.scores(query))
    assert not lexical.scores(np.array([v.cls, v.sep, 0])).any()


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_it_is_the_ranking_of_the_sum_over_all_passages(tiny, lexical, weight):
    rng = np.random.default_rng(0)
    n, k, scale = tiny.corpus.size, 5, 2.0
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    queries = rng.normal(size=(7, 6)).astype(np.float32)
    tokens = asked(tiny.corpus, np.arange(7))
    dense = exact(queries, vectors, n)
    ids, scores = Mix(lexical, scale, weight)(dense, queries, vectors, tokens, k)
    whole = scale * queries @ vectors.T + weight * np.stack([lexical.scores(t) for t in tokens])
    np.testing.assert_allclose(scores, -np.sort(-whole, axis=1)[:, :k], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(whole, ids, 1), scores, rtol=1e-5, atol=1e-6)
    if weight == 0:
        np.testing.assert_array_equal(ids, dense[0][:, :k])


def test_a_passage_that_dense_search_misses_is_found_by_its_words(tiny, lexical):
    vectors = np.zeros((tiny.corpus.size, 2), np.float32)
    vectors[:, 0] = 1
    vectors[11] = [-1, 0]
    query = asked(tiny.corpus, np.array([11]), 12)
    near = (np.arange(3, dtype=np.int32)[None], np.ones((1, 3), np.float32))
    for weight, first in ((0.0, 0), (50.0, 11)):
        ids, _ = Mix(lexical, 1.0, weight)(near, vectors[:1], vectors, query, 1)
        assert ids[0, 0] == first


def test_fewer_passages_than_asked_for(tiny, lexical):
    near = (np.array([[4, -1]], np.int32), np.array([[0.5, -np.inf]], np.float32))
    vectors = np.ones((tiny.corpus.size, 2), np.float32)
    query = np.array([[tiny.corpus.vocabulary.mask]])
    ids, scores = Mix(lexical, 1.0, 1.0)(near, vectors[:1], vectors, query, 3)
    assert ids.tolist() == [[4, -1, -1]] and np.isneginf(scores[0, 1:]).all()


def test_a_passage_that_is_left_out_is_not_found_and_is_not_the_best(tiny, lexical):
    rng = np.random.default_rng(0)
    n, rows = tiny.corpus.size, np.arange(4)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    queries = rng.normal(size=(4, 6)).astype(np.float32)
    tokens = asked(tiny.corpus, rows)
    # Of the last query none is.
    own = np.array([0, 1, 2, -1])
    mix, dense = Mix(lexical, 2.0, 3.0), exact(queries, vectors, n)
    ids, scores = mix(dense, queries, vectors, tokens, n, own)
    assert [row in found for row, found in zip(rows, ids, strict=True)] == [False] * 3 + [True]
    for row, query, found, scored in zip(own, tokens, ids[:3], scores, strict=False):
        b = lexical.scores(query, [row])
        wanted = 2.0 * vectors[found[:5]] @ queries[row] + 3.0 * b[found[:5]]
        np.testing.assert_allclose(scored[:5], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ids[3], mix(dense, queries, vectors, tokens, n)[0][3])

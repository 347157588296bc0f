"""Answers of all hosts become one: by hand, and as one host finds them, to the bit."""

import numpy as np
import pytest

from ralm_jax.hosts.searching import OverHosts, merged
from ralm_jax.hosts.slices import slices
from ralm_jax.hosts.vectors import FromOwners
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.exact import Exact
from ralm_jax.retrieval.index import Version
from ralm_jax.retrieval.sharded import placed

INF = np.inf


def merge(ids, scores, first, k):
    given = np.array(ids, np.int32), np.array(scores, np.float32), np.array(first, np.int32)
    return [np.asarray(x).tolist() for x in merged(*given, k=k)]


def test_the_best_of_all_hosts_are_found_by_their_rows_in_the_corpus():
    ids = [[[0, 3]], [[2, 1]]]
    scores = [[[5, 1]], [[7, 4]]]
    assert merge(ids, scores, [0, 10], 3) == [[[12, 0, 11]], [[7, 5, 4]]]


def test_of_equal_scores_the_lower_passage_comes_first():
    """Even where a searcher gives its own in another order."""
    ids = [[[4, 1]], [[3, 0]]]
    scores = [[[2, 2]], [[2, 2]]]
    assert merge(ids, scores, [0, 5], 4) == [[[1, 4, 5, 8]], [[2, 2, 2, 2]]]
    assert merge(ids, scores, [0, 5], 3) == [[[1, 4, 5]], [[2, 2, 2]]]


def test_what_a_host_did_not_find_comes_last():
    ids = [[[0, -1]], [[-1, -1]]]
    scores = [[[-3, -INF]], [[-INF, -INF]]]
    assert merge(ids, scores, [0, 1], 3) == [[[0, -1, -1]], [[-3, -INF, -INF]]]


def test_zero_stands_before_minus_zero_as_one_host_has_it():
    ids, scores = [[[0]], [[0]]], [[[-0.0]], [[0.0]]]
    assert merge(ids, scores, [0, 1], 2)[0] == [[1, 0]]


def test_each_query_has_its_own():
    ids = [[[0], [1]], [[0], [1]]]
    scores = [[[1], [9]], [[2], [3]]]
    assert merge(ids, scores, [0, 2], 1) == [[[2], [1]], [[2], [9]]]


@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_many_hosts_find_what_one_finds_to_the_bit(hosts, tmp_path):
    """Equal vectors lie on several hosts, and slices are of unlike sizes."""
    rng = np.random.default_rng(hosts)
    vectors = rng.normal(size=(203, 24)).astype(np.float32)
    again = rng.integers(0, 203, (2, 60))
    vectors[again[0]] = vectors[again[1]]
    queries, k = rng.normal(size=(11, 24)).astype(np.float32), 9

    def found(rows):
        searcher = Exact(len(vectors))
        searcher.restore(Version(0, vectors[rows.start : rows.stop], tmp_path))
        return searcher.search(queries, k)()

    wanted = found(range(203))
    cuts = slices(203, 32, hosts)
    ids, scores = zip(*map(found, cuts), strict=True)
    got = merged(np.stack(ids), np.stack(scores), np.array([c.start for c in cuts], np.int32), k=k)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_array_equal(got[1], wanted[1])


def test_a_host_holds_its_share_and_no_padding_of_the_whole():
    vectors = np.ones((50, 8), np.float32)
    assert placed(vectors, np.float32, whole=200).blocks.nbytes == vectors.nbytes


def test_a_host_alone_merges_what_it_finds(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    own = Exact(4)
    searcher = OverHosts(own, 0)
    assert searcher.step == -1
    searcher.build(Version(3, vectors, tmp_path))
    published = searcher.publish()
    assert (searcher.step, published.step, published.recall) == (3, 3, 1.0)
    ids, scores = searcher.search(vectors[[2, 0]], 2)()
    assert ids.tolist() == [[2, 0], [0, 1]] and scores.tolist() == [[1, 0], [1, 0]]


class OnTheHost(Exact):
    """Finds as ScaNN does: what comes is numpy, and of equal scores any may be the first."""

    def search(self, queries, k):
        ids, scores = mips.exact(queries, np.asarray(self._served.blocks)[0, 0], k)
        order = np.lexsort((-ids, -scores), axis=1)
        return lambda: (np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def test_a_searcher_beside_the_devices_is_merged_alike(tmp_path, monkeypatch):
    vectors = np.tile(np.eye(2, dtype=np.float32), (3, 1))
    # Not known as exact, its answers are not taken from the devices.
    monkeypatch.setattr("ralm_jax.hosts.searching.Exact", type(None))
    searcher = OverHosts(OnTheHost(6), 10)
    searcher.restore(Version(1, vectors, tmp_path))
    ids, scores = searcher.search(np.array([[1, 0]], np.float32), 5)()
    assert ids.tolist() == [[10, 12, 14, 11, 13]] and scores.tolist() == [[1, 1, 1, 0, 0]]


def test_vectors_are_fetched_by_rows_of_any_shape():
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    shared = FromOwners(vectors, range(4))
    rows = np.array([[3, 0, 1], [2, 2, -1]])
    np.testing.assert_array_equal(shared[rows][:, :2], vectors[rows[:, :2]])
    assert shared[rows].shape == (2, 3, 3) and shared[rows][1, 2].tolist() == [0, 0, 0]
    assert shared[np.zeros(0, int)].shape == (0, 3)

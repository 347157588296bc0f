"""Vectors that steps made are kept, the newest of them, and score in place of older ones."""

import numpy as np
import pytest

from ralm_jax.loaders.written import Newest, Written

N, E = 12, 3
RNG = np.random.default_rng(0)
INDEX = RNG.normal(size=(N, E)).astype(np.float32)


def drawn(rows):
    return RNG.normal(size=(len(rows), E)).astype(np.float32)


def filled(most, steps=40):
    """Written over many steps, and what a plain dictionary in order of writing would hold."""
    written, plain = Written(most, (N, E)), {}
    for step in range(steps):
        rows = RNG.integers(-1, N, size=RNG.integers(1, 6))
        vectors = drawn(rows)
        written.add(step, rows, vectors)
        of = {int(row): vector for row, vector in zip(rows, vectors, strict=True) if row >= 0}
        for row in sorted(of):
            plain.pop(row, None)
            plain[row] = step, of[row]
    return written, plain


@pytest.mark.parametrize("most", [N, 99])
def test_it_holds_the_newest_of_every_passage(most):
    written, plain = filled(most)
    rows, made = np.arange(N), np.full(N, -1)
    assert written.steps(rows, made).tolist() == [plain[row][0] for row in rows]
    there, vectors = written.newer(rows, made)
    assert there.all()
    np.testing.assert_array_equal(vectors, [plain[row][1] for row in rows])


def test_the_passage_that_came_first_makes_room():
    written = Written(4, (N, E))
    for step, row in enumerate([3, 5, 3, 7, 9, 1]):
        written.add(step, np.array([row]), INDEX[[row]])
    held, _ = written.newer(np.arange(N), np.full(N, -1))
    assert np.flatnonzero(held).tolist() == [1, 5, 7, 9]
    assert written.steps(np.array([3, 5, 1]), np.array([0, 0, 0])).tolist() == [0, 1, 5]
    written.add(9, np.arange(N), INDEX)
    held, _ = written.newer(np.arange(N), np.full(N, -1))
    assert held.sum() == 4


def test_rescoring_by_hand():
    written = Written(N, (N, 1))
    written.add(5, np.array([2, 4, 6]), np.array([[9.0], [0.5], [7.0]], np.float32))
    ids = np.array([[1, 4, 2, -1], [6, 8, 2, 1]], np.int32)
    scores = np.array([[8.0, 6.0, 2.0, -np.inf], [5.0, 4.0, 4.0, 1.0]], np.float32)
    # The index has passage 6 of a later step than was written.
    made = np.array([[3, 3, 3, 3], [6, 3, 3, 3]])
    found, best = written.rescore(np.array([[1.0], [2.0]], np.float32), (ids, scores), made, 3)
    assert found.tolist() == [[2, 1, 4], [2, 6, 8]]
    assert best.tolist() == [[9.0, 8.0, 0.5], [18.0, 5.0, 4.0]]
    assert scores[0].tolist()[:3] == [8.0, 6.0, 2.0]


def test_with_every_vector_rewritten_the_whole_corpus_is_searched_anew():
    written, fresh = Written(N, (N, E)), drawn(range(N))
    written.add(1, np.arange(N), fresh)
    queries = drawn(range(5))
    ids = np.argsort(-queries @ INDEX.T, axis=1).astype(np.int32)
    scores = np.take_along_axis(queries @ INDEX.T, ids, axis=1)
    found, best = written.rescore(queries, (ids, scores), np.zeros_like(ids), 4)
    assert found.tolist() == np.argsort(-queries @ fresh.T, axis=1)[:, :4].tolist()
    np.testing.assert_allclose(best, -np.sort(-queries @ fresh.T, axis=1)[:, :4], rtol=1e-5)


def test_rows_of_an_index_with_the_newer_ones_in_place():
    written, fresh = Written(N, (N, E)), drawn([2, 3])
    written.add(4, np.array([2, 3]), fresh)
    newest = Newest(INDEX, written, lambda rows: np.where(rows == 3, 8, 0))
    np.testing.assert_array_equal(newest[np.array([1, 2, 3])], [INDEX[1], fresh[0], INDEX[3]])


@pytest.mark.parametrize("most", [3, N])
def test_it_goes_on_from_its_state(most):
    one, _ = filled(most)
    other = Written(most, (N, E))
    other.set_state(one.get_state())
    for written in (one, other):
        written.add(99, np.array([5, 7]), INDEX[[5, 7]])
    for name, kept in one.get_state().items():
        np.testing.assert_array_equal(kept, other.get_state()[name])
    rows = np.arange(N)
    assert one.steps(rows, rows * 0).tolist() == other.steps(rows, rows * 0).tolist()

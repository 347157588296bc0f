"""BM25 of a corpus is made once and kept; a passage may be left out of it."""

import numpy as np
import pytest

from ralm_jax import cache
from ralm_jax.lexical import index
from ralm_jax.lexical.index import LexicalIndex


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RALM_CACHE", str(tmp_path))
    return cache.folder() / f"bm25-{tiny.corpus.fingerprint[:32]}"


def queries(corpus, count=6):
    title = np.asarray(corpus.lengths)[:count, 0].astype(int)
    return np.stack([corpus.tokens[r, t : t + 8] for r, t in zip(range(count), title, strict=True)])


def same(found, wanted, corpus):
    for query in queries(corpus):
        np.testing.assert_array_equal(found.scores(query), wanted.scores(query))


def test_it_is_made_once(tiny, place, monkeypatch):
    wanted, made = LexicalIndex(tiny.corpus), []
    usual = index.bm25s.BM25.index
    monkeypatch.setattr(
        index.bm25s.BM25, "index", lambda *given, **more: made.append(1) or usual(*given, **more)
    )
    for _ in range(3):
        same(LexicalIndex.open(tiny.corpus), wanted, tiny.corpus)
    assert made == [1] and place.is_dir()
    assert [each.name for each in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_what_was_kept_and_cannot_be_used_is_made_anew(tiny, place, monkeypatch, damage):
    wanted = LexicalIndex.open(tiny.corpus)
    file = place / "data.csc.index.npy"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "gone":
        file.unlink()
    else:
        # As by a release with another setting of BM25.
        monkeypatch.setattr(index, "K1", 1.2)
        wanted = LexicalIndex(tiny.corpus)
    same(LexicalIndex.open(tiny.corpus), wanted, tiny.corpus)


def test_without_room_it_is_made_all_the_same(tiny, place, monkeypatch):
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index.bm25s.BM25, "save", full)
    same(LexicalIndex.open(tiny.corpus), LexicalIndex(tiny.corpus), tiny.corpus)
    assert not any(place.parent.iterdir())


def test_a_passage_that_is_left_out_has_none_and_the_best_of_the_others_has_one(tiny):
    lexical = LexicalIndex(tiny.corpus)
    for row, query in enumerate(queries(tiny.corpus)):
        whole, without = lexical.scores(query), lexical.scores(query, [row])
        assert whole[row] == 1 and without[row] == 0 and without.max() == 1
        others = np.arange(len(whole)) != row
        np.testing.assert_allclose(without[others], whole[others] / whole[others].max(), rtol=1e-6)


def test_of_candidates(tiny):
    lexical, asked = LexicalIndex(tiny.corpus), queries(tiny.corpus, 2)
    rows = np.array([[-1, 5, 0], [1, -2, 7]])
    found = lexical.of(asked, rows, np.array([0, -1]))
    assert found.dtype == np.float32 and found[0, 0] == found[1, 1] == found[0, 2] == 0
    assert found[0, 1] == lexical.scores(asked[0], [0])[5]
    assert found[1].tolist() == [lexical.scores(asked[1])[1], 0, lexical.scores(asked[1])[7]]
    plain = lexical.of(asked, rows, None)
    assert plain[0, 2] == 1

import math

import numpy as np
import pytest

from ralm_jax.lexical.bm25 import Bm25

TEXTS = [
    "Vienna: the city on the Danube",
    "Danube: a river, the Danube of the waltz",
    "Thames: a river in London",
    "東京は日本の首都です",
]


def bm25(frequency: int, length: int, holding: int) -> float:
    """Lucene's form, of one term: idf times its saturated frequency."""
    idf = math.log(1 + (len(TEXTS) - holding + 0.5) / (holding + 0.5))
    mean = (6 + 8 + 5 + 10) / 4
    return idf * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / mean))


def test_scores_by_hand():
    ids, scores = Bm25(TEXTS).search(["Danube"], 2)
    assert ids.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[bm25(2, 8, 2), bm25(1, 6, 2)]], rtol=1e-5)


def test_passages_that_share_no_word_are_not_results():
    ids, scores = Bm25(TEXTS).search(["the waltz", "unheard of words", "?"], 3)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    assert ids.tolist() == [[1, 0, -1], [1, -1, -1], [-1, -1, -1]]
    assert (scores[ids < 0] == 0).all() and (scores[ids >= 0] > 0).all()


def test_more_asked_than_there_is():
    ids, scores = Bm25(TEXTS).search(["river"], 9)
    assert ids.shape == scores.shape == (1, 9)
    assert set(ids[0].tolist()) == {1, 2, -1}


def test_the_best_are_those_of_a_whole_sort_and_equals_keep_their_order():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefg"), 4)) for _ in range(300)]
    of_all, scores = Bm25(texts).search(["a b", "g"], len(texts))
    # Of few words there are many alike, before the tenth and behind it.
    assert (np.diff(scores) == 0).sum() > 100
    for row, best in zip(of_all, scores, strict=True):
        order = list(zip(-best[row >= 0], row[row >= 0], strict=True))
        assert order == sorted(order)
    for k in (1, 10, 11, 150):
        assert Bm25(texts).search(["a b", "g"], k)[0].tolist() == of_all[:, :k].tolist()


@pytest.mark.parametrize(("question", "first"), [("london?", 2), ("日本の首都", 3), ("VIENNA", 0)])
def test_case_punctuation_and_script(question, first):
    assert Bm25(TEXTS).search([question], 1)[0].tolist() == [[first]]


def test_is_silent(capfd):
    Bm25(TEXTS).search(["river"], 2)
    assert capfd.readouterr() == ("", "")

from collections import Counter

import numpy as np
import pytest

from ralm_jax.data.tokenizer import Vocabulary
from ralm_jax.examples import masking

CONTINUATION = np.zeros(100, bool)
CONTINUATION[50:] = True  # ids from 50 on go on a word
VOCABULARY = Vocabulary(0, 1, 2, 3, 4, 100, CONTINUATION)
NO_SPANS = np.zeros((0, 2), int)
MASKS = (masking.salient_span, masking.random_span, masking.random_uniform)


def sentences():
    rng = np.random.default_rng(0)
    for length in [1, 2, 3, *rng.integers(4, 95, 60)]:
        yield rng.integers(5, 100, length)


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_pure_functions_of_the_generator(mask):
    spans = np.array([[0, 2], [3, 4], [5, 9]])
    tokens = np.arange(5, 45)
    draw = [mask(tokens, spans, VOCABULARY, np.random.default_rng(i)) for i in (1, 1, 2, 3, 4, 5)]
    assert draw[0].dtype == bool and draw[0].shape == tokens.shape
    assert np.array_equal(draw[0], draw[1])
    assert any(not np.array_equal(draw[0], other) for other in draw[2:])


def test_salient_span_masks_one_span_each_as_often():
    spans = np.array([[0, 2], [1, 4], [7, 8]])
    rng = np.random.default_rng(0)
    seen = Counter(
        tuple(
            np.flatnonzero(masking.salient_span(np.zeros(9, int), spans, VOCABULARY, rng)).tolist()
        )
        for _ in range(3000)
    )
    assert set(seen) == {(0, 1), (1, 2, 3), (7,)}
    assert min(seen.values()) > 900


def test_salient_span_without_spans_masks_nothing():
    mask = masking.salient_span(np.arange(5), NO_SPANS, VOCABULARY, np.random.default_rng(0))
    assert not mask.any()


def test_random_span_masks_whole_words_and_the_asked_share():
    for tokens in sentences():
        mask = masking.random_span(tokens, NO_SPANS, VOCABULARY, np.random.default_rng(len(tokens)))
        word = np.cumsum(np.append(True, ~CONTINUATION[tokens[1:]]))
        for w in range(1, word[-1] + 1):
            assert len(set(mask[word == w])) == 1
        wanted = max(1, round(0.15 * len(tokens)))
        longest = max(Counter(word.tolist()).values())
        assert wanted <= mask.sum() < wanted + longest


def test_random_span_lengths_are_geometric_and_clipped():
    class Recorded:
        """Asks for spans of three words, then of a hundred; starts them where the test says."""

        lengths, starts = iter([3, 100, 100]), iter([0, 50, 140])

        def geometric(self, probability):
            assert probability == 0.2
            return next(self.lengths)

        def choice(self, free):
            start = next(self.starts)
            assert start in free
            return start

    mask = masking.random_span(np.full(150, 5), NO_SPANS, VOCABULARY, Recorded())
    assert np.flatnonzero(mask).tolist() == [0, 1, 2, *range(50, 60), *range(140, 150)][:22]


def test_random_uniform_masks_the_asked_share():
    hits = np.zeros(40)
    for seed in range(2000):
        mask = masking.random_uniform(
            np.arange(40), NO_SPANS, VOCABULARY, np.random.default_rng(seed)
        )
        assert mask.sum() == 6
        hits += mask
    assert hits.min() > 0.7 * hits.mean() and hits.max() < 1.3 * hits.mean()
    for tokens in sentences():
        mask = masking.random_uniform(tokens, NO_SPANS, VOCABULARY, np.random.default_rng(0))
        assert mask.sum() == max(1, round(0.15 * len(tokens)))


@pytest.mark.parametrize("mask", MASKS)
def test_an_empty_sentence_has_nothing_to_mask(mask):
    tokens = np.zeros(0, int)
    assert mask(tokens, NO_SPANS, VOCABULARY, np.random.default_rng(0)).shape == (0,)

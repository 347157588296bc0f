"""What the retriever sees of a cloze, while the reader sees its masks."""

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.examples import cloze_batches, masking, views

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


def asked(tiny, view, count=64):
    corpus = tiny.corpus
    rows = np.flatnonzero(cloze_batches.with_span(corpus, LENGTHS.query))[:count]
    given = (corpus, rows, np.arange(len(rows)), masking.salient_span, LENGTHS, 3)
    return cloze_batches.clozes(*given, view) if view else cloze_batches.clozes(*given)


def pieces(row):
    return row[row != 0][1:-1].tolist()


def test_the_masked_view_is_what_it_was(tiny):
    plain, same = asked(tiny, None), asked(tiny, views.masked)
    np.testing.assert_array_equal(plain.query.tokens, same.query.tokens)
    np.testing.assert_array_equal(plain.query.tokens, plain.masked.tokens)


def test_the_reader_sees_its_masks_whatever_the_view(tiny):
    plain = asked(tiny, None)
    for view in (views.dropped, views.Mixed(windows=1.0, shortest=3, longest=6)):
        found = asked(tiny, view)
        np.testing.assert_array_equal(found.masked.tokens, plain.masked.tokens)
        np.testing.assert_array_equal(found.positions, plain.positions)
        # At the masked positions of what the reader sees.
        at = np.take_along_axis(found.masked.tokens, found.positions, axis=1)
        assert (at[found.weights > 0] == tiny.corpus.vocabulary.mask).all()
        assert not (found.query.tokens == tiny.corpus.vocabulary.mask).any()
        null = np.full((len(at), 1), -1)
        joint = cloze_batches.with_candidates(tiny.corpus, found, null, LENGTHS).joint.tokens[:, 0]
        front = np.where(plain.masked.tokens > 0, joint[:, : LENGTHS.query], 0)
        np.testing.assert_array_equal(front, plain.masked.tokens)


def test_dropping_leaves_the_words_around(tiny):
    plain, found = asked(tiny, None), asked(tiny, views.dropped)
    mask = tiny.corpus.vocabulary.mask
    for seen, read in zip(found.query.tokens, plain.query.tokens, strict=True):
        assert pieces(seen) == [piece for piece in pieces(read) if piece != mask]


def test_what_is_all_hidden_is_seen_masked(tiny):
    v = tiny.corpus.vocabulary
    hidden = np.ones(3, bool)
    assert (
        views.dropped(np.arange(7, 10), hidden, v, np.random.default_rng(0)).tolist()
        == [v.mask] * 3
    )


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_a_window_lies_around_the_span(tiny, kept):
    v, rng = tiny.corpus.vocabulary, np.random.default_rng(0)
    starts = np.flatnonzero(~v.continuation)[8:]
    tokens = rng.choice(starts, 40, replace=False)
    hidden = np.zeros(40, bool)
    hidden[17:19] = True
    view = views.Mixed(windows=1.0, kept=kept, shortest=5, longest=9)
    around = tokens[~hidden | bool(kept)].tolist()
    sizes = set()
    for _ in range(200):
        seen = view(tokens, hidden, v, rng).tolist()
        at = around.index(seen[0])
        # What was dropped has left no gap; the span, or where it stood, is within.
        assert seen == around[at : at + len(seen)] and at <= 17 <= at + len(seen)
        assert (set(tokens[17:19].tolist()) <= set(seen)) == bool(kept)
        sizes.add(len(seen) + 2 * (not kept))
    assert sizes == set(range(5, 10))


def test_a_window_is_of_whole_words(tiny):
    v, rng = tiny.corpus.vocabulary, np.random.default_rng(0)
    start, more = np.flatnonzero(~v.continuation)[8], np.flatnonzero(v.continuation)[0]
    tokens = np.array([start, more, more] * 8)
    hidden = np.zeros(24, bool)
    hidden[9:12] = True
    view = views.Mixed(windows=1.0, kept=1.0, shortest=4, longest=8)
    for _ in range(50):
        seen = view(tokens, hidden, v, rng)
        assert seen[0] == start and len(seen) % 3 == 0 and len(seen) <= 8


def test_some_views_are_sentences_and_some_are_windows(tiny):
    v, rng = tiny.corpus.vocabulary, np.random.default_rng(0)
    tokens, hidden = np.flatnonzero(~v.continuation)[8:48], np.arange(40) == 20
    view = views.Mixed(windows=0.5, kept=0.5, shortest=5, longest=9)
    seen = [view(tokens, hidden, v, rng) for _ in range(400)]
    sentences = [s for s in seen if len(s) == 39]
    kept = [s for s in seen if tokens[20] in s]
    assert 150 < len(sentences) < 250 and 60 < len(kept) < 140


def test_a_window_from_long_to_short_is_refused():
    with pytest.raises(UserError, match="`shortest` is above"):
        views.Mixed(shortest=9, longest=8)

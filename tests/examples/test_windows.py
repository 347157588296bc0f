"""Windows of passages: whole words, of the asked length, pure in (seed, position); and their negatives."""

import dataclasses

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.examples import windows
from ralm_jax.losses import marginal

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)


def drawn(corpus, rows, first=0, seed=3, shortest=4, longest=9, titles=0.0):
    positions = np.arange(first, first + len(rows))
    sizes = {"shortest": shortest, "longest": longest, "titles": titles}
    return windows.windows(corpus, np.asarray(rows), positions, LENGTHS, seed, **sizes)


def pieces(text):
    """Without [CLS], [SEP] and padding."""
    return [[t for t in row if t][1:-1] for row in text.tokens.tolist()]


def test_a_window_is_a_stretch_of_whole_words_of_its_passage(tiny):
    corpus, rows = tiny.corpus, np.arange(40)
    lengths = []
    for row, window in zip(rows, pieces(drawn(corpus, rows).query), strict=True):
        body = windows.body(corpus, row).tolist()
        starts = [i for i in range(len(body)) if body[i : i + len(window)] == window]
        assert starts, "not a stretch of the passage"
        continuing = corpus.vocabulary.continuation
        assert any(
            not continuing[body[i]]
            and (i + len(window) == len(body) or not continuing[body[i + len(window)]])
            for i in starts
        )
        lengths.append(len(window))
    assert max(lengths) <= 9 and len(set(lengths)) > 3


def titled(corpus, lengths, same):
    """The corpus, where titles are of so many wordpieces, and those of the passages `same` are alike."""
    whole, tokens = np.array(corpus.lengths), np.array(corpus.tokens)
    whole[:, 0] = lengths
    tokens[:, :2] = np.arange(2 * len(tokens)).reshape(-1, 2) + 100
    tokens[same, :2] = 99
    return dataclasses.replace(corpus, tokens=tokens, lengths=whole)


def test_titles_ask_where_they_are_of_a_passage_or_two(tiny):
    rows = np.arange(12)
    corpus = titled(tiny.corpus, 2, same=[4, 5, 8, 9, 10])
    titles = [corpus.tokens[row, :2].tolist() for row in rows]
    whole, none = (drawn(corpus, rows, titles=share) for share in (1.0, 0.0))
    for row, asked, window in zip(rows, pieces(whole.query), pieces(none.query), strict=True):
        # Three passages in a row have one title: that of a document.
        assert asked == (window if row in (8, 9, 10) else titles[row])
    np.testing.assert_array_equal(whole.passages, none.passages)
    short = titled(tiny.corpus, 1, same=[])
    assert pieces(drawn(short, rows, titles=1.0).query) == pieces(drawn(short, rows).query)


def test_as_many_titles_as_are_asked_for_drawn_by_position(tiny):
    corpus, rows = titled(tiny.corpus, 2, same=[]), np.arange(40).repeat(10)
    asked, none = pieces(drawn(corpus, rows, titles=0.3).query), pieces(drawn(corpus, rows).query)
    changed = [mine != before for mine, before in zip(asked, none, strict=True)]
    assert 0.2 < np.mean(changed) < 0.4
    part = pieces(drawn(corpus, rows[100:], first=100, titles=0.3).query)
    assert part == asked[100:]


def test_every_part_of_a_passage_is_asked(tiny):
    row = int(np.argmax(tiny.corpus.lengths[:, 1]))
    asked = {tuple(window) for window in pieces(drawn(tiny.corpus, [row] * 400).query)}
    body = windows.body(tiny.corpus, row).tolist()
    assert any(list(window) == body[: len(window)] for window in asked)
    assert any(list(window) == body[-len(window) :] for window in asked)


def test_any_step_is_drawn_by_itself(tiny):
    whole, part = drawn(tiny.corpus, np.arange(10)), drawn(tiny.corpus, np.arange(6, 10), first=6)
    np.testing.assert_array_equal(whole.query.tokens[6:], part.query.tokens)
    other = drawn(tiny.corpus, np.arange(10), seed=4)
    assert (whole.query.tokens != other.query.tokens).any()


def test_negatives_are_others_that_were_found(tiny):
    asked = drawn(tiny.corpus, [5, 6, 7])
    found = np.array([[5, 8, 9, -1], [8, 6, 9, 10], [7, -1, -1, -1]], np.int32)
    batch = windows.with_negatives(tiny.corpus, asked, found, LENGTHS.passage, negatives=2)
    assert batch.rows[:, 0].tolist() == [5, 6, 7] and batch.rows.dtype == np.int32
    assert set(batch.rows[0, 1:]) == {8, 9} and set(batch.rows[1, 1:]) < {8, 9, 10}
    # Nothing else was found: its own passage stands in, which is no negative of it.
    assert batch.rows[2].tolist() == [7, 7, 7]
    scores = np.zeros((1, 3), np.float32)
    (total, _), _ = marginal.in_batch(scores, np.array([0]), batch.rows[2, :1], batch.rows[2])
    assert total == 0
    # No wider than the longest needs, in quarters of the passage length.
    needed = np.asarray(tiny.corpus.lengths)[batch.rows].astype(int).sum(-1).max() + 3
    width = batch.passages.tokens.shape[-1]
    assert batch.passages.tokens.shape == (3, 3, width) and width % (LENGTHS.passage // 4) == 0
    assert min(needed, LENGTHS.passage) <= width < needed + LENGTHS.passage // 4
    several = {
        tuple(
            windows.with_negatives(
                tiny.corpus,
                drawn(tiny.corpus, [6], first=position),
                found[1:2],
                LENGTHS.passage,
                negatives=1,
            ).rows[0]
        )
        for position in range(30)
    }
    assert several == {(6, 8), (6, 9), (6, 10)}


def stretch(body, part):
    return any(body[k : k + len(part)] == part for k in range(len(body) - len(part) + 1))


@pytest.mark.parametrize("length", [18, 56])
def test_a_window_may_be_left_out_of_its_passage(tiny, length):
    corpus, sizes = tiny.corpus, np.asarray(tiny.corpus.lengths).astype(int)
    rows = np.flatnonzero((sizes[:, 1] >= 18) & (sizes[:, 0] < 4))[:8]
    found = np.roll(rows, 1).astype(np.int32)[:, None]
    left_out = 0
    for first in range(0, 80, 8):
        asked = drawn(corpus, rows, first=first)
        sides = {"negatives": 1, "kept": 0.5}
        batch = windows.with_negatives(corpus, asked, found, length, **sides)
        for i, row in enumerate(rows):
            start, stop = asked.spans[i]
            text = [t for t in batch.passages.tokens[i, 0].tolist() if t]
            title, whole = sizes[row, 0] + 3, windows.body(corpus, row).tolist()
            part, without = text[title - 1 : -1], whole[:start] + whole[stop:]
            # As long as there is room for, whether or not the window was left out.
            assert (stretch(whole, part) and len(text) == min(length, len(whole) + title)) or (
                stretch(without, part) and len(text) == min(length, len(without) + title)
            )
            left_out += not stretch(whole, part)
    assert 20 < left_out < 60


def test_a_part_of_a_long_passage_has_its_window(tiny):
    corpus, length = tiny.corpus, 18
    sizes = np.asarray(corpus.lengths).astype(int)
    long = np.flatnonzero((sizes.sum(1) + 3 > length) & (sizes[:, 0] < 4))[:8]
    others = np.roll(long, 1).astype(np.int32)
    begins = set()
    for position in range(0, 200, len(long)):
        asked = drawn(corpus, long, first=position)
        batch = windows.with_negatives(corpus, asked, others[:, None], length, negatives=1)
        assert batch.passages.tokens.shape == (len(long), 2, length)
        for i, window in enumerate(pieces(asked.query)):
            start, stop = asked.spans[i]
            assert windows.body(corpus, long[i])[start:stop].tolist() == window
            for j, row in enumerate(batch.rows[i]):
                title = corpus.tokens[row, : sizes[row, 0]].tolist()
                text = batch.passages.tokens[i, j].tolist()
                assert text[1 : 1 + len(title)] == title and 0 not in text
                part, whole = text[len(title) + 2 : -1], windows.body(corpus, row).tolist()
                at = [k for k in range(len(whole)) if whole[k : k + len(part)] == part]
                assert at, "a part is one stretch of the body"
                begins.update(at)
            own = batch.passages.tokens[i, 0].tolist()
            assert any(own[k : k + len(window)] == window for k in range(length))
    assert len(begins) > 5


def test_passages_held_out_are_the_same_for_every_seed_and_never_asked(tiny):
    held = windows.held_out_passages(tiny.corpus, 0.3)
    assert 0.15 < held.mean() < 0.45
    usable = windows.queries(tiny.corpus, 0.3, shortest=4)
    assert not held[usable.rows].any() and usable.left_out["held out for evaluation"] == held.sum()
    assert (np.asarray(tiny.corpus.lengths)[usable.rows, 1] > 4).all()


def test_too_little_text_is_said(tiny):
    with pytest.raises(
        UserError, match=r"has 0 passages that windows can be taken of.*give more text"
    ):
        windows.queries(tiny.corpus, 0.0, shortest=10_000)

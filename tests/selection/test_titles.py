"""Titles as questions: each among passages that are read without their own."""

import dataclasses

import numpy as np
import pytest

from ralm_jax.batches import Lengths
from ralm_jax.inference.open_run import OpenRun
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.selection import interpolation, titles

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(hidden=16, layers=1, heads=2, intermediate=16, positions=64)


@pytest.fixture
def probe(tiny, monkeypatch):
    monkeypatch.setattr(titles, "FEWEST", 5)
    return titles.probe(tiny.corpus, LENGTHS, 40)


def title_and_body(corpus, row):
    title, body = (int(n) for n in corpus.lengths[row])
    return corpus.tokens[row, :title].tolist(), corpus.tokens[row, title : title + body].tolist()


def test_a_title_finds_all_of_its_passages(tiny, probe):
    corpus = tiny.corpus
    assert len(set(probe.pool.tolist())) == len(probe.pool) == 40
    asked = [tuple(row[row != 0][1:-1].tolist()) for row in probe.query.tokens]
    assert len(set(asked)) == len(asked) >= 5
    for title, gold in zip(asked, probe.gold, strict=True):
        wanted = {r for r in probe.pool.tolist() if tuple(title_and_body(corpus, r)[0]) == title}
        assert gold == wanted and gold


def test_passages_are_read_without_their_titles(tiny, probe):
    v = tiny.corpus.vocabulary
    for row, tokens, types, pieces in zip(probe.pool, *probe.bodies, probe.pieces, strict=True):
        _, body = title_and_body(tiny.corpus, row)
        assert pieces == body
        text = [t for t in tokens.tolist() if t]
        assert text == [v.cls, v.sep, *body[: LENGTHS.passage - 3], v.sep]
        assert types.tolist() == [0, 0] + [1] * (len(text) - 2) + [0] * (len(tokens) - len(text))


def test_too_few_titles_are_no_probe(tiny):
    bare = np.asarray(tiny.corpus.lengths).copy()
    bare[:, 0] = 0
    without = dataclasses.replace(tiny.corpus, lengths=bare)
    assert titles.probe(without, LENGTHS, 40) is None


def test_titles_of_documents_are_no_probe(tiny, monkeypatch):
    monkeypatch.setattr(titles, "FEWEST", 5)
    corpus = tiny.corpus
    tokens, lengths = np.array(corpus.tokens), np.array(corpus.lengths)
    lengths[:, 0] = 2
    numbers = np.flatnonzero(~corpus.vocabulary.continuation)[8:]

    def titled(each):
        """Runs of `each` passages share a title of two wordpieces."""
        tokens[:, :2] = numbers[np.arange(corpus.size) // each][:, None]
        changed = {"tokens": tokens, "lengths": lengths}
        return titles.probe(dataclasses.replace(corpus, **changed), LENGTHS, 40)

    assert titled(titles.SHARED) is not None
    assert titled(titles.SHARED + 1) is None


def test_scores_are_of_the_pool_as_it_is_read(tiny, probe):
    model = directory.sized(Ralm(SMALL, SMALL, embedding=8), tiny.corpus.vocabulary.size)
    opened = OpenRun(model, initial.drawn_params(model, 0), LENGTHS, source=tiny.corpus)
    dense = interpolation.similarities(opened, probe)
    lexical = interpolation.lexical_scores(opened, probe)
    assert dense.shape == lexical.shape == (len(probe.gold), 40)
    # A passage is found by the words of its body alone.
    for title, scores in zip(probe.query.tokens, lexical, strict=True):
        asked = set(title[title != 0][1:-1].tolist())
        shares = [bool(asked & set(pieces)) for pieces in probe.pieces]
        np.testing.assert_array_equal(scores > 0, shares)
    ranks = interpolation.reciprocal_ranks(dense + 5 * lexical, probe)
    assert ((ranks > 0) & (ranks <= 1)).all()

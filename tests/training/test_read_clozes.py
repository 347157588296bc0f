"""A frozen reader teaches: what it has read is kept, and a run that reads in every step is the same."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax import cache, partition
from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.evaluation.cloze import holds_span
from ralm_jax.examples import cloze_batches, views
from ralm_jax.examples.recurring import Recurring
from ralm_jax.inference import likelihoods
from ralm_jax.loaders.loader import Source
from ralm_jax.losses import marginal, objectives
from ralm_jax.losses.prior import DENSE, Prior
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.runs import directory
from ralm_jax.training import optim, steps
from ralm_jax.training.read_clozes import TeachingReader, learnt_from, silent

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, dropout=0.1, init_stddev=0.3
)
TASK = TeachingReader(LENGTHS, clozes=24, candidates=4, passages=None, part=30)


@pytest.fixture(scope="module")
def model(tiny):
    given = Ralm(SMALL, SMALL, embedding=8, score_scale=2.0, copies=True)
    return directory.sized(given, tiny.corpus.vocabulary.size)


@pytest.fixture(scope="module")
def params(model):
    return jax.device_put(initial.drawn_params(model, 0))


def source(tiny, model, tmp_path, task=TASK):
    rows = task.queries(tiny.corpus, 0.2).rows
    return Source(tiny.corpus, tiny.corpus, model, rows, 3, 8, tmp_path / "index")


def batches(tiny, model, params, tmp_path, task=TASK, count=3):
    with contextlib.closing(task.loader(source(tiny, model, tmp_path, task))) as loader:
        loader.start(params)
        return [loader.batch(step) for step in range(count)]


def losses(model, params, task, given):
    """Of training with plain SGD, step by step, and the parameters that it ends with."""
    state = steps.create_state(params, optim.by_part(optim.adamw(1e-2), optim.frozen()))
    state, found = partition.replicate(jax.tree.map(jnp.copy, state)), []

    def one(state, batch, key):
        return steps.train_step(state, batch, key, loss=task.loss(model))

    step = partition.parallelize(one)
    for batch in given:
        state, metrics = step(state, partition.shard(batch), jax.random.key(0))
        found.append(float(metrics["loss"][0]) / float(metrics["loss"][1]))
    return found, state.params


@pytest.mark.slow
def test_what_is_kept_equals_what_is_read_in_every_step(tiny, model, params, tmp_path):
    kept = batches(tiny, model, params, tmp_path)
    uncached = dataclasses.replace(TASK, cached=False)
    read = batches(tiny, model, params, tmp_path, uncached)
    assert all(batch.likelihood is None for batch in read)
    for one, other in zip(kept, read, strict=True):
        assert one.likelihood.shape == (8, 4, 4) and (one.likelihood < 0).any()
        jax.tree.map(np.testing.assert_array_equal, one._replace(likelihood=None), other)
    (by_kept, ended), (by_read, same) = (
        losses(model, params, task, given) for task, given in ((TASK, kept), (uncached, read))
    )
    np.testing.assert_allclose(by_kept, by_read, rtol=1e-5)
    assert len(set(by_kept)) == 3
    # The retriever has learnt, and the reader has not.
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), ended, params)
    assert max(jax.tree.leaves(moved["retriever"])) > 1e-3
    assert max(jax.tree.leaves(moved["reader"])) == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), ended, same)


def test_nothing_is_read_twice(tiny, model, params, tmp_path, monkeypatch):
    batches(tiny, model, params, tmp_path, count=1)
    monkeypatch.setattr(likelihoods, "_read", lambda *given: pytest.fail("it was read again"))
    again = batches(tiny, model, params, tmp_path, count=1)
    assert (again[0].likelihood < 0).any()
    with pytest.raises(pytest.fail.Exception, match="read again"):
        # Another reader finds something else.
        other = {**params, "reader": jax.tree.map(lambda x: x + 0.1, params["reader"])}
        batches(tiny, model, other, tmp_path, count=1)


def test_a_damaged_file_is_read_anew(tiny, model, params, tmp_path):
    wanted = batches(tiny, model, params, tmp_path, count=1)[0].likelihood
    for file in (cache.folder() / "likelihoods").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    found = batches(tiny, model, params, tmp_path, count=1)[0].likelihood
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("learns", [True, False])
def test_a_loader_that_is_resumed_gives_the_same_batch(tiny, model, params, tmp_path, learns):
    task = dataclasses.replace(TASK, train_passages=learns)
    with contextlib.closing(task.loader(source(tiny, model, tmp_path, task))) as loader:
        loader.start(params)
        state, wanted = loader.get_state(params), loader.batch(5)
    assert (wanted.vectors is None) == learns and ("vectors" in state) != learns
    with contextlib.closing(task.loader(source(tiny, model, tmp_path, task))) as loader:
        before = loader.get_state(params)
        assert jax.tree.map(np.shape, before) == jax.tree.map(np.shape, state)
        # A checkpoint cannot hold arrays of nothing.
        assert all(np.size(each) for each in jax.tree.leaves(state))
        loader.set_state(state, 5)
        jax.tree.map(np.testing.assert_array_equal, loader.batch(5), wanted)


def test_candidates_come_from_both_searches_and_never_from_the_own_passage(
    tiny, model, params, tmp_path
):
    dense = dataclasses.replace(TASK, prior=DENSE, view=views.masked)
    (plain,) = batches(tiny, model, params, tmp_path, dense, 1)
    (mixed,) = batches(tiny, model, params, tmp_path, TASK, 1)
    assert plain.lexical is None and plain.clozes.lexical is None
    assert mixed.clozes.lexical[:, 0].max() == 0 and mixed.clozes.lexical.max() > 0.5
    # With BM25, more of them have the span.
    having = [np.asarray(holds_span(b.clozes))[:, 1:].mean() for b in (plain, mixed)]
    assert having[1] > having[0]
    for task in (dense, TASK):
        with contextlib.closing(task.loader(source(tiny, model, tmp_path, task))) as loader:
            loader.start(params)
            pool = loader.pool()
        assert (pool.rows[:, 0] == -1).all() and (pool.rows[:, 1:] >= 0).all()
        assert not (pool.rows == pool.asked.passages[:, None]).any()


def test_others_by_hand(tiny):
    corpus = tiny.corpus
    rows = np.flatnonzero(cloze_batches.with_span(corpus, 20))[[0, 40]]
    asked = cloze_batches.clozes(corpus, rows, np.arange(2), TASK.mask, LENGTHS, 0, views.dropped)
    own = [int(row) for row in asked.passages]
    spans = [t[w > 0].tolist() for t, w in zip(asked.targets, asked.weights, strict=True)]

    def has(row, span):
        tokens = corpus.tokens[row].tolist()
        return any(tokens[i : i + len(span)] == span for i in range(len(tokens)))

    having = next(r for r in range(corpus.size) if has(r, spans[0]) and r not in own)
    free = [r for r in range(corpus.size) if not any(has(r, span) for span in spans)]
    free = [r for r in free if r not in own]
    others = np.array([own[0], having, free[0], free[0], -1, free[1]])
    found = np.array([[-1, free[1]], [-1, free[2]]])
    out = silent(corpus, asked, found, others)
    # Its own; one that has its span; one that was told already; none; one of its candidates.
    assert out[0].tolist() == [False, False, True, False, False, False]
    assert out[1].tolist() == [
        not has(own[0], spans[1]), not has(having, spans[1]), True, False, False, True,
    ]  # fmt: skip


def test_the_likeliest_is_always_learnt_from():
    found = np.array([[-1, 5, 6, 7, 8], [-1, 4, 3, -2, -2], [-1, -2, -2, -2, -2]])
    likelihood = np.array([[0.0, -3, -1, -2, -4], [0, -9, -2, -1, -1], [0, 0, 0, 0, 0]])
    drawn = collections_of(found, likelihood, 2)
    assert {row[0] for row in drawn[0]} == {0} and {row[1] for row in drawn[0]} == {2}
    assert {row[2] for row in drawn[0]} == {1, 3, 4}
    # Whatever is there comes before what is not.
    assert {tuple(row) for row in drawn[1]} == {(0, 2, 1)}
    assert all((found[2, row[1:]] == -2).all() for row in drawn[2])


def collections_of(found, likelihood, count):
    """Of each query, what is drawn at 40 positions."""
    each = [learnt_from(found, likelihood, count, np.full(3, at)) for at in range(40)]
    return [[rows[i].tolist() for rows in each] for i in range(len(found))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "over_batch"),
    [
        (marginal.marginal_per_span, True),
        (marginal.marginal_per_span, False),
        (objectives.perplexity_distillation, True),
    ],
)
def test_it_teaches_which_passages_have_the_span(
    tiny, model, params, tmp_path, objective, over_batch
):
    """A reader that likes passages with the span: the retriever comes to find them likelier."""
    task = dataclasses.replace(
        TASK, objective=objective, over_batch=over_batch, prior=Prior(1.0, 1.0), view=views.dropped
    )
    given = batches(tiny, model, params, tmp_path, task, 1) * 30
    have = np.asarray(holds_span(given[0].clozes))
    told = np.where(have, -0.1, -5.0).astype(np.float32)[..., None]
    taught = [b._replace(likelihood=np.broadcast_to(told, b.likelihood.shape)) for b in given]

    def probability(params):
        scores = model.apply({"params": params}, given[0].clozes, method="scores")
        prior = np.exp(DENSE(scores, given[0].clozes.valid))
        return float((prior * have).sum(1)[have.any(1)].mean())

    _, ended = losses(model, params, task, taught)
    assert probability(ended) > probability(params) + 0.1


def test_part_of_the_candidates_are_embedded_by_part(tiny, model, params, tmp_path):
    task = dataclasses.replace(TASK, passages=2, recurring=Recurring(), part=25)
    (batch,) = batches(tiny, model, params, tmp_path, task, 1)
    assert batch.clozes.candidates.tokens.shape == (8, 3, 25)
    assert batch.others.shape == (8, 16) and batch.lexical.shape == (8, 16)
    assert batch.likelihood.shape == (8, 3, 4)
    # Each passage of another query stands for itself, unless it says something of this one.
    assert 0.5 < batch.others.mean() < 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"candidates": 1}, "the null passage is one"),
        ({"cached": False, "passages": 2}, "known only of clozes that were read"),
        ({"clozes": 0}, "TeachingReader.clozes must be a whole number from 1"),
        ({"mixed_share": 1.5}, "TeachingReader.mixed_share must be"),
    ],
)
def test_settings_that_do_not_go_together(wrong, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(TASK, **wrong)

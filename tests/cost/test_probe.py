"""A step on this machine, from small ones that are given texts as a corpus has them."""

import dataclasses

import jax
import numpy as np
import pytest

from ralm_jax import memory, partition
from ralm_jax.batches import Lengths
from ralm_jax.cost import probe, shapes
from ralm_jax.cost.probe import Probe
from ralm_jax.examples import cloze_batches, windows
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import optim
from ralm_jax.training.passage_windows import PassageWindows
from ralm_jax.training.schedule import Schedule, Stage
from ralm_jax.training.tasks import InverseCloze, Realm

LENGTHS = Lengths(query=20, passage=56, joint=64, masked=4)
SMALL = EncoderConfig(
    hidden=8, layers=1, heads=2, intermediate=16, positions=64, dropout=0.0, vocab_size=50
)
MODEL = Ralm(SMALL, SMALL, 8)
OPTIMIZER = optim.by_part(optim.adamw(1e-3), optim.adamw(1e-3))
REALM = Realm(LENGTHS, candidates=3)


def stage(task, batch):
    return Stage("one", task, Schedule(steps=10, batch=batch, optimizer=OPTIMIZER))


def test_a_step_of_many_queries_from_two_of_few():
    assert Probe((4, 8), (1.0, 1.5)).of(20) == pytest.approx(3.0)
    # A machine that was busy for the first of them: no step takes less for having more.
    assert Probe((4, 8), (1.5, 1.0)).of(20) == 1.5
    assert Probe((8,), (2.0,)).of(8) == 2.0


@pytest.mark.parametrize(
    ("task", "batch", "seconds", "rows"),  # of a device
    [
        # Groups of 8 queries: 2048 wordpieces are some ten times three texts of 64.
        (REALM, 64, 1.0, (8, 32)),
        (REALM, 64, 9.0, (8, 16)),
        (REALM, 8, 1.0, (8,)),
        (dataclasses.replace(REALM, microbatch_size=4), 8, 1.0, (4, 8)),
        (InverseCloze(LENGTHS), 64, 0.5, (2, 16)),
        (InverseCloze(LENGTHS), 1, 1.0, (1,)),
    ],
)
def test_the_second_step_is_as_large_as_its_time_allows(task, batch, seconds, rows, monkeypatch):
    monkeypatch.setattr(probe, "_timed", lambda model, stage, size, corpus: seconds)
    each = jax.device_count()
    found = probe.probe(MODEL, stage(task, batch * each))
    assert found.rows == tuple(each * size for size in rows)


@pytest.mark.parametrize("task", [REALM, InverseCloze(LENGTHS)])
def test_what_is_drawn_is_computed_in_numbers(task):
    """A type of wordpieces that there is not would be read as nan, and nan is not what training takes."""
    given = probe.drawn(shapes.batch(MODEL, stage(task, 4), 4), 1, np.random.default_rng(0))
    one = jax.tree.map(lambda x: x[0], given)
    params, key = initial.drawn_params(MODEL, 0), jax.random.key(0)
    step = jax.vmap(
        lambda key: task.loss(MODEL)(params, one, key, True)[0], axis_name=partition.AXIS
    )
    assert np.isfinite(step(key[None])).all()


def test_joint_inputs_are_as_long_as_those_of_the_corpus(tiny):
    rng = np.random.default_rng(0)
    given = probe.drawn(shapes.batch(MODEL, stage(REALM, 64), 64), 1, rng)
    assert (given.joint.tokens > 0).all()
    made = probe.as_long_as_those(given, stage(REALM, 64), tiny.corpus, rng)
    lengths = (made.joint.tokens > 0).sum(-1)
    needed = cloze_batches.needed(tiny.corpus, LENGTHS, titles=True)
    assert set(lengths.ravel().tolist()) <= set(needed.tolist()) and len(np.unique(lengths)) > 3
    assert (np.diff(made.joint.tokens > 0, axis=-1).sum(-1) <= 1).all()
    # Candidates too, of no more than a passage has.
    shorter = (made.candidates.tokens > 0).sum(-1)
    np.testing.assert_array_equal(shorter, np.minimum(lengths, LENGTHS.passage))


def test_passages_are_as_wide_as_the_longest_of_a_batch(tiny, monkeypatch):
    monkeypatch.setattr(windows, "needed", lambda corpus, rows, most: len(rows))
    one = stage(PassageWindows(LENGTHS, shortest=4, longest=9, negatives=2), 4)
    rng = np.random.default_rng(0)
    given = probe.drawn(shapes.batch(MODEL, one, 2), 1, rng)
    made = probe.as_long_as_those(given, one, tiny.corpus, rng)
    assert given.passages.tokens.shape == (1, 2, 3, 56)
    assert made.passages.tokens.shape == made.passages.types.shape == (1, 2, 3, 12)


def test_it_trains_here(tiny, monkeypatch):
    monkeypatch.setattr(probe, "TIMES", 1)
    model = dataclasses.replace(SMALL, vocab_size=tiny.corpus.vocabulary.size)
    batch = 4 * jax.device_count()
    found = probe.probe(Ralm(model, model, 8), stage(REALM, batch), tiny.corpus)
    assert found.rows == (batch,) and found.seconds[0] > 0
    assert probe.resident(MODEL, stage(REALM, 64)) > memory.private_bytes()

"""Reading questions in microbatches, and no wider than needed, changes nothing."""

import functools
import itertools

import jax
import numpy as np
import pytest

from ralm_jax import partition
from ralm_jax.batches import Lengths, QuestionBatch, Text
from ralm_jax.losses import microbatch
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.training import steps
from ralm_jax.training.tasks import Realm
from tests.training.test_steps import PLAIN, largest

B, K, L, R, S, W, E = 8, 3, 5, 6, 16, 4, 4
CALM = EncoderConfig(
    vocab_size=20, hidden=8, layers=1, heads=2, intermediate=16, positions=S,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
MODEL = OpenQA(CALM, CALM, embedding=E, span_width=W, span_hidden=8)


@pytest.fixture(scope="module")
def batch():
    """Of each kind: passages that fit 8, 12 or only 16 wordpieces, and questions with nothing to learn."""
    rng = np.random.default_rng(0)
    text = lambda *shape: Text(  # noqa: E731
        rng.integers(1, 20, shape).astype(np.int32), np.zeros(shape, np.int32)
    )
    longest = np.array([8, 8, 12, 12, 16, 16, 9, 16])[:, None]
    needed = np.minimum(longest, rng.integers(6, 17, (B, K)))
    needed[:, :1] = longest
    inside = np.arange(S) < needed[..., None]
    joint = text(B, K, S)
    joint = Text(joint.tokens * inside, joint.types)
    within = inside & (np.arange(S) > L)
    ends = np.minimum(np.arange(S)[:, None] + np.arange(W), S - 1)
    gold = (rng.random((B, K, S, W)) < 0.3) & within[..., None] & within[:, :, ends]
    gold[:, :, -W:] = False
    gold[[1, 5]] = False
    has_answer = rng.random((B, R)) < 0.4
    beam = rng.normal(size=(B, R, E)).astype(np.float32)
    return QuestionBatch(text(B, L), beam, np.ones((B, R), bool), has_answer, joint, within, gold)


@pytest.fixture(scope="module")
def params():
    return initial.drawn_params(MODEL, 0)


def once(batch, params, devices, **how):
    begun = steps.create_state(params, PLAIN)
    begun = partition.replicate(begun) if devices == jax.device_count() else begun
    split = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
    loss = functools.partial(steps.qa_loss, model=MODEL, **how)
    step = partition.parallelize(functools.partial(steps.train_step, loss=loss))
    ended, metrics = step(begun, split, jax.random.key(0))
    return jax.tree.map(np.asarray, (ended.params, metrics))


@pytest.fixture(scope="module")
def whole(batch, params):
    return once(batch, params, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "how"),
    [
        (1, {"microbatch_size": 1, "widths": (8, 12)}),
        (1, {"microbatch_size": 2, "widths": (12,)}),
        (8, {}),
    ],
    ids=["one by one", "two at a time", "eight devices"],
)
def test_however_it_is_read_it_is_the_same_step(batch, params, whole, devices, how):
    (wanted, expected), (found, said) = whole, once(batch, params, devices, **how)
    moved = [jax.tree.map(lambda a, b: a - b, after, params) for after in (wanted, found)]
    assert min(largest(moved[0][part]) for part in ("retriever", "reader")) > 0.01
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, *moved[::-1])
    assert expected["answer_in_read"][0] == B - 2 and said.keys() == expected.keys()
    for name in said:
        np.testing.assert_allclose(said[name], expected[name], rtol=1e-4, err_msg=name)


def test_where_no_answer_is_nothing_is_read(batch, params):
    """A reader that gives no numbers is not noticed then; where there is an answer, it is."""
    broken = {**params, "reader": jax.tree.map(lambda x: x * np.nan, params["reader"])}
    none = batch._replace(gold=np.zeros_like(batch.gold))
    assert np.isfinite(once(none, broken, 1, microbatch_size=1)[1]["loss"][0])
    assert np.isnan(once(batch, broken, 1, microbatch_size=1)[1]["loss"][0])


def test_widths_leave_the_least_to_read(usual_widths):
    # Of groups of one, any length as often: equal parts.
    assert microbatch.widths(np.arange(1, 241), 1, 240) == (80, 160, 240)
    assert microbatch.widths(np.full(100, 60), 5, 64) == (64,)
    first, *_, last = microbatch.widths(np.arange(1, 241), 5, 240)
    assert first > 160 and last == 240
    # All are short but one in a hundred: not a third of the groups is read as if it were that one.
    needed = np.append(np.full(99, 50), 300)
    assert microbatch.widths(needed, 3, 320) == (56, 320)
    assert microbatch.widths(np.full(100, 50), 3, 320) == (56, 320)


def test_widths_are_the_best_of_all_ways(usual_widths):
    needed = np.random.default_rng(0).integers(20, 100, 200) ** 2 // 80
    drawn = np.random.default_rng(1).choice(needed, (20_000, 3)).max(1)

    def read(widths):
        return np.array(widths)[np.searchsorted(widths, drawn)].mean()

    found = microbatch.widths(needed, 3, 128)
    ways = itertools.combinations(range(8, 128, 8), 2)
    assert len(found) == 3
    assert read(found) <= 1.01 * min(read((*way, 128)) for way in ways)


def test_joint_training_reads_at_widths_of_its_corpus(usual_widths, tiny):
    """What it retrieves or reads is seldom as long as it may be."""
    task = Realm(Lengths(query=20, passage=56, joint=96, masked=4), candidates=3)
    *narrower, last = task.loss(MODEL, tiny.corpus).keywords["widths"]
    assert last == 96 and narrower and all(0 < width < 96 for width in narrower)
    assert "widths" not in task.loss(MODEL).keywords


def test_a_gpu_reads_sorted_texts_in_parts(monkeypatch, tiny):
    task = Realm(Lengths(query=20, passage=56, joint=96, masked=4), candidates=3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = task.loss(MODEL, tiny.corpus).keywords
    assert "widths" not in found and found["part_widths"] == tuple(sorted(found["part_widths"]))
    assert len(found["part_widths"]) == microbatch.PARTS and found["part_widths"][0] < 96
    # Parts take more of a TPU's memory.
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not {"widths", "part_widths"} & set(task.loss(MODEL, tiny.corpus).keywords)


def test_widths_of_parts_leave_the_least_to_read():
    assert microbatch.part_widths(np.full(100, 50), 64, 320) == (56,) * 4
    assert microbatch.part_widths(np.full(100, 320), 64, 320) == ()
    # Fewer texts than parts are not worth sorting.
    assert microbatch.part_widths(np.full(100, 50), 3, 320) == ()
    # Any length as often: the parts are quarters of it, and a little to spare.
    first, second, third, last = microbatch.part_widths(np.arange(1, 321), 448, 320)
    assert 80 < first <= 104 and 160 < second <= 184 and 240 < third <= 264 and last == 320

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ralm_jax import partition
from ralm_jax.batches import ClozeBatch, QueryPassages, Text
from ralm_jax.losses import marginal
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import optim, steps

CALM = EncoderConfig(
    vocab_size=20, hidden=8, layers=1, heads=2, intermediate=16, positions=16,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
MODEL = Ralm(CALM, CALM, embedding=4, score_scale=0.5)
B, K, L, P, S, M = 16, 3, 5, 6, 8, 3
PLAIN = optax.sgd(0.1)  # neither Adam nor a clip would notice gradients N times too large
TOKEN = functools.partial(steps.realm_loss, objective=marginal.marginal_per_token)
FROZEN = functools.partial(steps.realm_loss, freeze_retriever=True)


def text(rng, *shape):
    tokens = rng.integers(1, 20, shape).astype(np.int32)
    return Text(tokens, (tokens > 10).astype(np.int32))


@pytest.fixture(scope="module")
def clozes():
    """From no masked token to three in a query, and so of uneven number on the devices."""
    rng = np.random.default_rng(0)
    weights = np.arange(M)[None, :] < np.repeat([0, 3, 1, 1, 3, 2, 0, 1], 2)[:, None]
    return ClozeBatch(
        query=text(rng, B, L),
        candidates=text(rng, B, K, P),
        joint=text(rng, B, K, S),
        valid=np.arange(K)[None, :] < rng.integers(1, K + 1, B)[:, None],
        positions=rng.integers(0, L, (B, M)).astype(np.int32),
        targets=rng.integers(1, 20, (B, M)).astype(np.int32),
        weights=weights.astype(np.float32),
    )


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(1)
    return QueryPassages(text(rng, B, L), text(rng, B, 1, P), np.arange(B, dtype=np.int32)[:, None])


@pytest.fixture(scope="module")
def params(drawn, clozes):
    return drawn(MODEL, clozes)["params"]


class Steps:
    """Runs steps from `params`, and counts how often each has been traced."""

    def __init__(self, params):
        self.params, self.traces, self._compiled = params, collections.Counter(), {}

    def start(self, devices=8):
        begun = steps.create_state(self.params, PLAIN)
        return partition.replicate(begun) if devices == jax.device_count() else begun

    def __call__(self, loss, begun, batch, devices=8, model=MODEL):
        """-> state and metrics; the batch, given without a device axis, is split."""
        if (loss, model) not in self._compiled:

            def counted(*inputs):
                self.traces[loss] += 1
                whole = functools.partial(loss, model=model)
                return steps.train_step(*inputs, loss=whole)

            self._compiled[loss, model] = partition.parallelize(counted)
        split = lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:])  # noqa: E731
        return self._compiled[loss, model](begun, jax.tree.map(split, batch), jax.random.key(0))


@pytest.fixture(scope="module")
def train(params):
    return Steps(params)


def once(train, step, batch, devices=8):
    """Parameters and metrics after one step, as numpy."""
    ended, metrics = train(step, train.start(devices), batch, devices)
    return jax.tree.map(np.asarray, (ended.params, metrics))


def first_passages(pairs):
    """Of each query its own, [B,P]."""
    return jax.tree.map(lambda x: x[:, 0], pairs.passages)


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


def change(after, before):
    return jax.tree.map(lambda a, b: np.asarray(a) - b, after, before)


@pytest.mark.parametrize("step", [TOKEN, steps.contrast_loss], ids=["realm", "ict"])
def test_eight_devices_are_one(train, clozes, pairs, params, step):
    batch = pairs if step is steps.contrast_loss else clozes
    (many, seen), (one, wanted) = (once(train, step, batch, n) for n in (8, 1))
    moved, by_one = change(many, params), change(one, params)
    assert largest(by_one["retriever"]) > 0.01
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, moved, by_one)
    assert seen.keys() == wanted.keys()
    for name in seen:
        np.testing.assert_allclose(seen[name], wanted[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{"microbatch_size": 1}, {"microbatch_size": 5, "freeze_retriever": True}]
)
def test_few_at_a_time_are_the_same_step(train, clozes, params, how):
    """On one device: of 16 queries one, and four, at a time."""
    whole = functools.partial(steps.realm_loss, **{**how, "microbatch_size": None})
    (wanted, expected), (found, said) = (
        once(train, step, clozes, 1) for step in (whole, functools.partial(steps.realm_loss, **how))
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, change(found, params), change(wanted, params))
    assert largest(change(wanted["reader"], params["reader"])) > 0.01
    for name in expected:
        np.testing.assert_allclose(said[name], expected[name], rtol=1e-4, err_msg=name)


def test_the_loss_is_the_mean_over_all_masked_tokens(train, clozes, params):
    _, metrics = once(train, TOKEN, clozes)
    scores, likelihood = jax.jit(MODEL.apply)({"params": params}, clozes)
    prior = marginal.log_prior(scores, clozes.valid)
    wanted = marginal.marginal_per_token(prior, likelihood, clozes.weights)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    assert metrics["loss"][1] == clozes.weights.sum() != B


def test_inverse_cloze_has_the_passages_of_all_devices_as_negatives(train, pairs, params):
    _, metrics = once(train, steps.contrast_loss, pairs)
    queries, passages = (
        np.asarray(MODEL.apply({"params": params}, text, method=tower))
        for text, tower in ((pairs.query, "queries"), (first_passages(pairs), "passages"))
    )
    scores = MODEL.score_scale * queries @ passages.T
    total = (np.log(np.exp(scores).sum(1)) - scores.diagonal()).sum()
    np.testing.assert_allclose(metrics["loss"], (total, B), rtol=1e-4)
    right = (scores.argmax(1) == np.arange(B)).sum()
    np.testing.assert_array_equal(metrics["in_batch_accuracy"], (right, B))


def test_inverse_cloze_leaves_out_the_passage_of_the_query_on_every_device(train, pairs):
    """Sentences of one passage stand on devices far apart: alone in the batch they have nothing to tell."""
    _, alone = once(train, steps.contrast_loss, pairs._replace(rows=np.full((B, 1), 3, np.int32)))
    np.testing.assert_allclose(alone["loss"], (0, B), atol=1e-5)
    _, apart = once(train, steps.contrast_loss, pairs)
    two = pairs.rows.copy()
    two[B - 1] = two[0]
    _, some = once(train, steps.contrast_loss, pairs._replace(rows=two))
    assert 0 < some["loss"][0] < apart["loss"][0] - 1e-3


def test_a_frozen_retriever_does_not_move_at_all(train, clozes, params):
    after, metrics = once(train, FROZEN, clozes)
    assert largest(change(after["retriever"], params["retriever"])) == 0
    assert largest(change(after["reader"], params["reader"])) > 0.01
    assert metrics["grad_norm_retriever"][0] == 0
    # Neither by weight decay, which needs no gradient.
    both = optim.by_part(optim.frozen(), optim.adamw(0.1, weight_decay=0.5))
    begun = steps.create_state(params, both)
    ended = jax.jit(lambda s: s.apply_gradients(grads=s.params))(begun)
    assert largest(change(ended.params["retriever"], params["retriever"])) == 0
    assert largest(change(ended.params["reader"], params["reader"])) > 0.01


def test_a_frozen_encoder_lets_the_head_alone_learn(train, clozes, params):
    """As the whole reader's head does, whose gradient is the same."""
    frozen = functools.partial(steps.realm_loss, freeze_encoder=True)
    (after, _), (free, _) = once(train, frozen, clozes), once(train, TOKEN, clozes)
    moved = change(after["reader"], params["reader"])
    assert largest(moved.pop("encoder")) == 0 and largest(moved) > 0.01
    for part in ("head", "head_norm", "head_bias"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            after["reader"][part],
            free["reader"][part],
        )


def test_the_second_call_does_not_compile_again(train, clozes):
    now, _ = train(TOKEN, train.start(), clozes)
    traced = train.traces[TOKEN]
    for _ in range(2):
        now, _ = train(TOKEN, now, clozes)
    assert int(now.step) == 3 and train.traces[TOKEN] == traced


def wild(part):
    return MODEL.clone(**{f"{part}_config": dataclasses.replace(CALM, dropout=0.5)})


@pytest.mark.slow
def test_dropout_of_inverse_cloze_differs_by_device(train, pairs):
    """Were eight copies of a pair embedded alike, every passage would be as likely as the others."""
    same = jax.tree.map(lambda x: np.repeat(x[:1], 8, 0), pairs)._replace(rows=pairs.rows[:8])
    (_, calm), (_, shaken) = (
        train(steps.contrast_loss, train.start(), same, model=model)
        for model in (MODEL, wild("retriever"))
    )
    np.testing.assert_allclose(calm["loss"][0], 8 * np.log(8), rtol=1e-5)
    assert abs(shaken["loss"][0] - 8 * np.log(8)) > 0.1


@pytest.mark.slow
def test_dropout_of_realm_differs_by_device_and_by_step(train, clozes):
    def sees_others(log_prior, log_likelihood, weights):
        """How far the likelihoods of the devices are apart, and what they sum to."""
        everyones = partition.all_gather(log_likelihood)
        return jnp.abs(log_likelihood - everyones[:1]).sum(), everyones.sum()

    step = functools.partial(steps.realm_loss, objective=sees_others)
    same = jax.tree.map(lambda x: np.repeat(x[2:3], 8, 0), clozes)
    still = train.start().replace(tx=optax.set_to_zero())
    now, first = train(step, still, same, model=wild("reader"))
    _, second = train(step, now, same, model=wild("reader"))
    assert first["loss"][0] > 1
    assert abs(first["loss"][1] - second["loss"][1]) > 1
    _, calm = train(step, train.start(), same)
    assert calm["loss"][0] == 0


# One step from parameters drawn by numpy, without any randomness of JAX.
GOLDEN = {
    "realm": {
        "loss": 3.986762,
        "null_loss": 4.034771,
        "retrieval_utility": 0.048010,
        "prior_entropy": 0.295334,
        "p_null": 0.779884,
        "grad_norm_reader": 2.510232,
        "grad_norm_retriever": 0.581243,
        "reader": 5.214703,
        "retriever": 0.871843,
    },
    "ict": {
        "loss": 3.217041,
        "in_batch_accuracy": 0.0,
        "grad_norm_reader": 0.0,
        "grad_norm_retriever": 3.621331,
        "reader": 0.0,
        "retriever": 7.256591,
    },
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_step_is_as_it_was(train, clozes, pairs, params, name):
    batch, step = (pairs, steps.contrast_loss) if name == "ict" else (clozes, TOKEN)
    after, metrics = once(train, step, batch)
    found = {key: float(total / count) for key, (total, count) in metrics.items()}
    moved = change(after, params)
    for part in moved:
        found[part] = float(sum(np.abs(x).sum() for x in jax.tree.leaves(moved[part])))
    assert found == pytest.approx(GOLDEN[name], rel=1e-3, abs=1e-5), (
        "the step computes something else than it did; if that is what the change is for, say so "
        f"in CHANGELOG.md and put this in GOLDEN: {found}"
    )

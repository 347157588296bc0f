import collections
import dataclasses
import functools

import compiling
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
TOKEN = steps.realm_loss
FROZEN = functools.partial(steps.realm_loss, freeze_retriever=True)


def text(rng, *shape):
    tokens = rng.integers(1, 20, shape).astype(np.int32)
    return Text(tokens, (tokens > 10).astype(np.int32))


@pytest.fixture(scope="module")
def clozes():
    """From no masked token to three in a query, and so of uneven number on the devices."""
    rng = np.random.default_rng(0)
    weights = np.arange(M)[None, :] < np.repeat([0, 3, 1, 1, 3, 2, 0, 1], 2)[:, None]
    query, candidates, joint = text(rng, B, L), text(rng, B, K, P), text(rng, B, K, S)
    for texts, length in ((candidates, 3), (joint, L + 1)):
        for each in texts:
            each[:, 0, length:] = 0  # the null passage
    return ClozeBatch(
        query=query,
        candidates=candidates,
        joint=joint,
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
        name = compiling.same(loss), model
        if name not in self._compiled:

            def counted(*inputs):
                self.traces[loss] += 1
                whole = functools.partial(loss, model=model)
                return steps.train_step(*inputs, loss=whole)

            self._compiled[name] = partition.parallelize(counted)
        split = lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:])  # noqa: E731
        return self._compiled[name](begun, jax.tree.map(split, batch), jax.random.key(0))


@pytest.fixture(scope="module")
def train(params):
    return Steps(params)


def once(train, step, batch, devices=8):
    """Parameters and metrics after one step, as numpy."""
    ended, metrics = train(step, train.start(devices), batch, devices)
    return jax.tree.map(np.asarray, (ended.params, metrics))


def embedded(params, texts):
    """[n,P] -> [n,E], by the one tower there is."""
    call = jax.jit(functools.partial(MODEL.apply, method="passages"))
    return np.array(call({"params": params}, texts))


def first_passages(pairs):
    """Of each query its own, [B,P]."""
    return jax.tree.map(lambda x: x[:, 0], pairs.passages)


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


def change(after, before):
    return jax.tree.map(lambda a, b: np.asarray(a) - b, after, before)


@pytest.mark.slow
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
def test_a_frozen_retriever_needs_no_more_than_vectors(train, clozes, params):
    flat = jax.tree.map(lambda x: x.reshape(B * K, P), clozes.candidates)
    vectors = embedded(params, flat).reshape(B, K, -1)
    vectors[:, 0] = 99  # the null passage has none in an index
    known = clozes._replace(vectors=vectors)
    (wanted, expected), (found, said) = (once(train, FROZEN, batch) for batch in (clozes, known))
    assert largest(change(found["retriever"], params["retriever"])) == 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found["reader"], wanted["reader"])
    for name in expected:
        close(said[name], expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"microbatch_size": 5, "freeze_retriever": True},
        {"microbatch_size": 1, "widths": (6, 7)},
        {"microbatch_size": None, "widths": (7, 8)},
        {"microbatch_size": 8, "part_widths": (6, 7, 8, 8)},
        {"microbatch_size": None, "part_widths": (6, 7, 8, 8), "freeze_retriever": True},
    ],
)
def test_few_at_a_time_are_the_same_step(train, clozes, params, how):
    """On one device: of 16 queries one, and four, at a time; as wide as the longest of them is."""
    clozes = jax.tree.map(np.copy, clozes)
    shorter = np.arange(B) % 3  # queries whose texts leave the last columns out
    for texts in (clozes.candidates, clozes.joint):
        for each in texts:
            each[shorter == 1, :, 6:] = each[shorter == 2, :, 7:] = 0
    whole = FROZEN if "freeze_retriever" in how else TOKEN
    (wanted, expected), (found, said) = (
        once(train, step, clozes, 1) for step in (whole, functools.partial(steps.realm_loss, **how))
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, change(found, params), change(wanted, params))
    assert largest(change(wanted["reader"], params["reader"])) > 0.01
    for name in expected:
        np.testing.assert_allclose(said[name], expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_all_masked_tokens(train, clozes, params):
    _, metrics = once(train, TOKEN, clozes)
    scores, likelihood = jax.jit(MODEL.apply)({"params": params}, clozes)
    prior = marginal.log_prior(scores, clozes.valid)
    wanted = marginal.marginal_per_token(prior, likelihood, clozes.weights)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
    assert metrics["loss"][1] == clozes.weights.sum() != B


@pytest.mark.slow
def test_inverse_cloze_has_the_passages_of_all_devices_as_negatives(train, pairs, params):
    _, metrics = once(train, steps.contrast_loss, pairs)
    queries, passages = (embedded(params, x) for x in (pairs.query, first_passages(pairs)))
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    # With the same parameters, batch and masks it would be the same number.
    assert abs(first["loss"][1] - second["loss"][1]) > 0.1
    _, calm = train(step, train.start(), same)
    assert calm["loss"][0] == 0


# One step from parameters drawn by numpy, without any randomness of JAX.
GOLDEN = {
    "realm": {
        "loss": 3.948570,
        "null_loss": 4.000542,
        "retrieval_utility": 0.051971,
        "prior_entropy": 0.270868,
        "p_null": 0.738082,
        "grad_norm_reader": 2.904247,
        "grad_norm_retriever": 0.483999,
        "reader": 5.653088,
        "retriever": 0.751838,
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


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 1], ids=["all", "microbatches"])
def test_vectors_are_written_back_as_they_were_made(train, clozes, params, size):
    """Of the candidates of all devices, in order, by the parameters before the step; and it is that step."""
    rows = np.arange(B * K, dtype=np.int32).reshape(B, K)
    step = functools.partial(steps.realm_loss, microbatch_size=size) if size else TOKEN
    after, metrics = once(train, step, clozes._replace(rows=rows))
    found, vectors = metrics.pop(steps.WRITTEN)
    assert found.tolist() == rows[:, 1:].tolist()
    texts = jax.tree.map(lambda x: x[:, 1:].reshape(-1, P), clozes.candidates)
    wanted = embedded(params, texts)
    np.testing.assert_allclose(vectors.reshape(-1, 4), wanted, rtol=1e-5, atol=1e-6)
    plain, said = once(train, step, clozes)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), metrics, said)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), after, plain)

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.initial import initial_params
from ralm_jax.models.ralm import Ralm

SMALL = EncoderConfig(vocab_size=20, hidden=8, layers=1, heads=2, intermediate=16, positions=16)
MODEL = Ralm(SMALL, SMALL, embedding=4)
B, K, L, P, S, M = 2, 3, 5, 6, 8, 2


@pytest.fixture(scope="module")
def params(drawn, batch):
    return drawn(MODEL, batch)["params"]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)

    def text(*shape):
        tokens = rng.integers(1, 20, shape).astype(np.int32)
        tokens[..., -2:] *= rng.integers(2, size=(*shape[:-1], 1))  # some rows are padded
        return Text(tokens, (tokens > 10).astype(np.int32))

    query, candidates, joint = text(B, L), text(B, K, P), text(B, K, S)
    for texts, length in ((candidates, 3), (joint, L + 1)):
        for each in texts:
            each[:, 0, length:] = 0  # the null passage
    return ClozeBatch(
        query=query,
        candidates=candidates,
        joint=joint,
        valid=np.ones((B, K), bool),
        positions=np.array([[1, 3], [2, 0]], np.int32),
        targets=rng.integers(1, 20, (B, M)).astype(np.int32),
        weights=np.array([[1, 1], [1, 0]], np.float32),
    )


def test_parameters_are_those_of_retriever_and_reader(params):
    begun = jax.eval_shape(lambda key: initial_params(MODEL, key), jax.random.key(0))
    assert jax.tree.map(np.shape, begun) == jax.tree.map(np.shape, params)
    assert set(begun) == {"retriever", "reader"}
    assert set(begun["retriever"]) == {"passage_tower"}
    apart = jax.eval_shape(
        lambda key: initial_params(MODEL.clone(share_towers=False), key), jax.random.key(0)
    )
    assert set(apart["retriever"]) == {"passage_tower", "query_tower"}


@functools.partial(jax.jit, static_argnames=("method", "model"))
def call(params, *inputs, method=None, model=MODEL):
    return model.apply({"params": params}, *inputs, method=method)


def reader_alone(module, *inputs):
    return module.reader(*inputs)


def test_scores_and_likelihoods_by_hand(params, batch):
    """Every candidate by itself: what the others are is of no account to it."""
    scores, likelihood = call(params, batch)
    queries = call(params, batch.query, method="queries")
    for k in range(K):
        candidate, joint = (
            Text(text.tokens[:, k], text.types[:, k]) for text in (batch.candidates, batch.joint)
        )
        passages = call(params, candidate, method="passages")
        np.testing.assert_allclose(scores[:, k], (queries * passages).sum(1), atol=1e-5)
        logits = call(params, *joint, batch.positions, method=reader_alone)
        chances = np.asarray(jax.nn.softmax(logits))  # [B,M,V]
        wanted = [[chances[b, m, batch.targets[b, m]] for m in range(M)] for b in range(B)]
        np.testing.assert_allclose(np.exp(likelihood[:, k]), wanted, rtol=1e-4)


def test_the_scale_multiplies_the_scores_only(params, batch):
    plain = call(params, batch)
    scaled = call(params, batch, model=MODEL.clone(score_scale=0.25))
    np.testing.assert_allclose(scaled[0], 0.25 * plain[0], rtol=1e-5)
    np.testing.assert_allclose(scaled[1], plain[1], rtol=1e-5)


@pytest.mark.slow
def test_scores_reach_the_retriever_and_likelihoods_the_reader(params, batch):
    sums = lambda params: [x.sum() for x in MODEL.apply({"params": params}, batch)]  # noqa: E731
    by_scores, by_likelihoods = jax.jit(jax.jacrev(sums))(params)
    for moved, part, other in (
        (by_scores, "retriever", "reader"),
        (by_likelihoods, "reader", "retriever"),
    ):
        largest = {name: max(abs(x).max() for x in jax.tree.leaves(moved[name])) for name in moved}
        assert largest[part] > 0 and largest[other] == 0


def test_the_halves_may_differ_in_size(batch):
    big = dataclasses.replace(SMALL, hidden=12, layers=2, heads=3)
    shapes = jax.eval_shape(lambda k: initial_params(Ralm(SMALL, big), k), jax.random.key(0))
    last = shapes["reader"]["encoder"]["last_layer"]
    assert last["output"]["kernel"].shape == (16, 12)

"""The reader that copies: against enumeration, without an infinity, and from the identity on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.models import initial, pointer
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.ralm import Ralm
from ralm_jax.training import initialize

B, M, S, V = 2, 3, 7, 11
CALM = EncoderConfig(
    vocab_size=V, hidden=8, layers=2, heads=2, intermediate=16, positions=16, dropout=0.0,
    attention_dropout=0.0, init_stddev=0.5,
)  # fmt: skip


def given(seed=0):
    rng = np.random.default_rng(seed)
    attention = rng.normal(size=(B, M, S)).astype(np.float32)
    gate = rng.normal(size=(B, M)).astype(np.float32)
    inside = np.array([[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0]], bool)
    # A piece that stands twice, and pieces outside that must not count.
    tokens = np.array([[5, 6, 7, 8, 7, 9, 3], [4, 2, 2, 3, 0, 0, 0]], np.int32)
    return attention, gate, inside, tokens, rng.normal(size=(B, M, V)).astype(np.float32)


def enumerated(attention, gate, inside, tokens, logits):
    """Every probability by itself, as the papers write it."""
    out = np.zeros((B, M, V))
    for b in range(B):
        for m in range(M):
            places = [s for s in range(S) if inside[b, s]]
            weights = np.exp([*(attention[b, m, s] for s in places), gate[b, m]])
            weights /= weights.sum()
            vocabulary = np.exp(logits[b, m]) / np.exp(logits[b, m]).sum()
            out[b, m] = weights[-1] * vocabulary
            for s, weight in zip(places, weights, strict=False):
                out[b, m, tokens[b, s]] += weight
    return out


def test_it_is_the_mixture_by_enumeration():
    found = np.asarray(pointer.mixed(*given()))
    np.testing.assert_allclose(np.exp(found), enumerated(*given()), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)


def test_nothing_to_copy_leaves_the_vocabulary_alone():
    attention, gate, inside, tokens, logits = given()
    found = pointer.mixed(attention, gate, np.zeros_like(inside), tokens, logits)
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_there_is_no_infinity_in_values_or_gradients(gate, scale):
    attention, _, inside, tokens, logits = given()

    def total(attention, gate, logits):
        return pointer.mixed(attention, gate, inside, tokens, logits)[..., 7].sum()

    inputs = scale * attention, np.full((B, M), gate, np.float32), scale * logits
    value, grads = jax.value_and_grad(total, argnums=(0, 1, 2))(*inputs)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


def test_the_gradient_is_that_of_the_closed_form():
    """d log p(v) / d attention of a place = its share of p(v) less its weight."""
    attention, gate, inside, tokens, logits = given()
    piece = 7
    grad = jax.grad(lambda a: pointer.mixed(a, gate, inside, tokens, logits)[0, 0, piece])(
        attention
    )
    weights = np.exp(np.where(inside[0], attention[0, 0], -np.inf))
    weights /= weights.sum() + np.exp(gate[0, 0])
    p = enumerated(attention, gate, inside, tokens, logits)[0, 0, piece]
    wanted = np.where(tokens[0] == piece, weights / p, 0.0) - weights
    np.testing.assert_allclose(grad[0, 0], wanted, rtol=1e-4, atol=1e-6)
    assert not np.asarray(grad[1]).any()


def batch():
    """A query of 4 pieces whose second is masked, beside null, a passage with the piece, and one without."""
    front = [2, 4, 6, 3]
    rows = [[*front, 3], [*front, 9, 7, 8, 3], [*front, 9, 10, 8, 3]]
    tokens = np.zeros((1, 3, 8), np.int32)
    for k, row in enumerate(rows):
        tokens[0, k, : len(row)] = row
    types = ((np.arange(8) >= 4) & (tokens != 0)).astype(np.int32)
    text = Text(tokens, types)
    return ClozeBatch(
        Text(tokens[:, 0, :4], types[:, 0, :4]), text, text, np.ones((1, 3), bool),
        np.array([[1]], np.int32), np.array([[7]], np.int32), np.ones((1, 1), np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return Ralm(CALM, CALM, embedding=4, copies=True)


@pytest.fixture(scope="module")
def params(model):
    return initial.drawn_params(model, seed=0)


def likelihoods(model, params):
    """log p(y_m | z_k, x) [B,K,M]."""
    _, found = jax.jit(model.apply)({"params": params}, batch())
    return np.asarray(found)


@pytest.mark.slow
def test_a_passage_that_holds_the_piece_is_likelier_from_the_first_step(model, params):
    null, holds, lacks = likelihoods(model, params)[0, :, 0]
    # Half of the probability is the vocabulary's, so a passage that lacks the piece loses as much.
    assert holds > lacks and lacks < null
    assert np.exp(holds) > 0.1


@pytest.mark.slow
def test_the_null_passage_has_the_vocabulary_alone(model, params):
    plain = Ralm(CALM, CALM, embedding=4)
    reader = {name: part for name, part in params["reader"].items() if name != "pointer"}
    wanted = likelihoods(plain, {**params, "reader": reader})
    found = likelihoods(model, params)
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-4)
    assert (np.abs(found[:, 1:] - wanted[:, 1:]) > 0.01).all()


def test_the_pointer_begins_as_the_identity_however_it_is_drawn(model, params):
    drawn = jax.tree.map(np.asarray, initial.initial_params(model, jax.random.key(0)))
    for reader in (params["reader"], drawn["reader"]):
        for part in ("query", "key"):
            np.testing.assert_array_equal(reader["pointer"][part]["kernel"], np.eye(8))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(reader["pointer"]["gate"]))


@pytest.mark.slow
def test_a_reader_learns_to_copy_and_keeps_the_rest():
    plain = Ralm(CALM, CALM, embedding=4)
    begun = initial.drawn_params(plain, seed=3)
    model, params = initialize.with_pointer(plain, begun, seed=3)
    assert model.copies and initialize.with_pointer(model, params, seed=3) == (model, params)
    kept = {name: part for name, part in params["reader"].items() if name != "pointer"}
    jax.tree.map(np.testing.assert_array_equal, kept, begun["reader"])
    grads = jax.grad(lambda p: -model.apply({"params": p}, batch())[1][0, 1, 0])(params)
    moved = jax.tree.map(lambda g: float(jnp.abs(g).max()), grads["reader"]["pointer"])
    assert moved["query"]["kernel"] > 1e-4 and moved["gate"]["kernel"] > 1e-4

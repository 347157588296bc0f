"""Kin of BERT: what holds of every encoder, whatever its layers are. Parity tests hold their numbers."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.models.config import EncoderConfig, Family
from ralm_jax.models.encoder.rotary import turned
from ralm_jax.models.encoder.transformer import Encoder, bucket
from ralm_jax.models.initial import drawn_params
from ralm_jax.models.ralm import Ralm

B, S = 3, 24
SMALL = EncoderConfig(
    vocab_size=40, hidden=16, layers=4, heads=2, intermediate=24, positions=40, dropout=0.0,
    attention_dropout=0.0, local_reach=3, global_every=3, init_stddev=0.5,
)  # fmt: skip
KIN = [family for family in typing.get_args(Family) if family != "bert"]


@pytest.fixture(params=KIN)
def config(request):
    return dataclasses.replace(SMALL, family=request.param)


@pytest.fixture
def params(config):
    tokens = jnp.ones((1, 4), jnp.int32)
    init = jax.jit(Encoder(config).init)
    return init(jax.random.key(0), tokens, tokens)["params"]


def tokens(seed=0):
    """[B,S], the last two of them padded."""
    rng = np.random.default_rng(seed)
    found = rng.integers(1, 40, (B, S)).astype(np.int32)
    found[1, 9:] = found[2, 17:] = 0
    return found


def states(config, params, text, at=None, types=0):
    call = jax.jit(lambda p, *given: Encoder(config).apply({"params": p}, *given, at=at))
    return np.asarray(call(params, text, np.full_like(text, types)))


def test_positions_that_are_wanted_have_the_states_they_have_among_all(config, params):
    at = np.array([[0, 23, 7], [8, 0, 3], [16, 15, 1]], np.int32)
    whole = states(config, params, tokens())
    wanted = np.take_along_axis(whole, at[..., None], axis=1)
    np.testing.assert_allclose(states(config, params, tokens(), at), wanted, atol=1e-4)


def test_padding_is_never_seen(config, params):
    text = tokens()
    alone = states(config, params, text[1:2, :9])
    np.testing.assert_allclose(states(config, params, text)[1:2, :9], alone, atol=1e-4)


def test_the_order_of_tokens_counts(config, params):
    text = tokens()[:1]
    turned_round = text.copy()
    turned_round[0, 1:-1] = text[0, 1:-1][::-1]
    assert (
        np.abs(states(config, params, text) - states(config, params, turned_round))[0, 0].max()
        > 0.01
    )


def test_types_count_where_a_family_has_two(config, params):
    both = [states(config, params, tokens(), types=types) for types in (0, 1)]
    assert (np.abs(both[0] - both[1]).max() > 1e-3) == (config.family == "nomic_bert")


@pytest.mark.slow
def test_dropout_draws_and_remat_changes_nothing(config, params):
    dropped = dataclasses.replace(config, dropout=0.2, attention_dropout=0.2)

    def grad(config, train=False):
        def loss(p):
            text = tokens()
            rngs = {"dropout": jax.random.key(1)}
            x = Encoder(config).apply({"params": p}, text, text * 0, train, rngs=rngs)
            return (x[:, 0] ** 2).mean()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    plain, again = grad(config), grad(dataclasses.replace(config, remat="dots"))
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert all(np.isfinite(x).all() for x in grad(dropped, True))
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(plain, grad(dropped, True), strict=True))


@pytest.mark.slow
def test_what_is_near_is_all_that_a_local_layer_sees():
    """With one layer that sees all, and none, for which two tokens change nothing beyond their reach."""
    near = dataclasses.replace(SMALL, family="modernbert", layers=2, global_every=9)
    params = Encoder(near).init(jax.random.key(0), jnp.ones((1, 4), int), jnp.ones((1, 4), int))[
        "params"
    ]
    # The first layer sees all: its attention is taken out of it.
    mute = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            0 * x if path[0].key == "layers" and path[1].key == "attention_output" else x
        ),
        params,
    )
    text = tokens()[:1]
    other = text.copy()
    other[0, 12] = 1 + text[0, 12] % 39
    changed = np.abs(states(near, mute, text) - states(near, mute, other))[0].max(-1)
    assert np.flatnonzero(changed > 1e-6).tolist() == list(range(9, 16))


def test_turning_leaves_lengths_and_knows_distances_alone():
    x = jax.random.normal(jax.random.key(0), (1, 1, 2, 8))
    places = jnp.arange(30)[None]
    same = turned(jnp.broadcast_to(x, (1, 30, 2, 8)), places, jnp.array(100.0))
    norms = jnp.linalg.norm(same, axis=-1)
    np.testing.assert_allclose(norms, jnp.broadcast_to(norms[:, :1], norms.shape), rtol=1e-5)
    products = jnp.einsum("bshd,bthd->bhst", same, same)[0, 0]
    for by in (1, 5, 20):
        np.testing.assert_allclose(np.diag(products, by), products[0, by], rtol=1e-4)
    np.testing.assert_array_equal(same[:, 0], x[:, 0])


def test_kinds_of_distance():
    kinds = bucket(200)
    assert kinds.min() == 0 and kinds.max() == 31
    assert kinds[5, :10].tolist() == [5, 4, 3, 2, 1, 0, 17, 18, 19, 20]
    assert kinds[199, 0] == kinds[199, 50] == 15 and kinds[0, 199] == 31


def test_the_record_of_berts_own_says_nothing_of_its_kin():
    """A run made before there was any other must resume, and its vectors be found."""
    assert not {"family", "rotary_base", "local_reach"} & EncoderConfig().record().keys()
    record = dataclasses.replace(SMALL, family="modernbert").record()
    assert record["family"] == "modernbert" and record["local_reach"] == 3


def test_cudnn_attends_where_it_can():
    half = {"dtype": jnp.bfloat16, "attention_dropout": 0.0, "hidden": 16, "heads": 2}
    fused = {f for f in ("bert", *KIN) if dataclasses.replace(SMALL, family=f, **half).can_fuse}
    assert fused == {"bert", "distilbert", "roberta", "xlm-roberta", "nomic_bert"}


def test_drawn_parameters_are_not_zero(config):
    """Of an encoder whose source lacks a part: matrices are drawn, whatever they are called."""
    model = Ralm(config, config, embedding=8)
    drawn = drawn_params(model, 0)
    matrices = [
        (path, x)
        for path, x in jax.tree_util.tree_leaves_with_path(drawn)
        if x.ndim > 2 and x.size > 64
    ]
    assert matrices and all(x.any() for path, x in matrices if path[-1].key != "bias")

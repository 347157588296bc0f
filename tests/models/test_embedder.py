import functools

import jax
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.embedder import Embedder, Retriever
from ralm_jax.models.encoder.transformer import Encoder

SMALL = EncoderConfig(vocab_size=20, hidden=8, layers=1, heads=2, intermediate=16, positions=16)
TOKENS = np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32)
TYPES = np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32)


@functools.partial(jax.jit, static_argnames=("module", "method"))
def embed(module, variables, tokens=TOKENS, types=TYPES, method=None):
    return module.apply(variables, tokens, types, method=method)


@pytest.mark.parametrize("head", ["layer_norm", "unit", "plain"])
@pytest.mark.parametrize("pooling", ["cls", "first", "mean"])
def test_the_embedding_by_hand(drawn, pooling, head):
    module = Embedder(SMALL, embedding=4 if head == "layer_norm" else 8, pooling=pooling, head=head)
    variables = drawn(module, TOKENS, TYPES)
    p = variables["params"]
    assert ("pooler" in p) == (pooling == "cls") and ("projection" in p) == (head == "layer_norm")
    states = np.asarray(embed(Encoder(SMALL), {"params": p["encoder"]}))
    wanted = states[:, 0]
    if pooling == "cls":
        wanted = np.tanh(states[:, 0] @ p["pooler"]["kernel"] + p["pooler"]["bias"])
    elif pooling == "mean":
        wanted = np.stack([states[0, :5].mean(0), states[1].mean(0)])
    if head == "unit":
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    elif head == "layer_norm":
        projected = wanted @ p["projection"]["kernel"] + p["projection"]["bias"]
        gap = projected - projected.mean(1, keepdims=True)
        normed = gap / np.sqrt((gap**2).mean(1, keepdims=True) + module.norm_eps)
        wanted = normed * p["norm"]["scale"] + p["norm"]["bias"]
    found = embed(module, variables)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    wide = [np.pad(x, ((0, 0), (0, 6))) for x in (TOKENS, TYPES)]
    np.testing.assert_allclose(embed(module, variables, *wide), found, atol=1e-5)


def test_an_unknown_pooling_is_refused(drawn):
    with pytest.raises(UserError, match="not 'max'"):
        drawn(Embedder(SMALL, pooling="max"), TOKENS, TYPES)
    with pytest.raises(UserError, match="head is one of layer_norm, unit, plain, not 'cosine'"):
        drawn(Embedder(SMALL, head="cosine"), TOKENS, TYPES)
    with pytest.raises(UserError, match="embedding must be the hidden width, 8, not 4"):
        drawn(Embedder(SMALL, embedding=4, head="unit"), TOKENS, TYPES)


def test_one_shared_tower_by_default(drawn):
    module = Retriever(SMALL, embedding=4)
    variables = drawn(module, TOKENS, TYPES, method="queries")
    assert set(variables["params"]) == {"passage_tower"}
    queries, passages = (embed(module, variables, method=side) for side in ("queries", "passages"))
    np.testing.assert_array_equal(queries, passages)


def test_two_towers_have_nothing_in_common(drawn):
    module = Retriever(SMALL, embedding=4, share_towers=False)
    sides = {"queries": "query_tower", "passages": "passage_tower"}
    params = {}
    for side, tower in sides.items():
        params[side] = drawn(module, TOKENS, TYPES, method=side)["params"]
        assert set(params[side]) == {tower}
    alone = Embedder(SMALL, embedding=4)
    for side, tower in sides.items():
        np.testing.assert_array_equal(
            embed(module, {"params": params[side]}, method=side),
            embed(alone, {"params": params[side][tower]}),
        )

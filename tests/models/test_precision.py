"""Whatever activations are computed in, softmax, norms, logits and losses are float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import attend
from ralm_jax.models.encoder.transformer import Layer
from ralm_jax.models.reader import Reader
from ralm_jax.models.scorer import Scorer
from ralm_jax.models.span_reader import SpanReader

B, S, H, D = 6, 10, 4, 16
CONFIG = EncoderConfig(
    vocab_size=50, hidden=D, layers=1, heads=H, intermediate=32, positions=S, dropout=0.0
)
HALF = dataclasses.replace(CONFIG, dtype=jnp.bfloat16)


def attending(config, train, key, query, keys, value):
    """`attend` with nothing masked, as a layer calls it."""
    mask = jnp.ones((len(keys), 1, 1, keys.shape[1]), bool)

    def call(layer):
        return attend(layer, config, query, keys, value, mask, train)

    return Layer(config).apply({}, method=call, rngs={"dropout": key})


def attention(config, train, key, value):
    """What each query sees of `value` [B,S,H,D/H]; all keys are alike, so that all are seen alike."""
    same = jnp.zeros((B, S, H, D // H), config.dtype)
    return attending(config, train, key, same, same, value)


def test_attention_dropout_is_drawn_for_each_example_and_head():
    config = dataclasses.replace(CONFIG, attention_dropout=0.5)
    value = jnp.ones((B, S, H, D // H))
    seen = np.asarray(attention(config, True, jax.random.key(0), value))[..., 0]  # [B,S,H]
    masks = seen.transpose(0, 2, 1).reshape(B * H, S)
    assert len(np.unique(masks, axis=0)) == B * H
    assert seen.mean() == pytest.approx(1, abs=0.1)
    still = np.asarray(attention(config, False, jax.random.key(0), value))
    np.testing.assert_allclose(still, 1, rtol=1e-6)


def test_the_softmax_of_attention_is_float32():
    """257 equal weights: each is 1/257, whose sum in bfloat16 is far from 1."""
    config = dataclasses.replace(HALF, attention_dropout=1e-6)
    same = jnp.zeros((1, 257, H, D // H), jnp.bfloat16)
    call = functools.partial(attending, config, True, jax.random.key(0))
    seen = call(same[:, :1], same, same + 1)
    jaxpr = jax.make_jaxpr(lambda query: call(query, same, same))(same[:, :1])
    exponents = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "exp"]
    assert exponents and all(e.outvars[0].aval.dtype == jnp.float32 for e in exponents)
    assert seen.dtype == jnp.bfloat16


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Reader, Scorer, SpanReader])
def test_logits_are_not_rounded_to_bfloat16(module, drawn):
    """What comes out has bits that a bfloat16 cast to float32 would not."""
    tokens = np.random.default_rng(0).integers(1, 50, (B, S)).astype(np.int32)
    more = {Reader: [np.zeros((B, 2), np.int32)], SpanReader: [np.ones((B, S), bool)]}
    inputs = [tokens, np.zeros_like(tokens), *more.get(module, [])]
    params = drawn(module(CONFIG), *inputs)
    out = module(HALF).apply(params, *inputs)
    assert out.dtype == jnp.float32
    finite = np.asarray(out)[np.asarray(out) > -1e30]
    rounded = np.asarray(jnp.asarray(finite).astype(jnp.bfloat16).astype(jnp.float32))
    assert (finite != rounded).mean() > 0.5
    whole = np.asarray(module(CONFIG).apply(params, *inputs))
    near = np.asarray(out)
    spread = np.std(whole[whole > -1e30])
    assert np.abs((near - whole)[whole > -1e30]).max() < 0.2 * spread

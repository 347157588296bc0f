"""Attention by cuDNN: asked for with sequence lengths, it is the attention with a mask."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.models.config import Compute, EncoderConfig
from ralm_jax.models.encoder import attention
from ralm_jax.models.encoder.layers import attend
from ralm_jax.models.encoder.transformer import Encoder, Layer

B, S, H, WIDTH = 4, 6, 2, 8
CONFIG = EncoderConfig(
    vocab_size=20, hidden=H * WIDTH, layers=3, heads=H, intermediate=32, positions=S, dropout=0.0,
    attention_dropout=0.0, dtype=jnp.bfloat16,
)  # fmt: skip
CUDNN = dataclasses.replace(CONFIG, attention="cudnn")
# Whole, shorter, of one wordpiece, and of none.
LENGTHS = np.array([S, 3, 1, 0])
MASK = (np.arange(S) < LENGTHS[:, None])[:, None, None]  # [B,1,1,S]
CALLS = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"


def drawn(seed):
    return jax.random.normal(jax.random.key(seed), (B, S, H, WIDTH))


def by_lengths(query, key, value):
    """As cuDNN is asked, and computed by XLA."""
    return attention.fused(query, key, value, MASK, by="xla")


def by_mask(query, key, value):
    plain = dataclasses.replace(CONFIG, dtype=jnp.float32)
    return attend(Layer(plain), plain, query, key, value, MASK, True)


@pytest.mark.parametrize("many", [False, True])
def test_sequence_lengths_are_the_mask(many):
    """Values and gradients, for all queries of a text that has any wordpiece; of one at a time too."""
    given, wanted = [drawn(n) for n in range(3)], drawn(3)[: B - 1]

    @functools.partial(jax.jit, static_argnums=0)
    def found(call, *given):
        def loss(*given):
            return (call(*given)[: B - 1] * wanted).sum()

        return call(*given)[: B - 1], jax.grad(loss, (0, 1, 2))(*given)

    lengths = by_lengths
    if many:
        one = functools.partial(attention.fused, by="xla")

        def lengths(*given):
            return jax.vmap(one)(*(x[:, None] for x in (*given, MASK)))[:, 0]

    both = found(lengths, *given), found(by_mask, *given)
    for ours, theirs in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_text_of_nothing_is_finite():
    """Of its padding, one wordpiece is read: no mean is of nothing."""
    given = [drawn(n) for n in range(3)]
    seen, back = jax.vjp(by_lengths, *given)
    np.testing.assert_allclose(seen[B - 1], jnp.broadcast_to(given[2][B - 1, 0], seen[B - 1].shape))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(back(seen)))


def lowered(config, tokens, at=None):
    """The program of a gradient for NVIDIA's GPUs, as text; each text is encoded alone, under `vmap`."""
    encoder = Encoder(config)

    def loss(params):
        def one(text):
            return encoder.apply(params, text[None], text[None], True, at)

        return jax.vmap(one)(tokens).astype(jnp.float32).sum()

    with attention.lowering():
        params = jax.eval_shape(encoder.init, jax.random.key(0), tokens, tokens)
        traced = jax.jit(jax.grad(loss)).trace(params)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def calls(program):
    """How often cuDNN is called forward and backward."""
    return [program.count(f"@{name}(") for name in CALLS]


def test_the_program_of_a_gpu_calls_cudnn_and_has_no_scores():
    tokens = np.where(MASK[:, 0, 0], 3, 0)
    fused, plain = lowered(CUDNN, tokens), lowered(CONFIG, tokens)
    # In the scanned layers, and in the last one.
    assert (calls(fused), calls(plain)) == ([2, 2], [0, 0])
    scores = f"x{H}x{S}x{S}x"
    assert scores in plain and scores not in fused


def test_odd_lengths_and_few_queries_are_not_for_cudnn():
    assert calls(lowered(CUDNN, np.full((B, S - 1), 3))) == [0, 0]
    assert calls(lowered(CUDNN, np.full((B, S), 3), at=np.zeros((1, 1), int))) == [1, 1]


def test_cudnn_is_taken_where_it_can_be():
    auto = Compute()
    assert auto.of(CONFIG, cuda=True).attention == "cudnn"
    assert auto.of(CONFIG, cuda=False).attention == "xla"
    assert Compute(attention="xla").of(CONFIG, cuda=True).attention == "xla"
    for other in (Compute("float32"), Compute(attention_dropout=0.1)):
        assert other.of(CONFIG, cuda=True).attention == "xla"
    narrow = dataclasses.replace(CONFIG, heads=4)
    assert auto.of(narrow, cuda=True).attention == "xla"
    with pytest.raises(
        UserError, match=r"takes bfloat16.* not bfloat16, 0\.0 and 4: set it to 'xla'"
    ):
        Compute(attention="cudnn").of(narrow, cuda=True)
    with pytest.raises(UserError, match=r"not float32, 0\.0 and 8"):
        Compute("float32", attention="cudnn").of(CONFIG, cuda=True)

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.embedder import Embedder
from ralm_jax.models.encoder.transformer import Encoder
from ralm_jax.models.reader import Reader

SMALL = EncoderConfig(vocab_size=20, hidden=8, layers=3, heads=2, intermediate=16, positions=16)
TOKENS = np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32)
TYPES = np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32)
REAL = TOKENS != 0


@pytest.fixture(scope="module")
def params(drawn):
    return drawn(Encoder(SMALL), TOKENS, TYPES)["params"]


@functools.partial(jax.jit, static_argnames=("config", "train"))
def encode(params, tokens, types, config=SMALL, train=False, **more):
    return Encoder(config).apply({"params": params}, tokens, types, train, **more)


def bert(p, tokens, types, config):
    """BERT for one unpadded sequence in plain numpy: post-LayerNorm, one head at a time."""

    def norm(x, p):
        gap = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((gap**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return gap / scale * p["scale"] + p["bias"]

    def gelu(x):
        if config.gelu_approximate:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    p = jax.tree.map(lambda x: np.asarray(x, float), p)
    x = p["word_embeddings"]["embedding"][tokens] + p["type_embeddings"]["embedding"][types]
    x = norm(x + p["position_embeddings"]["embedding"][: len(tokens)], p["embedding_norm"])
    stacked = [jax.tree.map(lambda x, n=n: x[n], p["layers"]) for n in range(config.layers - 1)]
    for layer in [*stacked, p["last_layer"]]:
        out = 0
        for head in range(config.heads):
            kernel, bias = (layer["key_value"][k][..., head, :] for k in ("kernel", "bias"))
            key, value = (x @ kernel[:, i] + bias[i] for i in range(2))
            query = x @ layer["query"]["kernel"][:, head] + layer["query"]["bias"][head]
            weights = np.exp(query @ key.T / math.sqrt(key.shape[1]))
            weights /= weights.sum(1, keepdims=True)
            out = out + weights @ value @ layer["attention_output"]["kernel"][head]
        x = norm(x + out + layer["attention_output"]["bias"], layer["attention_norm"])
        wide = gelu(x @ layer["intermediate"]["kernel"] + layer["intermediate"]["bias"])
        x = norm(
            x + wide @ layer["output"]["kernel"] + layer["output"]["bias"], layer["output_norm"]
        )
    return x


@pytest.mark.parametrize("approximate", [True, False])
def test_the_encoder_is_bert(params, approximate):
    config = dataclasses.replace(SMALL, gelu_approximate=approximate)
    found = encode(params, TOKENS, TYPES, config)
    for row, real in enumerate(REAL):
        wanted = bert(params, TOKENS[row][real], TYPES[row][real], config)
        np.testing.assert_allclose(found[row][real], wanted, atol=2e-4)


def test_states_at_some_positions_are_those_of_all(params):
    where = np.array([[0, 2, 2], [1, 0, 3]], np.int32)
    wanted = np.take_along_axis(encode(params, TOKENS, TYPES), where[..., None], axis=1)
    np.testing.assert_allclose(encode(params, TOKENS, TYPES, at=where), wanted, atol=1e-5)


def test_padding_changes_nothing(params):
    short = encode(params, TOKENS, TYPES)
    wide = [np.pad(x, ((0, 0), (0, 6))) for x in (TOKENS, TYPES)]
    np.testing.assert_allclose(
        encode(params, *wide)[:, : TOKENS.shape[1]][REAL], short[REAL], atol=1e-5
    )
    # Nor does the state of a padded place: its segment could be anything.
    other = np.where(REAL, TYPES, 1)
    np.testing.assert_allclose(encode(params, TOKENS, other)[REAL], short[REAL], atol=1e-5)


def test_the_layers_lie_along_one_axis_and_begin_apart(params):
    for leaf in jax.tree.leaves(params["layers"]):
        assert leaf.shape[0] == SMALL.layers - 1  # the last stands apart
    begun = jax.jit(Encoder(SMALL).init)(jax.random.key(0), TOKENS, TYPES)["params"]
    kernel = np.asarray(begun["layers"]["output"]["kernel"])
    assert np.abs(kernel[0] - kernel[1]).min() > 0


def test_positions_may_start_as_sinusoids():
    config = dataclasses.replace(SMALL, layers=1, init_stddev=0.1, sinusoidal_start=True)
    begun = jax.jit(Encoder(config).init)(jax.random.key(0), TOKENS, TYPES)["params"]
    angles = np.arange(16)[:, None] / 1000 ** (np.arange(4) / 4)
    wanted = 0.1 * np.hstack([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(begun["position_embeddings"]["embedding"], wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [True, "dots"])
def test_rematerialisation_changes_no_value_and_no_gradient(params, remat):
    def both(config):
        def loss(params):
            states = encode(params, TOKENS, TYPES, config, train=True, rngs={"dropout": key})
            return (states**2).sum() * jnp.float32(0.1) + states[0, 0, 0]

        key = jax.random.key(1, impl="rbg")  # compiles sooner than the default
        return jax.jit(jax.value_and_grad(loss))(params)

    again = dataclasses.replace(SMALL, remat=remat)
    shapes = jax.eval_shape(Encoder(again).init, jax.random.key(0), TOKENS, TYPES)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    for plain, saved in zip(*(jax.tree.leaves(both(c)) for c in (SMALL, again)), strict=True):
        np.testing.assert_allclose(plain, saved, atol=1e-4)


def test_dropout_acts_in_training_only_and_differs_by_key(params):
    def run(key, train=True, config=SMALL):
        return np.asarray(encode(params, TOKENS, TYPES, config, train=train, rngs={"dropout": key}))

    one, two = jax.random.split(jax.random.key(0, impl="rbg"))
    calm = encode(params, TOKENS, TYPES)
    np.testing.assert_array_equal(run(one, train=False), calm)
    np.testing.assert_array_equal(run(one), run(one))
    assert np.abs(run(one) - run(two)).max() > 0.01 < np.abs(run(one) - calm).max()
    none = dataclasses.replace(SMALL, dropout=0.0, attention_dropout=0.0)
    np.testing.assert_allclose(run(one, config=none), calm, atol=1e-6)


def test_half_precision_keeps_float32_parameters_and_results():
    config = dataclasses.replace(SMALL, dtype=jnp.bfloat16)
    where = np.array([[1], [3]], np.int32)
    for module, inputs in (
        (Embedder(config, 4), (TOKENS, TYPES)),
        (Reader(config), (TOKENS, TYPES, where)),
    ):
        out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *inputs)
        assert out.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_a_sequence_beyond_the_positions_is_refused(params):
    long = np.ones((1, SMALL.positions + 1), np.int32)
    with pytest.raises(ValueError, match="17 exceeds 16 positions"):
        encode(params, long, long)


@pytest.mark.parametrize(
    ("sizes", "pooled", "masked_lm"),
    [
        ({}, 109_482_240, 109_514_298),  # BERT-base; as counted in transformers' BertModel and
        # BertForMaskedLM, whose output matrix is the embedding too
        ({"hidden": 128, "layers": 2, "heads": 2, "intermediate": 512}, 4_385_920, 4_416_698),
    ],
)
def test_the_number_of_parameters_is_berts(sizes, pooled, masked_lm):
    config, row = EncoderConfig(**sizes), np.zeros((1, 4), np.int32)

    def count(module, *inputs):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    projection = config.hidden * 128 + 128 + 2 * 128  # and its LayerNorm
    assert count(Embedder(config), row, row) - projection == pooled
    assert count(Reader(config), row, row, row[:, :1]) == masked_lm


def test_every_layer_drops_values_of_its_own():
    """A bias that a layer adds or drops: two masks make 4 sums at a position, one mask only 2."""
    config = dataclasses.replace(
        SMALL, hidden=64, dropout=0.5, attention_dropout=0.0, layer_norm_eps=1e6
    )
    shapes = jax.eval_shape(Encoder(config).init, jax.random.key(0), TOKENS, TYPES)["params"]
    p = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    p["layers"]["attention_output"]["bias"][:] = [[1.0], [10.0]]
    for layer in (p["layers"], p["last_layer"]):
        for norm in ("attention_norm", "output_norm"):
            layer[norm]["scale"][:] = 1e3  # over sqrt(eps): next to no norm at all
    found = encode(p, TOKENS, TYPES, config, train=True, rngs={"dropout": jax.random.key(1)})
    assert {len(np.unique(np.round(x, 1))) for x in found.reshape(-1, 64)} == {4}

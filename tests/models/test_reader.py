import jax
import numpy as np
import pytest

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.transformer import Encoder
from ralm_jax.models.reader import Reader

SMALL = EncoderConfig(vocab_size=20, hidden=8, layers=1, heads=2, intermediate=16, positions=16)
TOKENS = np.array([[2, 7, 9, 5, 3, 0, 0], [2, 11, 3, 6, 6, 19, 3]], np.int32)
TYPES = np.array([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]], np.int32)
EVERYWHERE = np.tile(np.arange(7, dtype=np.int32), (2, 1))


@pytest.fixture(scope="module")
def variables(drawn):
    return drawn(Reader(SMALL), TOKENS, TYPES, EVERYWHERE)


@jax.jit
def read(variables, positions, tokens=TOKENS, types=TYPES):
    return Reader(SMALL).apply(variables, tokens, types, positions)


def test_logits_stand_for_the_positions_asked(variables):
    everywhere = read(variables, EVERYWHERE)
    positions = np.array([[3, 1, 0], [6, 6, 2]], np.int32)
    found = read(variables, positions)
    wanted = np.stack([everywhere[row][positions[row]] for row in range(2)])
    assert found.shape == (2, 3, SMALL.vocab_size)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_padding_changes_no_logit(variables):
    positions = np.array([[3, 1], [6, 2]], np.int32)
    wide = [np.pad(x, ((0, 0), (0, 5))) for x in (TOKENS, TYPES)]
    np.testing.assert_allclose(
        read(variables, positions, *wide), read(variables, positions), atol=1e-5
    )


def test_the_head_is_berts_with_the_embeddings_as_output_matrix(variables):
    p = variables["params"]
    encode = jax.jit(Encoder(SMALL).apply)
    states = np.asarray(encode({"params": p["encoder"]}, TOKENS, TYPES))[:, :2]
    x = np.asarray(jax.nn.gelu(states @ p["head"]["kernel"] + p["head"]["bias"], approximate=True))
    gap = x - x.mean(-1, keepdims=True)
    x = gap / np.sqrt((gap**2).mean(-1, keepdims=True) + SMALL.layer_norm_eps)
    x = x * p["head_norm"]["scale"] + p["head_norm"]["bias"]
    wanted = x @ p["encoder"]["word_embeddings"]["embedding"].T + p["head_bias"]
    np.testing.assert_allclose(read(variables, EVERYWHERE[:, :2]), wanted, atol=1e-4)

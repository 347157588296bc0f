"""The cross-encoder: scores a passage by reading it together with the query (RocketQAv2, section 3.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import dense
from ralm_jax.models.encoder.transformer import Encoder


class Scorer(nn.Module):
    """An encoder of its own over the joint input, and one number from the state of [CLS].

    pooler: whether BERT's pooler stands between, as in a released cross-encoder.
    """

    config: EncoderConfig
    pooler: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """tokens, types: int [B,S] -> float32 [B]."""
        first = jnp.zeros((len(tokens), 1), jnp.int32)
        state = Encoder(self.config, name="encoder")(tokens, types, train, at=first)[:, 0]
        if self.pooler:
            state = jnp.tanh(dense(self.config, self.config.hidden, name="pooler")(state))
        return dense(self.config, 1, name="score", dtype=jnp.float32)(state)[:, 0]

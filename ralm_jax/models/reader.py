"""The knowledge-augmented encoder: predicts masked tokens from query and passage read together."""

import flax.linen as nn
import jax

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.transformer import Encoder, dense, gelu, layer_norm


class Reader(nn.Module):
    """BERT with the masked-LM head, applied to the M masked positions only (REALM 3.2, eq. 2)."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, tokens, types, positions, train: bool = False) -> jax.Array:
        """tokens, types: int [B,S]; positions: int [B,M] -> float32 logits [B,M,V].

        The query is the first segment, so its masked positions are the same with any passage.
        """
        c = self.config
        encoder = Encoder(c, name="encoder")
        x = encoder(tokens, types, train, at=positions)  # [B,M,D]
        x = layer_norm(c, "head_norm")(gelu(c, dense(c, c.hidden, name="head")(x)))
        bias = self.param("head_bias", nn.initializers.zeros, (c.vocab_size,))
        return encoder.attend(x) + bias[None, None, :]

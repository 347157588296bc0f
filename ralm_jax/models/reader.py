"""The knowledge-augmented encoder: predicts masked tokens from query and passage read together."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import activated, dense, layer_norm
from ralm_jax.models.encoder.transformer import Encoder
from ralm_jax.models.pointer import Pointer


class Reader(nn.Module):
    """BERT with the masked-LM head, applied to the M masked positions only (REALM 3.2, eq. 2).

    Attributes:
      copies: it may also copy a wordpiece of the passage; see `pointer`.
    """

    config: EncoderConfig
    copies: bool = False

    @nn.compact
    def __call__(self, tokens, types, positions, train: bool = False) -> jax.Array:
        """tokens, types: int [B,S]; positions: int [B,M] -> float32 logits [B,M,V].

        The query is the first segment, so its masked positions are the same with any passage. What copies
        gives log-probabilities, which are logits too.
        """
        c = self.config
        encoder = Encoder(c, name="encoder")
        # What is copied from needs the states of all positions, [B,S,D] rather than [B,M,D].
        states = encoder(tokens, types, train, at=None if self.copies else positions)
        masked = states
        if self.copies:
            masked = jnp.take_along_axis(states, positions[..., None], axis=1)
        biased = c.family != "modernbert"
        head = dense(c, c.hidden, name="head", use_bias=biased)
        x = layer_norm(c, "head_norm")(activated(c, head(masked)))
        bias = self.param("head_bias", nn.initializers.zeros, (c.vocab_size,))
        logits = encoder.attend(x) + bias[None, None, :]
        if not self.copies:
            return logits
        return Pointer(c, name="pointer")(masked, states, (tokens, types), logits)

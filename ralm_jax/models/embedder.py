"""The neural knowledge retriever: text to a vector whose inner products are relevance (REALM 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.transformer import Encoder, dense, layer_norm


class Embedder(nn.Module):
    """One tower: encoder, pooling, projection to E, LayerNorm; raw inner products score.

    `pooling` is "cls" (tanh dense of [CLS], as REALM) or "mean" (mean of the unpadded states, as
    sentence-transformers). In training, dropout follows the LayerNorm, as in the released ICT.
    """

    config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"

    @nn.compact
    def __call__(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """tokens, types: int [B,P] -> float32 [B,E]."""
        c = self.config
        encoder = Encoder(c, name="encoder")
        if self.pooling == "cls":
            first = jnp.zeros((len(tokens), 1), jnp.int32)
            x = encoder(tokens, types, train, at=first)  # [B,1,D]
            pooled = jnp.tanh(dense(c, c.hidden, name="pooler")(x[:, 0]))
        elif self.pooling == "mean":
            x = encoder(tokens, types, train)
            mask = (tokens != 0).astype(x.dtype)[..., None]
            pooled = (x * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        else:
            raise UserError(f'Ralm: pooling is "cls" or "mean", not {self.pooling!r}')
        projected = dense(c, self.embedding, name="projection")(pooled)
        embedded = layer_norm(c, "norm")(projected).astype(jnp.float32)
        return nn.Dropout(c.dropout, deterministic=not train)(embedded)


class Retriever(nn.Module):
    """Query and passage tower; one and the same module by default, as released.

    The towers are shared here, in Python: a gin macro referenced twice would build two of them.
    """

    config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"
    share_towers: bool = True

    def setup(self):
        self.passage_tower = Embedder(self.config, self.embedding, self.pooling)
        if not self.share_towers:
            self.query_tower = Embedder(self.config, self.embedding, self.pooling)

    def queries(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """int [B,L] -> [B,E]."""
        tower = self.passage_tower if self.share_towers else self.query_tower
        return tower(tokens, types, train)

    def passages(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """int [B,P] -> [B,E]."""
        return self.passage_tower(tokens, types, train)

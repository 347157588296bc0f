"""The neural knowledge retriever: text to a vector whose inner products are relevance (REALM 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import dense
from ralm_jax.models.encoder.transformer import Encoder

POOLINGS = ("cls", "first", "mean")
HEADS = ("layer_norm", "unit", "plain")


class Embedder(nn.Module):
    """One tower: encoder, pooling, and what makes a vector of the pooled state.

    `pooling` is "cls" (tanh dense of [CLS], as REALM), "first" ([CLS] as it is) or "mean" (mean of the
    unpadded states); the last two are those of sentence-transformers. `head` is "layer_norm" (projection
    to E, LayerNorm; raw inner products score, as REALM), "unit" (length 1, E = D; cosines score) or
    "plain" (the pooled state). In training, dropout follows the LayerNorm, as in the released ICT.
    """

    config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"
    head: str = "layer_norm"
    norm_eps: float = 1e-12

    @nn.compact
    def __call__(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """tokens, types: int [B,P] -> float32 [B,E]."""
        c = self.config
        self._check()
        encoder = Encoder(c, name="encoder")
        if self.pooling == "mean":
            x = encoder(tokens, types, train)
            mask = (tokens != 0).astype(jnp.float32)[..., None]
            pooled = (x.astype(jnp.float32) * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        else:
            first = jnp.zeros((len(tokens), 1), jnp.int32)
            pooled = encoder(tokens, types, train, at=first)[:, 0]  # [B,D]
            if self.pooling == "cls":
                pooled = jnp.tanh(dense(c, c.hidden, name="pooler")(pooled))
        if self.head != "layer_norm":
            pooled = pooled.astype(jnp.float32)
            if self.head == "plain":
                return pooled
            squares = (pooled**2).sum(-1, keepdims=True)
            return pooled * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        projected = dense(c, self.embedding, name="projection")(pooled)
        norm = nn.LayerNorm(epsilon=self.norm_eps, dtype=jnp.float32, name="norm")
        return nn.Dropout(c.dropout, deterministic=not train)(norm(projected))

    def _check(self) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(f"Ralm: pooling is one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        if self.head not in HEADS:
            raise UserError(f"Ralm: head is one of {', '.join(HEADS)}, not {self.head!r}")
        if self.head != "layer_norm" and self.embedding != self.config.hidden:
            raise UserError(
                f"Ralm: a {self.head} head does not project, so embedding must be the hidden width, "
                f"{self.config.hidden}, not {self.embedding}"
            )


class Retriever(nn.Module):
    """Query and passage tower; one and the same module by default, as released.

    The towers are shared here, in Python: a gin macro referenced twice would build two of them.
    """

    config: EncoderConfig
    embedding: int = 128
    pooling: str = "cls"
    head: str = "layer_norm"
    norm_eps: float = 1e-12
    share_towers: bool = True

    def setup(self):
        parts = (self.config, self.embedding, self.pooling, self.head, self.norm_eps)
        self.passage_tower = Embedder(*parts)
        if not self.share_towers:
            self.query_tower = Embedder(*parts)

    def queries(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """int [B,L] -> [B,E]."""
        tower = self.passage_tower if self.share_towers else self.query_tower
        return tower(tokens, types, train)

    def passages(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """int [B,P] -> [B,E]."""
        return self.passage_tower(tokens, types, train)

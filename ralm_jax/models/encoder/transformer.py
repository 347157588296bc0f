"""BERT's encoder (Devlin et al. 2019) in Linen: one `nn.scan`, and a last layer that may do less.

Its kin have the same frame: RoBERTa, DistilBERT and MPNet these layers too, ModernBERT and NomicBERT those
of `rotary`. Of the last layer only some positions may be wanted: [CLS] by a retriever, masked tokens by a
reader. Attention still reads all positions, but queries, feed-forward and norms are computed for those alone.
The result is the same, and a reader of two layers is a third cheaper.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import activated, attend, dense, layer_norm
from ralm_jax.models.encoder.rotary import RotaryLayer

# MPNet's distances between positions, as T5's: kinds of distance, and the distance from which all are one.
BUCKETS, FURTHEST = 32, 128


def sinusoids(scale: float):
    """Initialiser of position embeddings [positions, D]: sines and cosines (Vaswani et al. 2017)."""

    def init(key, shape, dtype=jnp.float32):
        positions, width = shape
        rates = 1000.0 ** (-jnp.arange(width // 2) / (width // 2))
        angles = jnp.arange(positions)[:, None] * rates[None, :]
        return scale * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1).astype(dtype)

    return init


class Layer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a LayerNorm behind it."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        train: bool,
        at: jax.Array | None = None,
        bias: jax.Array | None = None,
    ):
        """x [B,S,D]; mask bool [B,1,1,S]; at: positions [B,M] wanted, all by default -> [B,M,D].

        bias: [1,H,S,S] of a query at a key, added to the logits of attention.
        """
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=not train)
        # [B,S,2,H,D/H]
        key_value = dense(c, (2, c.heads, c.hidden // c.heads), name="key_value")(x)
        if at is not None:
            x = jnp.take_along_axis(x, at[..., None], axis=1)
            bias = None if bias is None else jnp.moveaxis(bias[0][:, at], 0, 1)
        query = dense(c, (c.heads, c.hidden // c.heads), name="query")(x)  # [B,M,H,D/H]
        key, value = key_value[:, :, 0], key_value[:, :, 1]
        attended = attend(self, c, query, key, value, mask, train, bias)
        attended = dense(c, c.hidden, axis=(-2, -1), name="attention_output")(attended)
        x = layer_norm(c, "attention_norm")(x + drop(attended))
        wide = activated(c, dense(c, c.intermediate, name="intermediate")(x))
        x = layer_norm(c, "output_norm")(x + drop(dense(c, c.hidden, name="output")(wide)))
        return x, None


class Encoder(nn.Module):
    """Token ids and segment types to hidden states; id 0 is padding and is never attended to.

    Types mean nothing to a family that has none, or one alone.
    """

    config: EncoderConfig

    def setup(self):
        c = self.config
        init = nn.initializers.truncated_normal(c.init_stddev)

        def embed(count, init=init):
            return nn.Embed(count, c.hidden, embedding_init=init, dtype=c.dtype)

        self.word_embeddings = embed(c.vocab_size)
        if not c.rotary:
            self.position_embeddings = embed(
                c.positions + c.position_offset,
                sinusoids(c.init_stddev) if c.sinusoidal_start else init,
            )
        if c.token_types:
            self.type_embeddings = embed(c.token_types)
        if c.family == "mpnet":
            self.distance_bias = nn.Embed(BUCKETS, c.heads, embedding_init=init, dtype=c.dtype)
        if c.family == "modernbert":
            self.final_norm = layer_norm(c)
        self.embedding_norm = layer_norm(c)
        self.dropout = nn.Dropout(c.dropout)
        layer = kind = RotaryLayer if c.rotary else Layer
        if c.remat:
            kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            policy = kept if c.remat == "dots" else None
            layer = nn.remat(kind, static_argnums=(3,), prevent_cse=False, policy=policy)
        if c.layers > 1:
            # Beside mask and `train`: positions wanted, which are all, and the number of a rotary layer.
            more = (nn.broadcast, 0 if c.rotary else nn.broadcast)
            self.layers = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast, *more),
                length=c.layers - 1,
            )(c)
        self.last_layer = layer(c)

    def __call__(
        self,
        tokens: jax.Array,
        types: jax.Array,
        train: bool = False,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """tokens, types: int [B,S] -> hidden states [B,S,D], or [B,M,D] of positions `at` [B,M] only.

        S must not exceed `positions`.
        """
        if tokens.shape[-1] > self.config.positions:
            raise ValueError(
                f"sequence of {tokens.shape[-1]} exceeds {self.config.positions} positions"
            )
        c = self.config
        x = self._embedded(tokens, types)
        x = self.dropout(self.embedding_norm(x), deterministic=not train)
        mask = (tokens != 0)[:, None, None, :]
        # The last argument of layers: their numbers, or the bias of distances.
        own: Any = self._bias(tokens.shape[-1])
        if c.layers > 1:
            x, _ = self.layers(x, mask, train, None, jnp.arange(c.layers - 1) if c.rotary else own)
        x, _ = self.last_layer(x, mask, train, at, jnp.array(c.layers - 1) if c.rotary else own)
        return self.final_norm(x) if c.family == "modernbert" else x

    def _embedded(self, tokens: jax.Array, types: jax.Array) -> jax.Array:
        """int [B,S] twice -> [B,S,D]."""
        c = self.config
        x = self.word_embeddings(tokens)
        if c.token_types:
            x = x + self.type_embeddings(types if c.token_types > 1 else jnp.zeros_like(types))
        if c.rotary:
            return x
        places = jnp.arange(tokens.shape[-1]) + c.position_offset
        return x + self.position_embeddings(places)[None]

    def _bias(self, length: int) -> jax.Array | None:
        """[1,H,S,S] of the distances between positions, where the family has one."""
        if self.config.family != "mpnet":
            return None
        return jnp.moveaxis(self.distance_bias(bucket(length)), -1, 0)[None]

    def attend(self, x: jax.Array) -> jax.Array:
        """[...,D] -> [...,V]: logits by the tied word embeddings, float32 whatever the compute dtype."""
        words = self.word_embeddings.embedding.astype(x.dtype)
        return jnp.dot(x, words.T, preferred_element_type=jnp.float32)


def bucket(length: int) -> np.ndarray:
    """Which kind of distance lies between each query and each key: int [S,S].

    Near ones are told apart one by one, far ones by their logarithm, and before from behind (T5, MPNet).
    """
    place = np.arange(length)
    back = place[:, None] - place[None, :]
    half, exact = BUCKETS // 2, BUCKETS // 4
    ratio = np.maximum(np.abs(back), 1).astype(np.float32) / exact
    far = np.log(ratio) / np.float32(np.log(FURTHEST / exact)) * (half - exact)
    far = np.minimum(exact + far.astype(np.int64), half - 1)
    return np.where(back < 0, half, 0) + np.where(np.abs(back) < exact, np.abs(back), far)

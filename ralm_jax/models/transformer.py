"""BERT's encoder (Devlin et al. 2019) in Linen: one `nn.scan`, and a last layer that may do less.

Of the last layer only some positions may be wanted: [CLS] by a retriever, masked tokens by a reader.
Attention still reads all positions, but queries, feed-forward and norms are computed for those alone. The
result is the same, and a reader of two layers is a third cheaper."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig


def dense(config: EncoderConfig, features, axis=-1, name=None, dtype=None) -> nn.DenseGeneral:
    """A dense layer that computes in `dtype`, by default the dtype of activations."""
    return nn.DenseGeneral(
        features,
        axis=axis,
        dtype=dtype or config.dtype,
        kernel_init=nn.initializers.truncated_normal(config.init_stddev),
        name=name,
    )


def layer_norm(config: EncoderConfig, name=None) -> nn.LayerNorm:
    # Statistics in float32 whatever the activations are: LayerNorm does so by itself.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=config.dtype, name=name)


def gelu(config: EncoderConfig, x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=config.gelu_approximate)


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
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool, at: jax.Array | None = None):
        """x [B,S,D]; mask bool [B,1,1,S]; at: positions [B,M] wanted, all by default -> [B,M,D]."""
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=not train)
        # [B,S,2,H,D/H]
        key_value = dense(c, (2, c.heads, c.hidden // c.heads), name="key_value")(x)
        if at is not None:
            x = jnp.take_along_axis(x, at[..., None], axis=1)
        query = dense(c, (c.heads, c.hidden // c.heads), name="query")(x)  # [B,M,H,D/H]
        attended = self.attend(query, key_value[:, :, 0], key_value[:, :, 1], mask, train)
        attended = dense(c, c.hidden, axis=(-2, -1), name="attention_output")(attended)
        x = layer_norm(c, "attention_norm")(x + drop(attended))
        wide = gelu(c, dense(c, c.intermediate, name="intermediate")(x))
        x = layer_norm(c, "output_norm")(x + drop(dense(c, c.hidden, name="output")(wide)))
        return x, None

    def attend(self, query, key, value, mask: jax.Array, train: bool) -> jax.Array:
        """query [B,M,H,D/H], key and value [B,S,H,D/H] -> [B,M,H,D/H]; the softmax is in float32."""
        rate = self.config.attention_dropout
        # A third faster on a CPU, but it cannot drop.
        if not train or not rate:
            return jax.nn.dot_product_attention(query, key, value, mask=mask)
        # One mask for each example and head: a shared one would drop the same keys for a whole batch.
        scale = query.shape[-1] ** -0.5
        logits = jnp.einsum(
            "bmhd,bshd->bhms", query * scale, key, preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min))
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, weights.shape)
        weights = jnp.where(kept, weights / (1 - rate), 0.0).astype(value.dtype)
        return jnp.einsum("bhms,bshd->bmhd", weights, value)


class Encoder(nn.Module):
    """Token ids and segment types to hidden states; id 0 is padding and is never attended to."""

    config: EncoderConfig

    def setup(self):
        c = self.config
        init = nn.initializers.truncated_normal(c.init_stddev)

        def embed(count, init=init):
            return nn.Embed(count, c.hidden, embedding_init=init, dtype=c.dtype)

        self.word_embeddings = embed(c.vocab_size)
        self.position_embeddings = embed(
            c.positions, sinusoids(c.init_stddev) if c.sinusoidal_start else init
        )
        self.type_embeddings = embed(2)
        self.embedding_norm = layer_norm(c)
        self.dropout = nn.Dropout(c.dropout)
        layer = nn.remat(Layer, static_argnums=(3,), prevent_cse=False) if c.remat else Layer
        if c.layers > 1:
            self.layers = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast),
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
        x = self.word_embeddings(tokens) + self.type_embeddings(types)
        x = x + self.position_embeddings(jnp.arange(tokens.shape[-1]))[None]
        x = self.dropout(self.embedding_norm(x), deterministic=not train)
        mask = (tokens != 0)[:, None, None, :]
        if self.config.layers > 1:
            x, _ = self.layers(x, mask, train)
        x, _ = self.last_layer(x, mask, train, at)
        return x

    def attend(self, x: jax.Array) -> jax.Array:
        """[...,D] -> [...,V]: logits by the tied word embeddings, float32 whatever the compute dtype."""
        words = self.word_embeddings.embedding.astype(x.dtype)
        return jnp.dot(x, words.T, preferred_element_type=jnp.float32)

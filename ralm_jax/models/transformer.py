"""BERT's encoder (Devlin et al. 2019) in Linen, the layers under one `nn.scan`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig


def dense(config: EncoderConfig, features, axis=-1, name=None) -> nn.DenseGeneral:
    return nn.DenseGeneral(
        features,
        axis=axis,
        dtype=config.dtype,
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
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool):  # [B,S,D], [B,1,1,S]
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=not train)
        # One matrix product for queries, keys and values.
        qkv = dense(c, (3, c.heads, c.hidden // c.heads), name="qkv")(x)  # [B,S,3,H,D/H]
        attended = nn.dot_product_attention(
            qkv[:, :, 0],
            qkv[:, :, 1],
            qkv[:, :, 2],
            mask=mask,
            dropout_rng=self.make_rng("dropout") if train and c.attention_dropout else None,
            dropout_rate=c.attention_dropout,
            deterministic=not train or not c.attention_dropout,
            dtype=c.dtype,
        )  # [B,S,H,D/H]
        attended = dense(c, c.hidden, axis=(-2, -1), name="attention_output")(attended)
        x = layer_norm(c, "attention_norm")(x + drop(attended))
        wide = gelu(c, dense(c, c.intermediate, name="intermediate")(x))
        x = layer_norm(c, "output_norm")(x + drop(dense(c, c.hidden, name="output")(wide)))
        return x, None


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
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=c.layers,
        )(c)

    def __call__(self, tokens: jax.Array, types: jax.Array, train: bool = False) -> jax.Array:
        """tokens, types: int [B,S] -> hidden states [B,S,D]. S must not exceed `positions`."""
        if tokens.shape[-1] > self.config.positions:
            raise ValueError(
                f"sequence of {tokens.shape[-1]} exceeds {self.config.positions} positions"
            )
        x = self.word_embeddings(tokens) + self.type_embeddings(types)
        x = x + self.position_embeddings(jnp.arange(tokens.shape[-1]))[None]
        x = self.dropout(self.embedding_norm(x), deterministic=not train)
        x, _ = self.layers(x, (tokens != 0)[:, None, None, :], train)
        return x

    def attend(self, x: jax.Array) -> jax.Array:
        """[...,D] -> [...,V]: logits by the tied word embeddings."""
        return self.word_embeddings.attend(x)

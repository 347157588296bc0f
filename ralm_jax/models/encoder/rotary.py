"""Layers whose queries and keys are turned by their positions (Su et al. 2021): ModernBERT's and NomicBERT's.

Both have a gated feed-forward and no biases. NomicBERT (Nussbaum et al. 2024) norms behind each part, as BERT
does. ModernBERT (Warner et al. 2024) norms before it, but for the first layer, whose input is normed already,
and most of its layers see only what is near.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import activated, attend, dense, layer_norm


class Kernel(nn.Module):
    """A matrix that its owner multiplies by in parts; [D, *features]."""

    config: EncoderConfig
    features: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        init = nn.initializers.truncated_normal(self.config.init_stddev)
        shape = (self.config.hidden, *self.features)
        return self.param("kernel", init, shape).astype(self.config.dtype)


class RotaryLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a LayerNorm before or behind it."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        train: bool,
        at: jax.Array | None,
        number: jax.Array,
    ):
        """x [B,S,D]; mask bool [B,1,1,S]; at: positions [B,M] wanted, all where None -> [B,M,D].

        number: int [], which of the layers it is.
        """
        c = self.config
        before = c.family == "modernbert"
        drop = nn.Dropout(c.dropout, deterministic=not train)
        attention_norm, output_norm = layer_norm(c, "attention_norm"), layer_norm(c, "output_norm")
        normed = jnp.where(number == 0, x, attention_norm(x)) if before else x
        attended = self._attention(normed, mask, train, at, number)
        if at is not None:
            x = jnp.take_along_axis(x, at[..., None], axis=1)
        x = x + drop(attended)
        x = x if before else attention_norm(x)
        wide = dense(c, (2, c.intermediate), name="intermediate", use_bias=False)(
            output_norm(x) if before else x
        )
        gated = activated(c, wide[..., 0, :]) * wide[..., 1, :]
        x = x + drop(dense(c, c.hidden, name="output", use_bias=False)(gated))
        return (x if before else output_norm(x)), None

    def _attention(self, x, mask, train: bool, at, number) -> jax.Array:
        """x [B,S,D], normed where norms come before -> [B,M,D]."""
        c = self.config
        places = jnp.arange(x.shape[1])[None]  # [1,S]
        asked = places if at is None else at
        everywhere = number % c.global_every == 0
        base = jnp.where(everywhere, c.rotary_base, c.local_rotary_base)
        # [D,3,H,D/H]
        kernel = Kernel(c, (3, c.heads, c.hidden // c.heads), name="query_key_value")()
        key_value = jnp.einsum("bsd,dthw->bsthw", x, kernel[:, 1:])
        if at is not None:
            x = jnp.take_along_axis(x, at[..., None], axis=1)
        query = turned(jnp.einsum("bmd,dhw->bmhw", x, kernel[:, 0]), asked, base)
        key, value = turned(key_value[:, :, 0], places, base), key_value[:, :, 1]
        if c.local_reach:
            near = jnp.abs(asked[:, :, None] - places[:, None, :]) <= c.local_reach  # [B or 1,M,S]
            mask = mask & (everywhere | near[:, None])
        attended = attend(self, c, query, key, value, mask, train)
        return dense(c, c.hidden, axis=(-2, -1), name="attention_output", use_bias=False)(attended)


def turned(x: jax.Array, places: jax.Array, base: jax.Array) -> jax.Array:
    """x [B,S,H,W] with each pair of its halves turned by the angle of its place, int [B,S] or [1,S]."""
    half = x.shape[-1] // 2
    rates = base ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angles = places[:, :, None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    both = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return both.astype(x.dtype)

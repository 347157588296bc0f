"""What layers of every kind are made of: dense layers, norms, activations, attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder import attention


def dense(
    config: EncoderConfig, features, axis=-1, name=None, dtype=None, use_bias=True
) -> nn.DenseGeneral:
    """A dense layer that computes in `dtype`, by default the dtype of activations."""
    return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=use_bias,
        dtype=dtype or config.dtype,
        kernel_init=nn.initializers.truncated_normal(config.init_stddev),
        name=name,
    )


def layer_norm(config: EncoderConfig, name=None) -> nn.LayerNorm:
    # Statistics in float32 whatever the activations are: LayerNorm does so by itself.
    biased = config.family != "modernbert"
    return nn.LayerNorm(
        epsilon=config.layer_norm_eps, dtype=config.dtype, use_bias=biased, name=name
    )


def activated(config: EncoderConfig, x: jax.Array) -> jax.Array:
    """GELU; NomicBERT's is SiLU."""
    if config.family == "nomic_bert":
        return nn.silu(x)
    return nn.gelu(x, approximate=config.gelu_approximate)


def attend(
    layer: nn.Module,
    config: EncoderConfig,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    train: bool,
    bias: jax.Array | None = None,
) -> jax.Array:
    """query [B,M,H,D/H], key and value [B,S,H,D/H] -> [B,M,H,D/H]; the softmax is in float32.

    Args:
      layer: whose dropout it is.
      mask: bool [B,1,1,S], or [B,1,M,S] where not all queries see the same.
      bias: [1,H,M,S] or [B,H,M,S], added to the logits.
    """
    rate = config.attention_dropout
    if attention.fuses(config, query.shape[1], key.shape[1]):
        return attention.fused(query, key, value, mask)
    # A third faster on a CPU, but it cannot drop.
    if not train or not rate:
        return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=mask)
    # One mask for each example and head: a shared one would drop the same keys for a whole batch.
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("bmhd,bshd->bhms", query * scale, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min))
    kept = jax.random.bernoulli(layer.make_rng("dropout"), 1 - rate, weights.shape)
    weights = jnp.where(kept, weights / (1 - rate), 0.0).astype(value.dtype)
    return jnp.einsum("bhms,bshd->bmhd", weights, value)

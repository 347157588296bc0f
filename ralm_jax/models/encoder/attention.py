"""Attention by cuDNN, on NVIDIA's GPUs: the scores of all pairs of positions are never held.

It reads sequence lengths instead of a mask, which is the same: what pads a text stands behind it.
"""

import contextlib
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig

# What a program is lowered for where cuDNN itself is not here; the first with all that we ask of it.
CUDNN = 90800


def fuses(config: EncoderConfig, queries: int, keys: int) -> bool:
    """Whether cuDNN attends to texts of this size: it differentiates for even lengths alone.

    Odd ones are short: the null passage with its query, and [CLS] as the one query of a last layer.
    """
    return config.attention == "cudnn" and not queries % 2 and not keys % 2


def fused(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, by: Any = "cudnn"):
    """query [B,M,H,D/H], key and value [B,S,H,D/H], mask bool [B,1,1,S] -> [B,M,H,D/H].

    All that stands before the last wordpiece is attended to; of a text without any, the first place, as there
    is no mean of nothing.
    """
    places = jnp.arange(1, key.shape[1] + 1, dtype=jnp.int32)
    lengths = jnp.where(mask[:, 0, 0], places, 1).max(-1)  # [B]
    # Of the lengths, so that `vmap` gives each example its own: cuDNN's rule has no other way.
    whole = 0 * lengths + query.shape[1]
    # Queries that are padding attend too, as everywhere: what they make is finite, and nothing reads it.
    return jax.nn.dot_product_attention(
        query, key, value,
        query_seq_lengths=whole, key_value_seq_lengths=lengths, implementation=by,
    )  # fmt: skip


@contextlib.contextmanager
def lowering() -> Generator[None]:
    """Traces what cuDNN computes where cuDNN is not, to count or compile it: JAX asks for its version."""
    # Private, and so imported by none that does not need it.
    from jax._src.cudnn import fused_attention_stablehlo

    before = fused_attention_stablehlo.cuda_versions
    fused_attention_stablehlo.cuda_versions = _Versions  # pyrefly: ignore
    try:
        yield
    finally:
        fused_attention_stablehlo.cuda_versions = before


class _Versions:
    @staticmethod
    def cudnn_get_version() -> int:
        return CUDNN

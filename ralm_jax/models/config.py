"""Sizes of a BERT encoder, and the letters that name every array dimension in ralm_jax.

B  batch (queries)              D  hidden width of an encoder
K  candidates per query,        E  width of a retrieval embedding
   null passage included        H  attention heads
L  query length                 V  vocabulary
P  passage length               N  passages in the corpus
S  joint length: query+passage  M  masked positions per query
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ralm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A BERT encoder; the defaults are BERT-base as REALM used it (Devlin et al. 2019; Guu et al. 2020).

    `vocab_size` is set from the corpus when a run starts. Named sizes are `configs/models/*.gin`.
    """

    vocab_size: int = 30522
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    gelu_approximate: bool = True  # the tanh form, as released; transformers' BertModel uses erf
    init_stddev: float = 0.02
    # Position embeddings, which are trained, start as sinusoids. From random weights a reader of 2
    # layers learns to copy out of a passage in half the steps or less; an import overwrites them.
    sinusoidal_start: bool = False
    remat: bool = False  # recompute each layer in the backward pass: memory for time
    dtype: Any = jnp.float32  # of activations; parameters stay float32

    def __post_init__(self):
        if self.hidden % self.heads:
            raise UserError(
                f"EncoderConfig: hidden {self.hidden} does not divide into {self.heads} heads; "
                "change one of them"
            )

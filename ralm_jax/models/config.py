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

from ralm_jax import settings
from ralm_jax.errors import UserError
from ralm_jax.settings import Count, Positive, ShareBelowOne


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A BERT encoder; the defaults are BERT-base as REALM used it (Devlin et al. 2019; Guu et al. 2020).

    `vocab_size` is set from the corpus when a run starts. Named sizes are `configs/models/*.gin`.
    """

    vocab_size: Count = 30522
    hidden: Count = 768
    layers: Count = 12
    heads: Count = 12
    intermediate: Count = 3072
    positions: Count = 512
    dropout: ShareBelowOne = 0.1
    attention_dropout: ShareBelowOne = 0.1
    layer_norm_eps: Positive = 1e-12
    # The tanh form, as released; transformers' BertModel uses erf.
    gelu_approximate: bool = True
    init_stddev: Positive = 0.02
    # Position embeddings, which are trained, start as sinusoids. From random weights a reader of 2
    # layers learns to copy out of a passage in half the steps or less; an import overwrites them.
    sinusoidal_start: bool = False
    # Recomputes each layer in the backward pass: memory for time.
    remat: bool = False
    # Of activations; parameters, softmax, norms' statistics, logits and losses are float32.
    dtype: Any = jnp.float32

    def __post_init__(self):
        settings.check_fields(self)
        if self.hidden % self.heads:
            raise UserError(
                f"EncoderConfig: hidden {self.hidden} does not divide into {self.heads} heads; "
                "change one of them"
            )

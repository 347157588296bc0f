"""A reader that copies: a pointer over the wordpieces of the passage, beside the vocabulary.

As CopyNet (Gu et al. 2016) and pointer sentinels (Merity et al. 2017): one softmax over places and a gate to
the vocabulary. An encoder without a trained masked-LM head so reads from the first step: the pointer begins
as the identity, and a masked position attends to the pieces whose states are like its own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig

# Of inner products of states, before the softmax.
SCALE = 1 / 8


class Pointer(nn.Module):
    """Log-probabilities of the vocabulary, mixed with those of copying a piece of the passage."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        masked: jax.Array,
        states: jax.Array,
        text: tuple[jax.Array, jax.Array],
        logits: jax.Array,
    ) -> jax.Array:
        """masked [B,M,D] and states [B,S,D], text int [B,S] twice, logits [B,M,V] -> float32 [B,M,V].

        text: tokens and types; what may be copied has type 1, and the last of it is [SEP].
        """
        tokens, types = text
        width = self.config.hidden
        query = nn.Dense(width, dtype=jnp.float32, kernel_init=identity, name="query")(masked)
        key = nn.Dense(width, dtype=jnp.float32, kernel_init=identity, name="key")(states)
        attention = SCALE * jnp.einsum("bmd,bsd->bms", query, key)
        zeros = nn.initializers.zeros
        gate = nn.Dense(1, dtype=jnp.float32, kernel_init=zeros, name="gate")(masked)[
            ..., 0
        ]  # [B,M]
        inside = (types == 1) & jnp.pad(types[:, 1:] == 1, ((0, 0), (0, 1)))
        # So that half of the probability is the vocabulary's, however long the passage.
        gate += jnp.log(jnp.maximum(inside.sum(-1), 1))[:, None]
        return mixed(attention, gate, inside, tokens, logits)


def mixed(attention, gate, inside, tokens, logits) -> jax.Array:
    """log( gate * p_vocabulary + sum over places of the piece ), with no infinity anywhere.

    attention [B,M,S]; gate [B,M], in the softmax beside the places; inside bool [B,S], what may be copied;
    tokens int [B,S]; logits [B,M,V] -> float32 [B,M,V]. Where nothing may be copied, log softmax of logits.
    """
    least = jnp.finfo(jnp.float32).min / 2
    places = jnp.where(inside[:, None], attention, least)  # [B,M,S]
    greatest = jax.lax.stop_gradient(jnp.maximum(places.max(-1), gate))  # [B,M]
    weights = jnp.where(inside[:, None], jnp.exp(places - greatest[..., None]), 0.0)
    whole = jnp.log(weights.sum(-1) + jnp.exp(gate - greatest))  # log of the sum, less `greatest`

    def gather(weights, tokens):
        """Weights [M,S] of places to those of pieces [M,V]."""
        return jnp.zeros((len(weights), logits.shape[-1])).at[:, tokens].add(weights)

    copied = jax.vmap(gather)(weights, tokens)
    some = copied > 0
    copy = jnp.where(some, jnp.log(jnp.where(some, copied, 1.0)), least)
    spoken = (gate - greatest)[..., None] + jax.nn.log_softmax(logits)
    return jnp.logaddexp(copy, spoken) - whole[..., None]


def identity(key, shape, dtype=jnp.float32):
    """Initialiser: a matrix that changes nothing."""
    return jnp.eye(*shape, dtype=dtype)

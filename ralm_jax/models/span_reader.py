"""The open-domain reader: scores every short span of a passage as the answer (ORQA, section 3.4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.layers import dense
from ralm_jax.models.encoder.transformer import Encoder


class SpanReader(nn.Module):
    """BERT, and a score of each span from the states of its first and last wordpiece.

    score = w . LayerNorm(ReLU(start + end)), start and end being halves of one dense layer.
    """

    config: EncoderConfig
    span_width: int = 10  # W, wordpieces at most
    span_hidden: int = 256
    norm_eps: float = 1e-3  # Keras's, as released

    @nn.compact
    def __call__(self, tokens, types, within, train: bool = False) -> jax.Array:
        """tokens, types: int [B,S]; within: bool [B,S], where an answer may lie -> float32 [B,S,W].

        Entry s, w is the span from wordpiece s to s + w, both included. Spans that leave `within` get
        the most negative finite number halved, and so probability 0.
        """
        c, w = self.config, self.span_width
        states = Encoder(c, name="encoder")(tokens, types, train)  # [B,S,D]
        both = dense(c, 2 * self.span_hidden, name="span_ends")(states)
        start, end = jnp.split(both, 2, axis=-1)
        ends = jnp.stack([_later(end, i) for i in range(w)], axis=2)  # [B,S,W,hidden]
        hidden = nn.LayerNorm(epsilon=self.norm_eps, dtype=c.dtype, name="span_norm")(
            nn.relu(start[:, :, None] + ends)
        )
        scores = dense(c, 1, name="span_score", dtype=jnp.float32)(hidden)[..., 0]
        inside = jnp.stack([within & _later(within, i) for i in range(w)], axis=2)  # [B,S,W]
        return jnp.where(inside, scores, jnp.finfo(jnp.float32).min / 2)


def _later(x: jax.Array, by: int) -> jax.Array:
    """x [B,S,...] moved `by` places to the front; zeros behind."""
    by = min(by, x.shape[1])
    pad = [(0, 0), (0, by), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x[:, by:], pad)

"""p(z|x), by dense and lexical scores: over the candidates of a query, or over all passages of the batch."""

import dataclasses

import jax
import jax.numpy as jnp

from ralm_jax import settings
from ralm_jax.losses import marginal
from ralm_jax.settings import Positive, Rate


@dataclasses.dataclass(frozen=True)
class Prior:
    """p(z|x) = softmax over z of sharpness * (f(x, z) + lexical_weight * b(x, z)).

    f is the model's score, and b BM25 divided by the query's best. Sharpness and weight are apart: a softmax
    that is too sharp would be made flatter by a lower weight, and questions want a high one.

    Attributes:
      sharpness: beta.
      lexical_weight: w; with 0, and sharpness 1, it is REALM's prior (eq. 1).
    """

    sharpness: Positive = 1.0
    lexical_weight: Rate = 0.0

    def __post_init__(self):
        settings.check_fields(self)

    def scores(self, dense: jax.Array, lexical: jax.Array | None) -> jax.Array:
        """What the softmax is of: dense and lexical scores of one shape, or no lexical ones."""
        mixed = dense
        if lexical is not None and self.lexical_weight:
            mixed = mixed + self.lexical_weight * lexical
        return self.sharpness * mixed

    def __call__(
        self, dense: jax.Array, valid: jax.Array, lexical: jax.Array | None = None
    ) -> jax.Array:
        """log p(z|x): scores and valid [...,K] -> [...,K]; see `marginal.log_prior` for what is not valid."""
        return marginal.log_prior(self.scores(dense, lexical), valid)


# REALM's own.
DENSE = Prior()


def over_batch(own: jax.Array, others: jax.Array, likelihood: jax.Array):
    """A query's candidates and, beside them, the passages of other queries, which read as the null passage.

    A passage that was retrieved for another query says nothing of this one; so its likelihood is known
    without reading it, and the marginal is over a list as long as the batch at the cost of the query's own.
    Whoever calls leaves out of `others` what might say something after all.

    Args:
      own, others: scores [B,K] and [B,n], of candidates, the null passage first, and of other passages.
      likelihood: log p(y_m|z,x) of the candidates, [B,K,M].

    Returns:
      Scores [B,K+n] and likelihoods [B,K+n,M], for any objective.
    """
    unread = jnp.broadcast_to(
        likelihood[:, :1], (len(likelihood), others.shape[1], likelihood.shape[2])
    )
    return jnp.concatenate([own, others], axis=1), jnp.concatenate([likelihood, unread], axis=1)

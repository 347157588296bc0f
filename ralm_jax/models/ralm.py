"""Retriever and reader together: what a retrieval-augmented language model computes for a batch.

Candidates arrive in the batch: the model never talks to an index (REALM 3.1). Candidate 0 is
the null passage. Query and candidates are embedded afresh with current parameters, so gradients
flow into both towers; the index has only chosen which candidates appear.
"""

import jax
import jax.numpy as jnp

from ralm_jax.batches import ClozeBatch
from ralm_jax.models.base import RetrievalModel
from ralm_jax.models.reader import Reader


class Ralm(RetrievalModel):
    """The whole model; retriever and reader share no parameters.

    Attributes:
      copies: the reader may copy wordpieces of the passage.
    """

    copies: bool = False

    def setup(self):
        super().setup()
        self.reader = Reader(self.reader_config, self.copies)

    def scores(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """Relevance of each candidate, f(x, z) = e(x) . e(z): [B,K]."""
        b, k, p = batch.candidates.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, p), batch.candidates)
        passages = self.passages(flat, train).reshape(b, k, -1)  # [B,K,E]
        queries = self.queries(batch.query, train)  # [B,E]
        return self.similarity(queries[:, None], passages)[:, 0]

    def similarity(self, queries: jax.Array, passages: jax.Array) -> jax.Array:
        """Scaled inner products: [...,Q,E] and [...,K,E] -> [...,Q,K]."""
        return self.score_scale * jnp.einsum("...qe,...ke->...qk", queries, passages)

    def read(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """Masked-token logits for every candidate: [B,K,M,V]."""
        b, k, s = batch.joint.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, s), batch.joint)
        positions = jnp.repeat(batch.positions, k, axis=0)  # [B*K,M]
        logits = self.reader(flat.tokens, flat.types, positions, train)
        return logits.reshape(b, k, *logits.shape[1:])

    def likelihood(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """log p(y_m | z_k, x), float32 [B,K,M]."""
        logits = self.read(batch, train)  # [B,K,M,V]
        targets = jnp.broadcast_to(batch.targets[:, None, :, None], (*logits.shape[:-1], 1))
        chosen = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]  # [B,K,M]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    def __call__(self, batch: ClozeBatch, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """-> scores [B,K] and log p(y_m | z_k, x) [B,K,M], float32."""
        likelihood = self.likelihood(batch, train)
        return self.scores(batch, train), likelihood

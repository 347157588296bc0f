"""Retriever and reader together: what a retrieval-augmented language model computes for a batch.

Candidates arrive in the batch: the model never talks to an index (REALM 3.1). Candidate 0 is
the null passage. Query and candidates are embedded afresh with current parameters, so gradients
flow into both towers; the index has only chosen which candidates appear. The null passage is as short as it
is: with a few candidates much of what is read would be its padding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.models.base import RetrievalModel
from ralm_jax.models.parts import in_parts
from ralm_jax.models.reader import Reader

# [CLS] [SEP] [SEP]
EMPTY = 3


class Ralm(RetrievalModel):
    """The whole model; retriever and reader share no parameters.

    Attributes:
      copies: the reader may copy wordpieces of the passage.
    """

    copies: bool = False

    def setup(self):
        super().setup()
        self.reader = Reader(self.reader_config, self.copies)

    def scores(
        self, batch: ClozeBatch, train: bool = False, widths: Sequence[int] = ()
    ) -> jax.Array:
        """Relevance of each candidate, f(x, z) = e(x) . e(z): [B,K]. widths: see `__call__`."""
        queries = self.queries(batch.query, train)  # [B,E]
        null = self._embed(batch.candidates.at(slice(0, 1), EMPTY), train)
        each = [null]
        if batch.vectors is not None:
            each.append(batch.vectors[:, 1:])
        elif batch.valid.shape[1] > 1:
            each.append(self._embed(batch.candidates.at(slice(1, None)), train, widths))
            # Kept only where a caller asks for it; see `steps.realm_loss`.
            self.sow("intermediates", "passages", each[-1])
        passages = jnp.concatenate(each, axis=1)  # [B,K,E]
        return self.similarity(queries[:, None], passages)[:, 0]

    def _embed(self, passages: Text, train: bool, widths: Sequence[int] = ()) -> jax.Array:
        """[B,K,P] -> [B,K,E]."""
        b, k, p = passages.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, p), passages)

        def embed(part: Text, _: tuple = ()) -> jax.Array:
            return self.passages(part, train)

        vectors = in_parts(embed, flat, (), widths) if widths else embed(flat)
        return vectors.reshape(b, k, -1)

    def similarity(self, queries: jax.Array, passages: jax.Array) -> jax.Array:
        """Scaled inner products: [...,Q,E] and [...,K,E] -> [...,Q,K]."""
        return self.score_scale * jnp.einsum("...qe,...ke->...qk", queries, passages)

    def read(self, batch: ClozeBatch, train: bool = False) -> jax.Array:
        """Masked-token logits for every candidate: [B,K,M,V]."""
        parts = (self._read(joint, batch.positions, train) for joint in _joints(batch))
        return jnp.concatenate(list(parts), axis=1)

    def likelihood(
        self, batch: ClozeBatch, train: bool = False, widths: Sequence[int] = ()
    ) -> jax.Array:
        """log p(y_m | z_k, x), float32 [B,K,M]. widths: see `__call__`."""
        about = (batch.positions, batch.targets)
        null, *others = _joints(batch)
        read = [self.reading(null, *about, train)]
        for joint in others:
            if widths:
                read.append(self._reading_in_parts(joint, about, train, widths))
            else:
                read.append(self.reading(joint, *about, train))
        return jnp.concatenate(read, axis=1)

    def _reading_in_parts(
        self, joint: Text, about: tuple[jax.Array, jax.Array], train: bool, widths: Sequence[int]
    ) -> jax.Array:
        """As `reading`; about: positions and targets [B,M]."""
        b, k, s = joint.tokens.shape

        def one(part: Text, about: tuple[jax.Array, jax.Array]) -> jax.Array:
            alone = jax.tree.map(lambda x: x[:, None], part)
            return self.reading(alone, *about, train)[:, 0]

        flat = jax.tree.map(lambda x: x.reshape(b * k, s), joint)
        each = jax.tree.map(lambda x: jnp.repeat(x, k, axis=0), about)
        return in_parts(one, flat, each, widths).reshape(b, k, -1)

    def reading(self, joint: Text, positions, targets, train: bool = False) -> jax.Array:
        """log p(y_m | z, x) of texts read together [B,K,S] at positions [B,M]: float32 [B,K,M]."""
        logits = self._read(joint, positions, train)  # [B,K,M,V]
        wanted = jnp.broadcast_to(targets[:, None, :, None], (*logits.shape[:-1], 1))
        chosen = jnp.take_along_axis(logits, wanted, axis=-1)[..., 0]  # [B,K,M]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    def _read(self, joint: Text, positions: jax.Array, train: bool) -> jax.Array:
        """[B,K,S], [B,M] -> [B,K,M,V]."""
        b, k, s = joint.tokens.shape
        flat = jax.tree.map(lambda x: x.reshape(b * k, s), joint)
        logits = self.reader(flat.tokens, flat.types, jnp.repeat(positions, k, axis=0), train)
        return logits.reshape(b, k, *logits.shape[1:])

    def __call__(
        self, batch: ClozeBatch, train: bool = False, widths: Sequence[int] = ()
    ) -> tuple[jax.Array, jax.Array]:
        """-> scores [B,K] and log p(y_m | z_k, x) [B,K,M], float32.

        widths: of the parts that candidates are taken in, sorted by length; they must fit (`parts.fits`).
        """
        likelihood = self.likelihood(batch, train, widths)
        return self.scores(batch, train, widths), likelihood


def _joints(batch: ClozeBatch) -> list[Text]:
    """What is read, in two parts: with the null passage, of no more than L+1 wordpieces, and the others."""
    null = batch.joint.at(slice(0, 1), batch.query.tokens.shape[-1] + 1)
    return [null, batch.joint.at(slice(1, None))] if batch.valid.shape[1] > 1 else [null]
